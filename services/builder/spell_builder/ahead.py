"""Environments built before they are asked for: a queued run should not wait for its packages too."""

from nats.aio.msg import Msg

from spell_builder.builder import Builder
from spell_proto import codec, logs
from spell_proto.commands import BuildEnvironment
from spell_proto.errors import CodecError

log = logs.get()


class Ahead:
    """Handles what the scheduler hints at. A hint that is lost, or whose build fails, costs nothing but time."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

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
                    if await self._builder.known(command.environment.digest()) is None:
                        # The run that is queued waits for it, although it has not asked yet.
                        self._builder.ensure(command.environment).hold()
                case _:
                    log.warning("a command that is not for the builder is dropped", kind=command.kind)
