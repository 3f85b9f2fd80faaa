"""The engine that chooses for each run: a container where the run needs an image, else this machine (shell)."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from spell_proto import logs
from spell_proto.engines import DOCKER, LOCAL, engine_for
from spell_proto.spec import AttemptSpec
from spell_proto.state import Reason
from spell_runner.directory import Directory
from spell_runner.engines.docker import AWAY, ISOLATION, RETRY_SECONDS_MAX, DockerEngine
from spell_runner.engines.local import LocalEngine
from spell_runner.engines.server import ShimServer
from spell_runner.engines.shimmed import Shimmed
from spell_runner.errors import AttemptError, AwayError, EngineError
from spell_runner.notes import Notes
from spell_runner.shim import launch
from spell_runner.shim.launch import Launch
from spell_runner.workspace import Abort

log = logs.get()

#: A daemon that hangs must not keep a machine from running what needs none.
START_SECONDS_MAX = 2.0
FIRST_PAUSE_SECONDS = 0.5


class AutoEngine(Shimmed):
    """See `spell_runner.engines.engine`. Docker may come and go; it is looked for all the time."""

    def __init__(
        self,
        local: LocalEngine,
        docker: DockerEngine,
        data: Path,
        server: ShimServer,
        *,
        grace_seconds: float,
    ) -> None:
        super().__init__(data, server, grace_seconds)
        self.isolation = local.isolation
        self._local = local
        self._docker = docker
        self._opened = False
        self._problem: str | None = None
        #: Whether it is known that Docker can be used here, or that it cannot; not while it is away.
        self._known = asyncio.Event()

    async def open(self) -> None:
        await super().open()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS_MAX):
                await self._look_for_docker()

    async def close(self) -> None:
        if self._opened:
            await self._docker.close()
        await super().close()

    async def watch(self) -> None:
        """Look for Docker until it is there: apart from the heartbeats, as a daemon may hang."""
        pause = FIRST_PAUSE_SECONDS
        while not self._opened:
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)
            await self._look_for_docker()
        await self._docker.watch()

    async def _look_for_docker(self) -> None:
        problem: str | None = None
        try:
            await self._docker.open()
        except AwayError as error:
            problem = str(error)
            self._known.clear()
        except EngineError as error:
            problem = str(error)
            self._known.set()
        else:
            self._opened = True
            self._known.set()
        if problem != self._problem and problem is not None:
            log.info("no docker on this machine", problem=problem)
        self._problem = problem

    async def able(self) -> tuple[str, ...]:
        if self._opened and await self._docker.able():
            return *await self._local.able(), DOCKER
        return await self._local.able()

    async def prepare(
        self,
        spec: AttemptSpec,
        directory: Directory,
        notes: Notes,
        abort: Abort,
        mounting: Callable[[], None],
    ) -> None:
        able = (*await self._local.able(), DOCKER)
        asked = spec.spec
        if engine_for(asked.environment, asked.docker_image, able, outside=asked.outside) == LOCAL:
            await self._local.prepare(spec, directory, notes, abort, mounting)
            return
        if not self._known.is_set():
            notes.line(AWAY)
            await self._known.wait()
        if not self._opened:
            raise AttemptError(Reason.BUILD_FAILED, f"this machine cannot run images: {self._problem}")
        await self._docker.prepare(spec, directory, notes, abort, mounting)

    def clear(self, directory: Directory) -> None:
        told = Launch.decode(Path(directory / launch.LAUNCH).read_bytes())
        engine = self._docker if told.isolation == ISOLATION else self._local
        engine.clear(directory)
