"""The engine that chooses for each run: a container where the run needs an image, else this machine (shell)."""

import asyncio
from pathlib import Path

from spell_proto import logs
from spell_proto.engines import DOCKER, LOCAL, engine_for
from spell_proto.spec import AttemptSpec
from spell_proto.state import Reason
from spell_runner.directory import Directory
from spell_runner.engines.docker import ISOLATION, DockerEngine
from spell_runner.engines.local import LocalEngine
from spell_runner.engines.server import ShimServer
from spell_runner.engines.shimmed import Shimmed
from spell_runner.errors import AttemptError, EngineError
from spell_runner.notes import Notes
from spell_runner.shim import launch
from spell_runner.shim.launch import Launch
from spell_runner.workspace import Abort

log = logs.get()


class AutoEngine(Shimmed):
    """See `spell_runner.engines.engine`. Docker may come and go; it is looked for when a run needs it."""

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
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        await super().open()
        problem = await self._open_docker()
        if problem is not None:
            log.info("no docker on this machine", problem=problem)

    async def close(self) -> None:
        if self._opened:
            await self._docker.close()
        await super().close()

    async def _open_docker(self) -> str | None:
        """Why there is no Docker; None where there is."""
        async with self._opening:
            if not self._opened:
                try:
                    await self._docker.open()
                except EngineError as error:
                    return str(error)
                self._opened = True
        return None

    async def able(self) -> tuple[str, ...]:
        if await self._docker.able() and await self._open_docker() is None:
            return *await self._local.able(), DOCKER
        return await self._local.able()

    async def prepare(self, spec: AttemptSpec, directory: Directory, notes: Notes, abort: Abort) -> None:
        able = (*await self._local.able(), DOCKER)
        if engine_for(spec.spec.environment, spec.spec.docker_image, able) == LOCAL:
            await self._local.prepare(spec, directory, notes, abort)
            return
        problem = await self._open_docker()
        if problem is not None:
            raise AttemptError(Reason.BUILD_FAILED, f"this machine cannot run images: {problem}")
        await self._docker.prepare(spec, directory, notes, abort)

    def clear(self, directory: Directory) -> None:
        told = Launch.decode(Path(directory / launch.LAUNCH).read_bytes())
        engine = self._docker if told.isolation == ISOLATION else self._local
        engine.clear(directory)
