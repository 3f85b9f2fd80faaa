"""The network of runs in containers, and the rules that go with it (shell)."""

import time
from typing import Any

import aiodocker
from aiodocker.exceptions import DockerError

from spell_proto import logs
from spell_runner.engines import firewall
from spell_runner.errors import EngineError

log = logs.get()

NETWORK = "spell-runs"
ICC = "com.docker.network.bridge.enable_icc"
_BRIDGE = "com.docker.network.bridge.name"
#: Whoever reloads the rules of a machine knows nothing of ours.
LOOK_AGAIN_SECONDS = 60.0


class Network:
    """One for the machine; `name` is empty until it was found. `rules` says how far runs are kept from it: `auto`, `strict` or `off`."""

    def __init__(self, rules: str) -> None:
        self._rules = rules
        self.name = ""
        self._bridge = ""
        self._looked_at = 0.0
        self._problem: str | None = None

    async def find(self, control: aiodocker.Docker) -> None:
        """One bridge for all runs, on which none can speak to another: one for each would double the start.

        Where the daemon's own bridge is like that (`icc: false`), it is taken: on one of ours, docker sets up a
        resolver for every container, which takes longer than everything that we do. Its rules are others' business,
        so strict ones need one of ours.

        Raises:
            EngineError: rules are a must, and cannot be set.
            DockerError, aiohttp.ClientError, OSError: the daemon does not answer.
        """
        if not self.name:
            own = await _own(control)
            if own.get(ICC) == "false" and self._rules != "strict":
                self.name = "bridge"
                self._tell("its bridge is that of other containers too")
            else:
                await _make(control)
                made = await _shown(control, NETWORK)
                self._bridge = (made.get("Options") or {}).get(_BRIDGE) or f"br-{made['Id'][:12]}"
                self.name = NETWORK
        if self._bridge and time.monotonic() - self._looked_at > LOOK_AGAIN_SECONDS:
            await self._shield()

    async def _shield(self) -> None:
        if self._rules == "off":
            return
        strict = self._rules == "strict"
        problem = await firewall.shield(self._bridge, host=strict)
        if problem is not None and strict:
            raise EngineError(
                f"runs cannot be kept from this machine as SPELL_RUN_FIREWALL=strict says: {problem}"
            )
        if problem is not None:
            self._tell(problem)
        self._looked_at = time.monotonic()

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


async def _make(control: aiodocker.Docker) -> None:
    try:
        await control.networks.create(
            {"Name": NETWORK, "CheckDuplicate": True, "Driver": "bridge", "Options": {ICC: "false"}}
        )
    except DockerError as error:
        # 409: it is there.
        if error.status != 409:
            raise
