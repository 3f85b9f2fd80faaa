"""The engine that runs commands on this machine, each under a shim that outlives the runner (shell)."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from spell_proto import apt, logs
from spell_proto.engines import LOCAL, LOCAL_APT, LOCAL_MOUNTS
from spell_proto.spec import AttemptSpec
from spell_proto.state import Reason
from spell_runner import editables
from spell_runner.directory import PUSHING, Directory
from spell_runner.disks import Disks
from spell_runner.editables import Made
from spell_runner.engines import copying
from spell_runner.engines.server import ShimServer
from spell_runner.engines.shimmed import Shimmed, choose_gpus
from spell_runner.environments import Environment, Environments
from spell_runner.errors import AttemptError
from spell_runner.isolation import Isolation
from spell_runner.mounts.layers import Mounted
from spell_runner.mounts.mounting import Mounting, raise_layers, with_mounts
from spell_runner.notes import Notes
from spell_runner.settings import Machine
from spell_runner.shim import launch, processes, system
from spell_runner.shim.launch import Launch
from spell_runner.trees import Code, Trees
from spell_runner.workspace import Abort

log = logs.get()

SPELL = "/spell"
SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
#: With the directory that Debian has games in, and not a few packages that are none.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games"


@dataclass(frozen=True, slots=True)
class Place:
    """Where things stand on this machine. `hidden` looks empty to a run."""

    data: Path
    hidden: tuple[str, ...]

    @property
    def empty(self) -> Path:
        return self.data / "empty"

    @property
    def root(self) -> Path:
        return self.data / "root"


class LocalEngine(Shimmed):
    """See `spell_runner.engines.engine`."""

    def __init__(
        self,
        machine: Machine,
        place: Place,
        isolation: Isolation,
        server: ShimServer,
        environments: Environments,
        trees: Trees,
        mounting: Mounting,
        *,
        grace_seconds: float,
        log_bytes_max: int,
        disks: Disks | None = None,
    ) -> None:
        super().__init__(place.data, server, grace_seconds, disks)
        self.isolation = isolation.name
        self._machine = machine
        self._place = place
        self._isolation = isolation
        self._environments = environments
        self._trees = trees
        self._mounting = mounting
        self._log_bytes_max = log_bytes_max
        self._apt = self._can_apt()
        self._shell = next(path for path in SHELLS if Path(path).exists())

    async def able(self) -> tuple[str, ...]:
        able = [LOCAL]
        if self._apt:
            able.append(LOCAL_APT)
        if self.isolation != "none":
            able.append(LOCAL_MOUNTS)
        return tuple(able)

    def _can_apt(self) -> bool:
        """Whether system packages can be put over this machine, as far as can be told without trying."""
        below = self._place.data.resolve().parts[1:2]
        programs = all(shutil.which(name) for name in ("apt-get", "bwrap"))
        return self.layered and programs and not set(below) & set(apt.DIRECTORIES)

    async def prepare(
        self,
        spec: AttemptSpec,
        directory: Directory,
        notes: Notes,
        abort: Abort,
        mounting: Callable[[], None],
    ) -> None:
        if spec.spec.docker_image is not None:
            raise AttemptError(
                Reason.BUILD_FAILED,
                "this machine runs commands without Docker, so not in an image (SPELL_ENGINE)",
            )
        environment = await self._environments.get(spec.run_id, spec.spec.environment, notes)
        self._check(environment)
        if environment.pushing:
            directory.write(PUSHING, environment.pushing.encode())
        code = None
        if spec.spec.code is not None:
            code = await self._trees.get(
                spec.owner_id,
                spec.spec.code,
                lambda: notes.line("Storage does not answer; waiting for it"),
            )
        mounted: tuple[Mounted, ...] = ()
        if spec.spec.mounts:
            mounting()
            lower = None if code is None else code.lower
            mounted = await self._mounting.fetch(spec, directory, lower, notes)
        await self._give_disk(directory, code, mounted, overlay=self._isolation.overlay)
        parts = [launch.TEMPORARY]
        if self._isolation.overlay:
            parts += [launch.UPPER, launch.WORK]
        if not self._isolation.overlay or self.isolation == "bubblewrap":
            parts.append(launch.WORKSPACE)
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory / part, 0o755)  # noqa: PTH102 -- plain strings, on the way to a start
        if not self._isolation.overlay:
            bare = self.isolation == "none"
            await asyncio.to_thread(copying.copy, code, directory, abort, repository=bare, mounted=mounted)
        elif mounted:
            shown = (*self._shown(environment), str(environment.path), directory / editables.DIRECTORY)
            await asyncio.to_thread(raise_layers, mounted, directory, shown=shown)
        projects = await self._projects(spec, directory, code, environment)
        # Nothing may come between: what is written is what makes them taken.
        mine = choose_gpus(self._machine, self._place.data / "attempts")
        told = self._launch(spec, directory, code, environment, mine)
        if mounted:
            told = with_mounts(told, mounted, directory)
        if projects is not None:
            shown = (*told.read_only, str(projects.directory)) if self.isolation != "none" else ()
            told = replace(told, env=told.env | projects.within(told.env), read_only=shown)
        self._write_launch(directory, told)

    async def _projects(
        self, spec: AttemptSpec, directory: Directory, code: Code | None, environment: Environment
    ) -> Made | None:
        """The projects of the code that its requirements name, if they do."""
        if code is None or not spec.spec.environment.editables:
            return None
        place, python = directory / editables.DIRECTORY, f"{self._seen(environment)}/bin/python"
        return await asyncio.to_thread(
            editables.make, spec, code.lower, Path(place), self._root(directory), python, str(place)
        )

    def _seen(self, environment: Environment) -> Path:
        """Where a run finds its environment."""
        return environment.source if self.isolation == "none" else environment.path

    def _root(self, directory: Directory) -> str:
        """Where a run finds its workspace."""
        return SPELL if self.isolation != "none" else directory / launch.WORKSPACE

    def _check(self, environment: Environment) -> None:
        """See that a copy can be shown to a run where its packages think that it is, unless they do not care."""
        if self.isolation == "none" and environment.source != environment.path and _is_conda(environment):
            raise AttemptError(
                Reason.BUILD_FAILED,
                f"conda packages work only where they were installed, in {environment.path} on another machine, and "
                "without namespaces this machine cannot show them there (install bubblewrap)",
            )

    def _launch(
        self,
        spec: AttemptSpec,
        directory: Directory,
        code: Code | None,
        environment: Environment,
        mine: tuple[str, ...],
    ) -> Launch:
        private = self.isolation != "none"
        source, path = str(environment.source), str(environment.path)
        root = self._root(directory)
        where = spec.spec.code
        cwd = root if where is None else os.path.normpath(f"{root}/{where.root_directory}/{where.cwd}")
        return Launch(
            argv=(self._shell, "-c", spec.spec.command),
            env=self._environ(spec, directory, environment, root) | self._shown_gpus(mine),
            isolation=self.isolation,
            overlay=self._isolation.overlay,
            lower=str(self._place.empty if code is None else code.lower),
            cwd=cwd,
            root=str(self._place.root),
            hidden=self._place.hidden if private else (),
            read_only=self._shown(environment) if private else (),
            log_bytes_max=self._log_bytes_max,
            bubblewrap=self._isolation.bubblewrap,
            repository="" if code is None else str(code.repository),
            objects="" if code is None else str(code.objects),
            gpus=mine,
            bound=() if source == path else ((source, path if private else source),),
            system=self._system(environment.source),
        )

    def _system(self, environment: Path) -> str:
        """The layer of system packages that goes with an environment; empty where none does."""
        layer = environment / system.LAYER
        if not layer.is_dir():
            if layer.is_symlink():
                raise AttemptError(
                    Reason.BUILD_FAILED, "its system packages were removed just now; run it again"
                )
            return ""
        if not self.layered:
            raise AttemptError(
                Reason.BUILD_FAILED,
                "system packages cannot be put over this machine: it has no bubblewrap, or mounts no overlays",
            )
        return str(layer.resolve())

    @property
    def layered(self) -> bool:
        """Whether system packages can be put over this machine for a run."""
        return self._isolation.overlay and self.isolation != "none"

    def _environ(
        self, spec: AttemptSpec, directory: Directory, environment: Environment, root: str
    ) -> dict[str, str]:
        seen = self._seen(environment)
        return {
            **self._machine.passed_on,
            "PATH": f"{seen}/bin:{_PATH}",
            "HOME": self._machine.home,
            "USER": self._machine.user,
            "LOGNAME": self._machine.user,
            "SHELL": self._shell,
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "TMPDIR": "/tmp" if self.isolation != "none" else directory / launch.TEMPORARY,  # noqa: S108 -- its own
            **_activated(environment, seen),
            "PYTHONUNBUFFERED": "1",
            "PYTHONNOUSERSITE": "1",
            # Not PYTHONPYCACHEPREFIX: that would also make Python blind to the byte code of the environment,
            # and every run would compile every library it imports.
            "PYTHONDONTWRITEBYTECODE": "1",
            **spec.spec.env,
            "SPELL_RUN": str(spec.run_id),
            "SPELL_WORKSPACE": root,
        }

    def _shown_gpus(self, mine: tuple[str, ...]) -> dict[str, str]:
        """On a machine with GPUs, those of the run alone are visible, and none to a run that has none."""
        named = ",".join(mine)
        return {"SPELL_GPUS": named} | ({"CUDA_VISIBLE_DEVICES": named} if self._machine.gpus else {})

    def _shown(self, environment: Environment) -> tuple[str, ...]:
        """The environment, what every run may read, and the interpreter where that is hidden too. A copy is bound
        elsewhere.
        """
        source = environment.source
        shown = [str(source)] if source == environment.path else []
        shown += self._machine.shown
        interpreter = Path(os.path.realpath(source / "bin/python")).parent.parent
        if interpreter == source:
            return tuple(shown)
        if any(str(interpreter).startswith(f"{path}/") for path in self._place.hidden):
            shown.append(str(interpreter))
        return tuple(dict.fromkeys(shown))

    def clear(self, directory: Directory) -> None:
        # In a namespace, everything died with the shim; elsewhere this is how its children are known.
        processes.kill_marked(os.fsencode(f"{directory.place}/"))


def _is_conda(environment: Environment) -> bool:
    return (environment.source / "conda-meta").is_dir()


def _activated(environment: Environment, seen: Path) -> dict[str, str]:
    """What activating an environment sets. One of conda packages is called `spell`, whatever its file says."""
    if _is_conda(environment):
        return {"CONDA_PREFIX": str(seen), "CONDA_DEFAULT_ENV": "spell"}
    return {"VIRTUAL_ENV": str(seen)}
