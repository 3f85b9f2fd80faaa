"""The engine that runs commands in containers of a Docker daemon, each under a shim that outlives the runner (shell)."""

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import aiodocker
from aiodocker.exceptions import DockerError

from spell_proto import logs
from spell_proto.docker import GONE, clients, refused
from spell_proto.engines import DOCKER
from spell_proto.http import Caller
from spell_proto.outside import CA_FILES
from spell_proto.registries import RegistryLogin, login_for
from spell_proto.spec import AttemptSpec
from spell_proto.state import Reason
from spell_runner import asking, editables
from spell_runner.directory import PUSHING, Directory
from spell_runner.disks import Disks, unseen_by
from spell_runner.editables import Made
from spell_runner.engines import hardening, laying, overlays
from spell_runner.engines.about import About, read
from spell_runner.engines.hardening import Bound, Limits, Wanted
from spell_runner.engines.images import Image, Images
from spell_runner.engines.network import Network
from spell_runner.engines.pulse import Pulse
from spell_runner.engines.server import ShimServer
from spell_runner.engines.shimmed import Shimmed, choose_gpus
from spell_runner.environments import Environments
from spell_runner.errors import AttemptError, AwayError, EngineError
from spell_runner.mounts.layers import Mounted
from spell_runner.mounts.mounting import Mounting, with_mounts
from spell_runner.notes import Notes
from spell_runner.settings import Machine
from spell_runner.shim import launch, processes
from spell_runner.shim.container import remove
from spell_runner.shim.daemon import Daemon
from spell_runner.shim.launch import Container, Launch
from spell_runner.trees import Code, Trees
from spell_runner.workspace import Abort

log = logs.get()
T = TypeVar("T")

RETRY_SECONDS_MAX = 5.0
ISOLATION = "docker"
#: Whom commands run as where the runner itself is the superuser, which no run may be.
RUN_UID = 10_000
#: Where a run finds its own projects.
_PROJECTS = "/run/spell/projects"
_SPELL, _TMP = laying.SPELL, "/tmp"  # noqa: S108 -- names inside a container
#: What the options of a mount cannot hold.
_UNMOUNTABLE = re.compile(r"[,:\\\s]")
#: What is raised by answers that are not those of Docker.
_ODD = (LookupError, TypeError, ValueError, AttributeError)
AWAY = "Docker does not answer; waiting for it"
_STORAGE_AWAY = "Storage does not answer; waiting for it"


def account() -> tuple[int, int]:
    """The user and the group of commands: ours, unless that is the superuser."""
    uid, gid = os.geteuid(), os.getegid()
    return (uid, gid) if uid else (RUN_UID, RUN_UID)


class DockerEngine(Shimmed):
    """See `spell_runner.engines.engine`. `socket` is the path of the daemon's. `storage` is asked what private registries
    are told. `floor` says what becomes of a daemon that is too old. `mounting` is asked once for what keeps resources that belong
    to whom commands run as.
    """

    isolation = ISOLATION

    def __init__(
        self,
        machine: Machine,
        data: Path,
        server: ShimServer,
        trees: Trees,
        limits: Limits,
        storage: Caller,
        environments: Environments,
        mounting: Callable[[tuple[int, int]], Mounting],
        *,
        socket: str,
        grace_seconds: float,
        log_bytes_max: int,
        disks: Disks | None = None,
        image_bytes_max: int = 0,
        floor: str = "warn",
        rules: str = "off",
    ) -> None:
        super().__init__(data, server, grace_seconds, disks)
        self._image_bytes_max = image_bytes_max
        self._floor = floor
        self._owner = account()
        self._machine = machine
        self._trees = trees
        self._limits = limits
        self._storage = storage
        self._socket = socket
        self._pulse = Pulse(socket)
        self._environments = environments
        self._mounting_of = mounting
        self._mounting: Mounting | None = None
        self._log_bytes_max = log_bytes_max
        self._stack = contextlib.AsyncExitStack()
        self._control: aiodocker.Docker | None = None
        self._images: Images | None = None
        self._network = Network(socket, rules)
        self._overlay: bool | None = None

    # ---- the daemon ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Raises `EngineError`: there is no daemon, or not one of this machine; `AwayError` where there may be in a while."""
        if _UNMOUNTABLE.search(str(self._data)):
            raise EngineError(f"the data directory {self._data} has a character that no mount can take")
        await super().open()
        both = await self._stack.enter_async_context(clients(self._socket))
        control = both.control
        try:
            about = read(await control.version(), await control.system.info())
            self._accept(about)
            await self._network.find(control)
            await self._remove_orphans(control)
            overlays.sweep(self._data)
        except BaseException as error:
            await self._stack.aclose()
            if isinstance(error, GONE):
                kind = AwayError if refused(error) is None else EngineError
                raise kind(f"the Docker daemon at {self._socket} does not answer: {error}") from error
            if isinstance(error, _ODD):
                raise EngineError(f"what is at {self._socket} does not answer as Docker does") from error
            raise
        self._mounting = self._mounting_of(self._owner)
        self._control, self._images = control, Images(control, both.streams, about, self._image_bytes_max)
        log.info("docker found", version=about.version, api=about.api, mapped=about.mapped)

    def _accept(self, about: About) -> None:
        """Raises `EngineError` where nothing must be run in containers of this daemon, or nothing can."""
        if about.outdated and self._floor != "off":
            problem = f"{'; '.join(about.outdated)}: programs can get out of containers by known holes"
            if self._floor == "refuse":
                raise EngineError(f"{problem} (SPELL_DOCKER_FLOOR)")
            log.warning("docker should be updated, unless the distribution has repaired it", problem=problem)
        uid, gid = account()
        if about.maps_users:
            if about.mapped is None or os.geteuid():
                raise EngineError(
                    "the Docker daemon maps users (userns-remap), so workspaces have to be given to those whom it maps "
                    "to, which only a runner of the superuser can do"
                )
            self._owner = about.mapped[0] + uid, about.mapped[1] + gid
        else:
            self._owner = uid, gid

    async def close(self) -> None:
        await super().close()
        await self._stack.aclose()

    async def _remove_orphans(self, control: aiodocker.Docker) -> None:
        """Containers of ours that nobody watches: their shims died, or the attempts are long over."""
        filters = {"label": [f"{hardening.MACHINE}={self._machine.id}"]}
        for found in await control.containers.list(all=True, filters=filters):
            labels = found["Labels"]
            name = f"{labels.get(hardening.RUN)}-{labels.get(hardening.ATTEMPT)}"
            claim = launch.read(self._data / "attempts" / name)
            if claim is None or not processes.alive(claim.pid, claim.ticks):
                log.info("container without a shim removed", attempt=name, state=found["State"])
                await found.delete(force=True, v=True)

    async def watch(self) -> None:
        assert self._control is not None
        await self._network.keep(self._control)

    async def able(self) -> tuple[str, ...]:
        return (DOCKER,) if await self._pulse.beats() else ()

    # ---- before ----------------------------------------------------------------------------------------------

    async def prepare(
        self,
        spec: AttemptSpec,
        directory: Directory,
        notes: Notes,
        abort: Abort,
        mounting: Callable[[], None],
    ) -> None:
        image = await self._image_of(spec, directory, notes)
        code = None
        if spec.spec.code is not None:
            code = await self._trees.get(
                spec.owner_id,
                spec.spec.code,
                lambda: notes.line(_STORAGE_AWAY),
            )
        overlay = await self._mounts(image, notes)
        mounted: tuple[Mounted, ...] = ()
        if spec.spec.mounts:
            assert self._mounting is not None
            mounting()
            lower = None if code is None else code.lower
            mounted = await self._mounting.fetch(spec, directory, lower, notes)
        if not overlay:
            notes.line("Docker cannot mount layers on this machine, so the code is copied for this run")
        unseen = unseen_by(self._socket) if self._disks.able else None
        await self._give_disk(directory, code, mounted, overlay=overlay, problem=unseen)
        cwd = await asyncio.to_thread(
            laying.lay_out, spec, directory, code, mounted, abort, overlay=overlay, owner=self._owner
        )
        projects = None
        if code is not None and spec.spec.environment.editables:
            place = Path(directory / editables.DIRECTORY)
            projects = await asyncio.to_thread(
                editables.make, spec, code.lower, place, _SPELL, "python", _PROJECTS
            )
        # Nothing may come between here and the writing: what is written is what makes them taken.
        mine = choose_gpus(self._machine, self._data / "attempts")
        plain = Launch(
            argv=(image.shell, "-c", spec.spec.command),
            env={},
            isolation=ISOLATION,
            overlay=overlay,
            lower=str(self._lower(code)),
            cwd=cwd,
            root="",
            hidden=(),
            read_only=(),
            log_bytes_max=self._log_bytes_max,
            repository="" if code is None else str(code.repository),
            objects="" if code is None else str(code.objects),
            gpus=mine,
        )
        told = with_mounts(plain, mounted, directory)
        container = self._container(spec, directory, image, code, told, projects)
        self._write_launch(directory, replace(told, container=container))

    async def _image_of(self, spec: AttemptSpec, directory: Directory, notes: Notes) -> Image:
        """The image that a run names, or that its environment is.

        Raises:
            AttemptError: it cannot be had.
        """
        if spec.spec.docker_image is not None:
            return await self._image(spec.spec.docker_image, spec.run_id, notes)
        environment = await self._environments.image(spec.run_id, spec.spec.environment, notes)
        if environment.pushing:
            directory.write(PUSHING, environment.pushing.encode())
        if await self._is_here(environment.id, notes):
            return await self._image(environment.id, spec.run_id, notes)
        reference = await self._environments.pushed(environment, spec.run_id, notes)
        try:
            return await self._image(reference, spec.run_id, notes)
        except AttemptError as error:
            notes.line(f"{error}; asking for it again", level="error")
            reference = await self._environments.pushed(environment, spec.run_id, notes, reference)
            return await self._image(reference, spec.run_id, notes)

    async def _is_here(self, image_id: str, notes: Notes) -> bool:
        """Whether our daemon is the builder's, or has the image all the same."""
        images = self._images
        assert images is not None
        return await _answered(lambda: images.has(image_id), notes)

    async def _image(self, name: str, run_id: int, notes: Notes) -> Image:
        """Waits for as long as the daemon is away."""
        assert self._control is not None
        assert self._images is not None

        async def login(registry: str) -> RegistryLogin | None:
            async def ask() -> RegistryLogin | None:
                return await login_for(self._storage, registry)

            return await asking.until_answered(ask, notes, run_id, "storage", _STORAGE_AWAY)

        control, images = self._control, self._images

        async def get() -> Image:
            try:
                await self._network.find(control)
                return await images.get(name, notes.line, login)
            except EngineError as error:
                raise AttemptError(Reason.START_FAILED, str(error)) from error
            except DockerError as error:
                if not 400 <= error.status < 500:
                    raise
                said = f"the image {name} cannot be used: {error.message}"
                raise AttemptError(Reason.BUILD_FAILED, said) from error

        return await _answered(get, notes)

    def _lower(self, code: Code | None) -> Path:
        return self._data / "empty" if code is None else code.lower

    async def _mounts(self, image: Image, notes: Notes) -> bool:
        """Whether the daemon can mount layers; where that is not plain, it is tried once."""
        assert self._control is not None
        if self._overlay is None:
            control, machine = self._control, self._machine.id
            self._overlay = await _answered(
                lambda: overlays.work(control, image, self._data, machine, self._limits), notes
            )
            return self._overlay is not False
        return self._overlay

    def _container(
        self,
        spec: AttemptSpec,
        directory: Directory,
        image: Image,
        code: Code | None,
        told: Launch,
        projects: Made | None,
    ) -> Container:
        bound = [Bound(directory / launch.TEMPORARY, _TMP, read_only=False)]
        if code is not None:
            bound.append(Bound(str(code.repository), f"{_SPELL}/.git"))
            bound.append(Bound(str(code.objects), f"{_SPELL}/.git/objects"))
        passed_on, files = _within(self._machine.passed_on)
        bound += files
        environ = _environ(passed_on, spec, image.shell) | {"SPELL_GPUS": ",".join(told.gpus)}
        if projects is not None:
            bound.append(Bound(str(projects.directory), projects.seen_at))
            environ |= projects.within({"PATH": image.search, **environ})
        uid, gid = account()
        workspace, layers, copies = hardening.places(told, directory.base, directory.place)
        wanted = Wanted(
            image=image.id,
            argv=(image.shell, "-c", spec.spec.command),
            env=environ,
            user=f"{uid}:{gid}",
            cwd=told.cwd,
            labels={
                hardening.MANAGED: "run",
                hardening.MACHINE: self._machine.id,
                hardening.RUN: str(spec.run_id),
                hardening.ATTEMPT: str(spec.attempt),
                hardening.FENCE: str(spec.fence),
            },
            network=self._network.name,
            workspace=workspace,
            bound=(*bound, *copies),
            gpus=told.gpus,
            layers=layers,
        )
        body = hardening.container(wanted, self._limits)
        return Container(self._socket, container_name(self._machine.id, spec), body, image.pinned)

    # ---- after -----------------------------------------------------------------------------------------------

    def clear(self, directory: Directory) -> None:
        told = Launch.decode(Path(directory / launch.LAUNCH).read_bytes())
        if told.container is not None:
            remove(Daemon(told.container.daemon), told.container.name)


async def _answered(ask: Callable[[], Awaitable[T]], notes: Notes) -> T:
    """What a daemon answers; waits for as long as it is away."""
    pause, said = 0.1, False
    while True:
        try:
            return await ask()
        except GONE as error:
            log.info("docker does not answer", problem=repr(error))
            if not said:
                said = True
                notes.line(AWAY)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)


def container_name(machine_id: str, spec: AttemptSpec) -> str:
    """What the container of an attempt is called. Several machines may share a daemon, as in tests."""
    return f"run-{spec.run_id}-a{spec.attempt}-{machine_id}"


def _within(passed_on: Mapping[str, str]) -> tuple[dict[str, str], list[Bound]]:
    """Variables of the machine as they are true in a container, and the files that they name. Each file is bound once."""
    found, targets = dict(passed_on), dict[str, str]()
    for name in CA_FILES:
        path = os.path.realpath(found.pop(name, ""))
        if name in passed_on and Path(path).is_file():
            found[name] = targets.setdefault(path, f"/run/spell/{name.lower()}.pem")
    found.pop("SSL_CERT_DIR", None)
    return found, [Bound(path, target) for path, target in targets.items()]


def _environ(passed_on: dict[str, str], spec: AttemptSpec, shell: str) -> dict[str, str]:
    return {
        **passed_on,
        "HOME": _TMP,
        "USER": "spell",
        "LOGNAME": "spell",
        "SHELL": shell,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": _TMP,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **spec.spec.env,
        "SPELL_RUN": str(spec.run_id),
        "SPELL_WORKSPACE": _SPELL,
    }
