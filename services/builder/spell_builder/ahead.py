"""Environments built before they are asked for: a queued run should not wait for its packages too."""

import asyncio
import contextlib
from collections.abc import Mapping

import asyncpg
from nats.aio.msg import Msg

from spell_builder.builder import Builder
from spell_builder.errors import BuildFailedError
from spell_builder.flight import Flight, GivenUpError
from spell_builder.inventory import Inventory
from spell_proto import codec, logs
from spell_proto.commands import BuildEnvironment
from spell_proto.engines import Engine
from spell_proto.errors import CodecError

log = logs.get()


class Ahead:
    """Handles what the scheduler hints at. A hint that is lost, or whose build fails, costs nothing but time."""

    def __init__(
        self, builders: Mapping[Engine, Builder], inventory: Inventory, tasks: asyncio.TaskGroup
    ) -> None:
        self._builders = builders
        self._tasks = tasks
        self._inventory = inventory

    async def handle(self, batch: list[Msg]) -> None:
        """Start a build for each environment that is not there. The lines are kept for whoever joins."""
        for message in batch:
            try:
                command = codec.decode(codec.COMMAND, message.data)
            except CodecError as error:
                log.warning("a command that cannot be read is dropped", problem=str(error))
                continue
            match command:
                case BuildEnvironment():
                    await self._handle(command)
                case _:
                    log.warning("a command that is not for the builder is dropped", kind=command.kind)

    async def _handle(self, command: BuildEnvironment) -> None:
        builder, plain = self._builders[command.engine], command.environment.digest()
        with contextlib.suppress(GivenUpError):
            ready = None if command.environment.latest else await builder.known(plain)
            if ready is not None:
                await self._inventory.used(command.run_id, ready.key, builder.digest(plain), reused=True)
                return
        # The run that is queued waits for it, although it has not asked yet.
        flight = builder.ensure(command.environment)
        flight.hold()
        self._tasks.create_task(self._kept(command, builder.digest(plain), flight))

    async def _kept(self, command: BuildEnvironment, digest: str, flight: Flight) -> None:
        """What was built for a run that waits is not removed before it comes."""
        with contextlib.suppress(
            BuildFailedError, GivenUpError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError
        ):
            ready = await flight.landed()
            await self._inventory.used(command.run_id, ready.key, digest, reused=ready.cached)
