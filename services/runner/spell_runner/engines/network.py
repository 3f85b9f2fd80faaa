"""The network of runs in containers, and the rules that go with it (shell)."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiodocker
from aiodocker.exceptions import DockerError

from spell_proto import logs
from spell_proto.docker import GONE
from spell_runner.engines import firewall
from spell_runner.errors import EngineError
from spell_runner.shim import network

log = logs.get()

#: Whoever reloads the rules of a machine knows nothing of ours.
LOOK_AGAIN_SECONDS = 60.0


class Network:
    """One for the machine; `name` is empty until it was found, `bridge` where the rules are not ours. `socket` is the path of the daemon's. `rules` says how far
    runs are kept from the machine: `auto`, `strict` or `off`. `clock` may begin anywhere.
    """

    def __init__(self, socket: str, rules: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._socket = socket
        self._rules = rules
        self._clock = clock
        self.name = ""
        self.bridge = ""
        self._looked_at = float("-inf")
        self._problem: str | None = None
        self._turn = asyncio.Lock()

    async def find(self, control: aiodocker.Docker) -> None:
        """One bridge for all runs, on which none can speak to another: one for each would double the start.

        Where the daemon's own bridge is like that (`icc: false`), it is taken: on one of ours, docker sets up a
        resolver for every container, which takes longer than everything that we do. Its rules are others' business,
        so strict ones need one of ours.

        Raises:
            EngineError: rules are a must, and cannot be set.
            DockerError, aiohttp.ClientError, OSError: the daemon does not answer.
        """
        async with self._turn:
            if not self.name:
                await self._find(control)
            if self.bridge and self._clock() - self._looked_at > LOOK_AGAIN_SECONDS:
                await self._shield()

    async def keep(self, control: aiodocker.Docker) -> None:
        """See to it that the network and its rules stay there; never returns."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            try:
                await self.look_again(control)
            except (EngineError, *GONE) as error:
                log.warning("the network of runs cannot be looked after", problem=str(error) or repr(error))

    async def look_again(self, control: aiodocker.Docker) -> None:
        """As `find`, whatever was found before."""
        async with self._turn:
            self._looked_at = float("-inf")
            await self._find(control)
            if self.bridge:
                await self._shield()

    async def _find(self, control: aiodocker.Docker) -> None:
        own = await _own(control)
        if own.get(network.ICC) == "false" and self._rules != "strict":
            self.name, self.bridge = "bridge", ""
            self._tell("its bridge is that of other containers too")
            return
        await _make(control, network.definition(self._socket))
        made = await _shown(control, network.NAME)
        self.bridge = (made.get("Options") or {}).get(network.BRIDGE) or f"br-{made['Id'][:12]}"
        self.name = network.NAME

    async def _shield(self) -> None:
        if self._rules == "off":
            return
        strict = self._rules == "strict"
        problem = await firewall.shield(self.bridge, host=strict)
        if problem is not None and strict:
            raise EngineError(
                f"runs cannot be kept from this machine as SPELL_RUN_FIREWALL=strict says: {problem}"
            )
        if problem is not None:
            self._tell(problem)
        self._looked_at = self._clock()

    def _tell(self, problem: str) -> None:
        if problem != self._problem and self._rules != "off":
            self._problem = problem
            log.warning(
                "runs in Docker reach what a cloud tells its machines (169.254.169.254), unless other rules refuse it",
                problem=problem,
            )


async def _own(control: aiodocker.Docker) -> dict[str, Any]:
    """The options of the daemon's own bridge; none where it has no such bridge."""
    try:
        return (await _shown(control, "bridge")).get("Options") or {}
    except DockerError as error:
        if error.status == 404:
            return {}
        raise


async def _shown(control: aiodocker.Docker, name: str) -> dict[str, Any]:
    return dict(await (await control.networks.get(name)).show())


async def _make(control: aiodocker.Docker, definition: dict[str, Any]) -> None:
    try:
        await control.networks.create(definition)
    except DockerError as error:
        # 409: it is there.
        if error.status != 409:
            raise
