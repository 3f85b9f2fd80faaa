"""System packages for runs of this machine: apt in an overlay over its own files, which stay as they are (shell)."""

import asyncio
import contextlib
import functools
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from spell_builder import apt, commands, complaints, overlays
from spell_builder.commands import Done, Say
from spell_builder.directories import remove
from spell_builder.errors import BuildFailedError
from spell_builder.keys import MACHINE
from spell_builder.overlays import LAYER, Entry, Machine
from spell_builder.patience import patiently
from spell_proto import logs
from spell_proto.apt import parse

log = logs.get()

RESOLVE_SECONDS_MAX = 900.0
INSTALL_SECONDS_MAX = 3600.0
PROBE_SECONDS_MAX = 20.0
#: How long the lists of what the index has count as those of now.
FRESH_MINUTES = 60
#: After a machine could not do it, it is looked at again.
LOOK_AGAIN_SECONDS = 60.0
DPKG = Path("/var/lib/dpkg")
#: What packages find on the machine, and build upon: with another content they would make another layer.
_FOUND = (Path("/etc/os-release"), DPKG / "status", Path("/etc/passwd"), Path("/etc/group"))
_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
#: No service is started while packages are installed.
_POLICY = "usr/sbin/policy-rc.d"
#: What apt leaves behind that no run needs.
_LEFT = (*overlays.SCRATCH, "var/lib/apt/lists", "var/cache/man", _POLICY)
#: Files of the machine that packages may write to in place. One who is not root has to have copies.
_WRITTEN = ("etc", "var/lib/dpkg", "var/lib/dpkg/triggers", "var/lib/dpkg/alternatives", "var/cache/debconf")
_NOT_ENTERED = frozenset(f"/{place}" for place in overlays.SCRATCH)
#: What apt needs to say what it would do.
_LOOKED_INTO = ("var/lib/apt", "var/lib/dpkg")
_FAILED = re.compile(
    r"^dpkg: error processing (?:package|archive) (?P<name>\S+).*:\n (?P<reason>.*)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class _Room:
    """A place for overlays: `upper` is what is changed, with `work` and `mounted` for each part."""

    path: Path

    def make(self, machine: Machine, layer: Path | None = None) -> None:
        """`layer` becomes `upper`."""
        for place in (*machine.parts, *machine.places):
            for kind in ("work", "mounted"):
                (self.path / kind / place).mkdir(parents=True, exist_ok=True)
            (layer or self.path / "upper").joinpath(place).mkdir(parents=True, exist_ok=True)
        for place in ("var/cache/apt/archives/partial", "var/log/apt", *overlays.SCRATCH):
            (self.path / "scratch" / place).mkdir(parents=True, exist_ok=True)
        if layer is not None:
            (self.path / "upper").symlink_to(layer)


class System:
    """What apt can do for runs on this machine. It gets to see `environ`, and trusts the certificates in a file."""

    def __init__(
        self, data: Path, environ: Mapping[str, str], trusted: str = "", process: str = "builder"
    ) -> None:
        """`process` is ours among those that share the data."""
        self._data = data
        self._process = process
        self._environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        self._told = dict(environ)
        self._trusted = trusted
        self._machine: Machine | None = None
        self._problem: str | None = None
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()
        self._known: tuple[list[tuple[int, ...]], str] | None = None

    # ---- the machine -----------------------------------------------------------------------------------------

    async def problem(self) -> str | None:
        """Why packages cannot be put over this machine; None where they can."""
        async with self._looking:
            fresh = self._looked_at is not None and time.monotonic() - self._looked_at < LOOK_AGAIN_SECONDS
            if self._machine is None and not fresh:
                self._problem = await self._look()
                self._looked_at = time.monotonic()
        return self._problem

    async def _look(self) -> str | None:
        bubblewrap = shutil.which("bwrap")
        missing = [name for name in ("apt-get", "dpkg", "unshare", "mount") if shutil.which(name) is None]
        if missing or not (DPKG / "status").exists():
            return f"this machine has no {missing[0] if missing else 'packages of Debian'}"
        if bubblewrap is None:
            return "bubblewrap is not installed on this machine"
        entries = tuple(_entries())
        parts = overlays.parts_of(entries)
        below = overlays.stands_below(parts, str(self._data.resolve()))
        if below is not None:
            return f"the data of the server is below {below}, over which they would be put"
        mounts = overlays.mounts_below(parts, Path("/proc/self/mountinfo").read_text())
        # What another user has mounted in a directory of his own is nothing that a run of ours could see.
        reached = tuple(path for path in mounts if _reached(path))
        problem = "no overlay can be mounted on this machine"
        for namespace in _namespaces():
            places = parts if namespace[1] != "--user" else tuple(_places(parts, mounts))
            machine = Machine(entries, parts, places, reached, bubblewrap, namespace)
            found = await self._probe(machine)
            if found is None:
                self._machine = machine
                return None
            log.info("packages cannot be put over this machine", namespace=namespace[1], problem=found)
        return problem

    async def _probe(self, machine: Machine) -> str | None:
        async with self._room(machine) as room:
            words = overlays.changing(machine, str(room.path))
            try:
                done = await self._run(words, "echo x > /usr/spell-probe", PROBE_SECONDS_MAX, commands.unsaid)
            except TimeoutError:
                return "it did not come to an end"
            if done.code or not (room.path / "upper/usr/spell-probe").exists():
                return done.errors.strip()[-300:] or "what was written did not arrive"
        return None

    @asynccontextmanager
    async def _room(self, machine: Machine) -> AsyncIterator[_Room]:
        room = _Room(self._data / "system" / self._process / uuid.uuid4().hex[:12])
        room.make(machine)
        try:
            yield room
        finally:
            await asyncio.to_thread(remove, room.path)

    def clean(self, alive: Callable[[str], bool]) -> None:
        """Remove what processes left that are not alive any more."""
        for left in (self._data / "system").glob("*"):
            if not alive(left.name):
                remove(left)

    def base(self) -> str:
        """What the machine is, as far as a layer over it depends on it."""
        shapes = [path.stat() for path in _FOUND if path.exists()]
        looks = [(shape.st_ino, shape.st_size, shape.st_mtime_ns, shape.st_ctime_ns) for shape in shapes]
        if self._known is None or self._known[0] != looks:
            digest = hashlib.sha256()
            for path in _FOUND:
                digest.update(f"{path}\n".encode() + (path.read_bytes() if path.exists() else b""))
            self._known = (list(looks), f"{MACHINE}sha256:{digest.hexdigest()}")
        return self._known[1]

    # ---- packages --------------------------------------------------------------------------------------------

    async def resolve(self, asked: Sequence[str], say: Say, *, latest: bool = False) -> tuple[apt.Exact, ...]:
        """The exact packages that this machine lacks for some, with conditions on versions.

        Raises:
            BuildFailedError: there is no such package or version, or they do not go together.
        """
        machine = await self._able()
        wanted = [parse(each) for each in asked]
        looked = await self._apt(
            machine, apt.look(each.name for each in wanted), say, 0 if latest else FRESH_MINUTES
        )
        found = apt.sections(looked.out)
        words = apt.words(wanted, found.get("policy", ""), found.get("names", ""))
        planned = apt.sections((await self._apt(machine, apt.plan(words), say, FRESH_MINUTES)).out)
        return apt.packages(planned.get("plan", ""), planned.get("records", ""))

    async def _apt(self, machine: Machine, script: str, say: Say, fresh_minutes: int) -> Done:
        async def ask() -> Done:
            async with self._room(machine) as room:
                if machine.namespace[1] == "--user":
                    await asyncio.to_thread(_stand_in, room.path / "upper", machine, _LOOKED_INTO)
                return await self._script(
                    machine, room, script, RESOLVE_SECONDS_MAX, say, fresh_minutes=fresh_minutes
                )

        return await patiently(ask, say)

    async def install(self, new: Path, packages: Sequence[apt.Exact], say: Say, keep: int) -> None:
        """Make the layer of an environment that is being built: what these packages change.

        Raises:
            BuildFailedError: one cannot be had any more, or not be installed this way.
        """
        machine = await self._able()
        layer, room = new / LAYER, _Room(new / f"{LAYER}-room")
        await asyncio.to_thread(room.make, machine, layer)
        user = machine.namespace[1] == "--user"
        if user:
            await asyncio.to_thread(_stand_in, layer, machine, machine.parts)
        policy = layer / _POLICY
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        if packages:
            await patiently(
                functools.partial(
                    self._script, machine, room, apt.install(packages), INSTALL_SECONDS_MAX, say, keep=keep
                ),
                say,
            )
        await asyncio.to_thread(_tidy, layer, machine.parts, stood_in=user)
        await asyncio.to_thread(remove, room.path)

    async def _script(
        self,
        machine: Machine,
        room: _Room,
        script: str,
        seconds: float,
        say: Say,
        *,
        fresh_minutes: int = FRESH_MINUTES,
        keep: int | None = None,
    ) -> Done:
        lists = self._data / "apt-lists" / _sources()
        lists.mkdir(parents=True, exist_ok=True)
        told: dict[str, str] = {**self._told, apt.LISTS: str(lists)}
        readable: tuple[str, ...] = ()
        if self._trusted:
            options = self._data / "apt.conf"
            options.write_text(f'Acquire::https::CaInfo "{self._trusted}";\n')
            told["APT_CONFIG"], readable = str(options), (str(options), self._trusted)
        begin = apt.begin(told, fresh_minutes=fresh_minutes)
        words = overlays.changing(machine, str(room.path), readable=readable, writable=(str(lists),))
        try:
            done = await self._run(words, begin + script, seconds, say, keep)
        except TimeoutError:
            raise BuildFailedError(f"apt: there was no end within {seconds / 60:.0f} minutes") from None
        if done.code:
            raise _failure(done.errors)
        return done

    async def _run(
        self, words: Sequence[str], script: str, seconds: float, say: Say, keep: int | None = None
    ) -> Done:
        return await commands.run(words, seconds, say, environment=self._environ, stdin=script, keep=keep)

    async def _able(self) -> Machine:
        problem = await self.problem()
        if self._machine is None:
            raise BuildFailedError(f"--apt: {problem}; the docker engine can install system packages")
        return self._machine

    # ---- what is put on top ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def shown(self, environment: Path, command: Sequence[str]) -> AsyncIterator[list[str]]:
        """The words that run a command which sees the layer of an environment over this machine."""
        assert self._machine is not None
        layer = (environment / LAYER).resolve()
        there = tuple(place for place in self._machine.places if (layer / place).is_dir())
        async with self._room(self._machine) as room:
            yield overlays.showing(replace(self._machine, places=there), str(layer), str(room.path), command)


def _entries() -> Iterator[Entry]:
    with os.scandir("/") as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_symlink():
                yield Entry(entry.name, os.readlink(entry.path))  # noqa: PTH115
            elif entry.is_dir():
                yield Entry(entry.name)


def _places(paths: Iterable[str], mounts: Sequence[str]) -> Iterator[str]:
    """The largest directories without anything mounted below them."""
    for path in paths:
        if not any(mount.startswith(f"/{path}/") for mount in mounts):
            yield path
            continue
        with os.scandir(f"/{path}") as entries:
            inner = sorted(each.path[1:] for each in entries if each.is_dir(follow_symlinks=False))
        # A comma or a colon means something to mount; what is mounted itself is shown as it is.
        fit = [
            each
            for each in inner
            if f"/{each}" not in mounts
            and not set(each) & set(",:\\")
            and os.access(f"/{each}", os.R_OK | os.X_OK)
        ]
        yield from _places(fit, mounts)


def _reached(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 -- a path as the kernel writes it
    except PermissionError:
        return False
    except OSError:
        # What is gone again, or does not answer, is looked for when it is to be shown.
        return True
    return True


def _namespaces() -> Iterator[tuple[str, ...]]:
    """Ways to get a mount namespace, the more able first."""
    if os.geteuid() == 0:
        yield ("unshare", "--mount", "--propagation", "slave", "--")
    yield ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "slave", "--")


def _sources() -> str:
    """A name for where apt gets packages from: of each there are lists of its own."""
    digest = hashlib.sha256()
    for path in _SOURCES:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            with contextlib.suppress(OSError):
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _stand_in(layer: Path, machine: Machine, roots: Sequence[str]) -> None:
    """Make the directories of the machine below some in a layer, and what is written in place. Nobody but root may copy them up
    from there, because their owner is nobody in a user namespace; what stands in the layer is ours.
    """
    for root in roots:
        device = os.stat(f"/{root}").st_dev  # noqa: PTH116
        (layer / root).mkdir(parents=True, exist_ok=True)
        for folder, names, _ in os.walk(f"/{root}"):
            names[:] = [name for name in names if _enterable(f"{folder}/{name}", device)]
            for name in names:
                target = Path(f"{layer}{folder}/{name}")
                target.mkdir(exist_ok=True)
                target.chmod(stat.S_IMODE(os.stat(f"{folder}/{name}").st_mode) | 0o700)  # noqa: PTH116
    # What is between the places is no overlay: it has nothing of the machine but this.
    between = {str(above) for place in machine.places for above in Path(place).parents} - {"."}
    for folder in (*_WRITTEN, *sorted(between)):
        with contextlib.suppress(OSError):
            for file in Path(f"/{folder}").iterdir():
                shape = file.lstat()
                if stat.S_ISREG(shape.st_mode) and not shape.st_size:
                    (layer / folder / file.name).touch()  # a lock, which need not be readable
                elif stat.S_ISLNK(shape.st_mode) or (
                    stat.S_ISREG(shape.st_mode) and os.access(file, os.R_OK)
                ):
                    shutil.copy2(file, layer / folder / file.name, follow_symlinks=False)


def _enterable(path: str, device: int) -> bool:
    with contextlib.suppress(OSError):
        return (
            path not in _NOT_ENTERED
            and not os.path.islink(path)  # noqa: PTH114
            and os.access(path, os.R_OK | os.X_OK)
            and os.lstat(path).st_dev == device
        )
    return False


def _tidy(layer: Path, parts: Sequence[str], *, stood_in: bool) -> None:
    """Leave what packages have changed, and nothing of how that was done."""
    for left in _LEFT:
        path = layer / left
        if path.is_dir() and not path.is_symlink():
            remove(path)
        else:
            path.unlink(missing_ok=True)
    for part in parts:
        for folder, names, files in os.walk(layer / part, topdown=False):
            here = folder.removeprefix(str(layer))
            if stood_in:
                for name in (*files, *names):
                    _drop_equal(f"{folder}/{name}", f"{here}/{name}")
            for name in names:
                inner = f"{folder}/{name}"
                # An empty one that the machine has was only entered. `etc` and the like stay: they are mounted.
                if os.path.isdir(f"{here}/{name}") and not os.path.islink(inner):  # noqa: PTH112, PTH114
                    with contextlib.suppress(OSError):
                        os.rmdir(inner)  # noqa: PTH106


def _drop_equal(ours: str, theirs: str) -> None:
    with contextlib.suppress(OSError):
        mine, other = os.lstat(ours), os.lstat(theirs)
        if stat.S_IFMT(mine.st_mode) != stat.S_IFMT(other.st_mode) or mine.st_size != other.st_size:
            return
        same = not mine.st_size or (
            os.readlink(ours) == os.readlink(theirs)  # noqa: PTH115
            if stat.S_ISLNK(mine.st_mode)
            else stat.S_ISREG(mine.st_mode) and Path(ours).read_bytes() == Path(theirs).read_bytes()
        )
        if same:
            Path(ours).unlink()


def _failure(output: str) -> BuildFailedError:
    """The error for what apt wrote. What dpkg or a script of a package cannot do here, it can in an image."""
    failed = _FAILED.search(complaints.printable(output))
    if failed is None:
        return apt.failure(output)
    name = Path(failed["name"]).name.partition("_")[0].partition(":")[0]
    why = "" if os.geteuid() == 0 else " by a server that does not run as root"
    return BuildFailedError(
        complaints.cut(
            f"apt: {name} cannot be installed over this machine{why}: {failed['reason'].strip()}; "
            "the docker engine installs it in an image"
        ),
        name,
    )
