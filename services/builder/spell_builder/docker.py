"""The Docker daemon as builds use it: work is done in a container that is gone afterwards, or becomes an image (shell)."""

import asyncio
import contextlib
import io
import os
import tarfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from spell_builder.commands import Done, Say
from spell_builder.errors import BuildFailedError
from spell_builder.flight import GivenUpError
from spell_builder.lines import Lines
from spell_proto import logs
from spell_proto.docker import GONE, MANAGED, Clients, refused
from spell_proto.pulling import AskLogin, PullError, pull

log = logs.get()
T = TypeVar("T")

BUILDER, PROCESS = "com.spellrun.builder", "com.spellrun.process"
BUILD = "build"
#: Where work finds what it needs. None of it becomes part of an image.
ROOM = "/run/spell"
WORK, CACHE, TOOLS = f"{ROOM}/work", f"{ROOM}/cache", f"{ROOM}/tools"
SCRIPT = "script"
#: What builds share: downloaded packages that are never built there, and the lists of apt.
PACKAGES, LISTS = "packages", "lists"
#: The networks of builds.
HOST, RUNS = "host", "runs"
NETWORK_OF_RUNS = "spell-runs"
LOOK_SECONDS = 10.0
_OUT_BYTES_MAX = 64 * 1024 * 1024
_ERRORS_BYTES_KEPT = 256 * 1024
_PIDS = 4096
#: What installing packages needs of root's powers: to own files, and to become the users of services.
_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done in a container of an image, by a script for its shell. `files` lie in `WORK`, `tools` are files
    of this machine in `TOOLS`; `binds` are directories of it that are there under their own names, to be read.
    `cache` names what it shares with all other builds in `CACHE`: whatever may run what a package brings shares nothing,
    because it is root there.
    """

    image: str
    script: str
    seconds: float
    files: Mapping[str, bytes] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[str, ...] = ()
    cache: str = ""


class Docker:
    """One for a builder. `builder` names all that it makes; `process` what this very process makes. `ask_login` knows what
    registries of base images are told. `network` is that of builds: HOST or RUNS.
    """

    def __init__(
        self,
        clients: Clients,
        socket: str,
        builder: str,
        process: str,
        ask_login: AskLogin,
        network: str = HOST,
    ) -> None:
        self._clients = clients
        self.socket = socket
        self.builder = builder
        self.process = process
        self._ask_login = ask_login
        self._wanted = network
        self._mode = ""
        self._memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4

    @property
    def labels(self) -> dict[str, str]:
        """What everything has that this process makes."""
        return {BUILDER: self.builder, PROCESS: self.process}

    async def problem(self) -> str | None:
        """Why there is no daemon; None where it answers."""
        try:
            await self._clients.control.version()
        except GONE as error:
            return f"no Docker daemon answers at {self.socket} ({type(error).__name__})"
        return None

    # ---- images ----------------------------------------------------------------------------------------------

    async def image(self, name: str) -> dict[str, Any] | None:
        """What the daemon knows of an image; None where it has none of that name."""
        try:
            return await self.answered(self._clients.control.images.inspect(name))
        except DockerError as error:
            if error.status == 404:
                return None
            raise

    async def pulled(self, name: str, say: Say) -> dict[str, Any]:
        """An image, pulled where it is not here.

        Raises:
            BuildFailedError: it cannot be had.
        """
        found = await self.image(name)
        if found is not None:
            return found
        say(f"Pulling the image {name}", False)
        try:
            await pull(self._clients.streams, name, self._ask_login)
        except PullError as error:
            raise BuildFailedError(f"the base image {name} cannot be had: {error}") from error
        found = await self.image(name)
        if found is None:
            raise BuildFailedError(f"the base image {name} is gone again right after it was pulled")
        return found

    def push(self, repository: str, tag: str, login: dict[str, str] | None) -> AsyncIterator[dict[str, Any]]:
        """Send an image to its registry; what the daemon says meanwhile."""
        said: AsyncIterator[dict[str, Any]] = self._clients.streams.images.push(
            repository, tag=tag, auth=login, stream=True
        )
        return said

    def pull(self, name: str, login: dict[str, str] | None) -> AsyncIterator[dict[str, Any]]:
        """Have an image from its registry; what the daemon says meanwhile."""
        said: AsyncIterator[dict[str, Any]] = self._clients.streams.images.pull(name, auth=login, stream=True)
        return said

    async def tagged(self, label: str) -> list[dict[str, Any]]:
        """All images with a label."""
        listing = self._clients.control.images.list(filters={"label": [label]})
        found: list[dict[str, Any]] = await self.answered(listing)
        return found

    async def tag(self, image: str, repository: str, tag: str) -> None:
        await self.answered(self._clients.control.images.tag(image, repository, tag=tag))

    async def untag(self, name: str) -> bool:
        """Take a name away, and the image with it where it has no other and nothing stands on it. False: there was none."""
        try:
            await self.answered(self._clients.streams.images.delete(name))
        except DockerError as error:
            if error.status not in {404, 409}:
                raise
            return error.status == 409
        return True

    # ---- containers ------------------------------------------------------------------------------------------

    async def run(self, work: Work, say: Say) -> Done:
        """Do work whose result is what it writes. `say` hears its stderr."""
        async with self.container(work) as container:
            return await self.done(container, work.seconds, say)

    @asynccontextmanager
    async def container(self, work: Work) -> AsyncIterator[DockerContainer]:
        """A container that is ready to do work. It is gone afterwards, whatever happens."""
        name = f"spell-build-{uuid.uuid4().hex}"
        try:
            body = self._body(work, await self.answered(self._network()))
            container = await self.answered(self._clients.control.containers.create(body, name=name))
            await self.put(container, ROOM, _archive({SCRIPT: work.script.encode(), **work.files}))
            yield container
        finally:
            # By its name, because it may be there although the answer never came.
            await to_its_end(lambda: self._remove(name))

    async def _remove(self, name: str) -> None:
        with contextlib.suppress(*GONE):
            container = self._clients.streams.containers.container(name)
            async with asyncio.timeout(60.0):
                await container.delete(force=True, v=True)

    async def _network(self) -> str:
        """That of the machine, so that builds reach what it reaches; a daemon that maps users does not give it away. Or
        that of runs, which is kept from the machine: their runner has made it.
        """
        if self._wanted == RUNS:
            return await self._network_of_runs()
        if not self._mode:
            about = await self._clients.control.system.info()
            mapped = any("name=userns" in option for option in about.get("SecurityOptions") or ())
            self._mode = "bridge" if mapped else "host"
        return self._mode

    async def _network_of_runs(self) -> str:
        networks = self._clients.control.networks
        try:
            await (await networks.get(NETWORK_OF_RUNS)).show()
        except DockerError as error:
            if error.status != 404:
                raise
            options = (await (await networks.get("bridge")).show()).get("Options") or {}
            if options.get("com.docker.network.bridge.enable_icc") == "false":
                return "bridge"
            raise BuildFailedError(
                f"SPELL_BUILD_NETWORK=runs: there is no network {NETWORK_OF_RUNS} on the Docker daemon at {self.socket}; "
                "a runner makes it when it starts there"
            ) from error
        return NETWORK_OF_RUNS

    def volume(self, cache: str) -> str:
        """What the daemon calls that which builds share."""
        return f"spell-build-{self.builder}-{cache}"

    def _body(self, work: Work, network: str) -> dict[str, Any]:
        binds = [
            {"Type": "bind", "Source": source, "Target": f"{TOOLS}/{name}", "ReadOnly": True}
            for name, source in work.tools.items()
        ]
        cache: dict[str, Any] = {"Type": "volume", "Target": CACHE}
        if work.cache:
            labels = {MANAGED: BUILD, BUILDER: self.builder}
            cache |= {"Source": self.volume(work.cache), "VolumeOptions": {"Labels": labels}}
        binds += [{"Type": "bind", "Source": path, "Target": path, "ReadOnly": True} for path in work.binds]
        return {
            "Image": work.image,
            # The image's own is not wanted, whatever it is. What stands here is told in the history of what is made.
            "Entrypoint": [],
            "Cmd": ["/bin/sh", f"{WORK}/{SCRIPT}"],
            "User": "0:0",
            "Labels": {MANAGED: BUILD, **self.labels},
            "Healthcheck": {"Test": ["NONE"]},
            "AttachStdout": True,
            "AttachStderr": True,
            "OpenStdin": False,
            "Tty": False,
            "HostConfig": {
                "NetworkMode": network,
                "Privileged": False,
                "CapDrop": ["ALL"],
                "CapAdd": list(_CAPABILITIES),
                "SecurityOpt": ["no-new-privileges"],
                "Memory": self._memory,
                "MemorySwap": self._memory,
                "PidsLimit": _PIDS,
                "OomScoreAdj": 500,
                "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
                "LogConfig": {"Type": "none", "Config": {}},
                "RestartPolicy": {"Name": "no"},
                "Init": True,
                "Mounts": [
                    {"Type": "volume", "Target": ROOM},
                    cache,
                    *binds,
                ],
            },
        }

    async def put(self, container: DockerContainer, path: str, archive: Any) -> None:
        """Unpack a tar archive in a container."""
        ours = self._clients.streams.containers.container(container.id)
        putting: Awaitable[Any] = ours.put_archive(path, archive)  # type: ignore[no-untyped-call]  # aiodocker has no types for it
        await self.answered(putting)

    async def done(self, container: DockerContainer, seconds: float, say: Say) -> Done:
        """Start a container and follow it to its end.

        Raises:
            TimeoutError: it takes longer than `seconds`.
            DockerError: the daemon refused.
            GivenUpError: the daemon broke off.
        """
        out, errors = bytearray(), bytearray()
        lines = Lines(say)
        limit = asyncio.timeout(seconds)
        try:
            async with limit, self._attached(container) as stream:
                await container.start()
                while (message := await self._next(container, stream)) is not None:
                    if message.stream == 1:
                        out += message.data[: max(0, _OUT_BYTES_MAX - len(out))]
                    else:
                        errors = (errors + message.data)[-_ERRORS_BYTES_KEPT:]
                        lines.feed(message.data)
                lines.end()
                state = await self._ended(container)
        except GONE as error:
            # The clients have limits too: a daemon that does not answer is no build that takes too long.
            if refused(error) is not None or (isinstance(error, TimeoutError) and limit.expired()):
                raise
            raise _broke_off(error) from error
        return Done(int(state["ExitCode"]), out.decode(errors="replace"), errors.decode(errors="replace"))

    @asynccontextmanager
    async def _attached(self, container: DockerContainer) -> AsyncIterator[Any]:
        ours = self._clients.streams.containers.container(container.id)
        async with ours.attach(stdout=True, stderr=True) as stream:
            yield stream

    async def _next(self, container: DockerContainer, stream: Any) -> Any:
        """What it writes next; None at its end, which a stream does not always tell."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    return await stream.read_out()
            except TimeoutError:
                if not (await container.show())["State"]["Running"]:
                    return None

    async def _ended(self, container: DockerContainer) -> dict[str, Any]:
        """How it ended: the end of its output comes a moment before."""
        deadline = asyncio.get_running_loop().time() + LOOK_SECONDS
        while True:
            state: dict[str, Any] = (await container.show())["State"]
            if not state["Running"]:
                return state
            if asyncio.get_running_loop().time() > deadline:
                raise GivenUpError("the Docker daemon broke off the output of a build")
            await asyncio.sleep(0.01)

    async def commit(self, container: DockerContainer, config: dict[str, Any]) -> str:
        """Make an image without a name of what a container has become; its id."""
        ours = self._clients.streams.containers.container(container.id)
        made = await self.answered(ours.commit(config=config))
        return str(made["Id"])

    async def trim(self, bytes_max: int) -> None:
        """Remove what builds share where it has become too large: all is had again. What a build uses stays."""
        with contextlib.suppress(*GONE):
            about = await self._clients.streams._query_json("system/df")  # noqa: SLF001 -- it has no other
            ours = {self.volume(cache) for cache in (PACKAGES, LISTS)}
            for volume in about.get("Volumes") or ():
                size = (volume.get("UsageData") or {}).get("Size") or 0
                if volume["Name"] in ours and size > bytes_max:
                    log.info("removing downloads of builds", volume=volume["Name"], bytes=size)
                    found = await self._clients.control.volumes.get(volume["Name"])  # type: ignore[no-untyped-call]
                    await found.delete()

    async def clean(self, alive: Callable[[str], bool]) -> None:
        """Remove what builds of processes left that are not alive any more."""
        mine = f"{BUILDER}={self.builder}"
        with contextlib.suppress(*GONE):
            for found in await self._clients.control.containers.list(
                all=True, filters={"label": [mine, f"{MANAGED}={BUILD}"]}
            ):
                if not alive(str(found["Labels"].get(PROCESS))):
                    log.info("removing the container of an interrupted build", container=found["Names"])
                    await found.delete(force=True, v=True)
            filters = {"label": [mine], "dangling": ["true"]}
            for image in await self._clients.control.images.list(filters=filters):
                if not alive(str(image["Labels"].get(PROCESS))):
                    log.info("removing the image of an interrupted build", image=image["Id"])
                    await self.untag(image["Id"])

    async def answered(self, question: Awaitable[T]) -> T:
        """The answer of the daemon.

        Raises:
            DockerError: it refused.
            GivenUpError: it is away.
        """
        try:
            return await question
        except GONE as error:
            if refused(error) is not None:
                raise
            raise _broke_off(error) from error


def _broke_off(error: BaseException) -> GivenUpError:
    return GivenUpError(f"the Docker daemon does not answer: {error!r}")


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Files of `WORK`, as a tar archive to be unpacked in `ROOM`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"work/{name}")
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def to_its_end(work: Callable[[], Awaitable[T]]) -> T:
    """Await something to its end, also while the task that asked for it is cancelled."""
    task = asyncio.ensure_future(work())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
