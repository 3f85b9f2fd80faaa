# ruff: noqa: PTH115, PTH116 -- works by descriptor and by paths of /proc, which pathlib has no names for
"""How much of its machine's disk a run has taken (shell).

What stands in its directories says `du`, which is led astray by nothing that is swapped under its eyes; where the run has
closed directories to us, we look ourselves. To that come files that its processes hold open and that have no name any
more, and what it has written in its container.
"""

import asyncio
import contextlib
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spell_runner import beneath, workspace
from spell_runner.directory import BASELINE, Directory
from spell_runner.mounts import copied
from spell_runner.shim import launch, processes
from spell_runner.shim.daemon import Daemon, container
from spell_runner.shim.launch import LAUNCH, MOUNTS, TEMPORARY, UPPER, WORKSPACE, Launch
from spell_runner.tasks import in_thread
from spell_runner.workspace import Abort

BLOCK_BYTES = 512
_PAGE_BYTES = 4096
#: Adding up what is in a container, the daemon walks through it.
_CONTAINER_SECONDS_MAX = 60.0
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "proc", "sysfs"})
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Usage:
    """Room on the disk in bytes, and the number of files, links and directories."""

    bytes: int = 0
    files: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.bytes + other.bytes, self.files + other.files)

    def beyond(self, other: "Usage") -> "Usage":
        """What it is more than another one."""
        return Usage(max(0, self.bytes - other.bytes), max(0, self.files - other.files))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found by ourselves: each file counts once, whatever its names."""

    known: set[tuple[int, int]]

    def room(self, status: os.stat_result) -> Usage:
        if (status.st_dev, status.st_ino) in self.known:
            return Usage()
        self.known.add((status.st_dev, status.st_ino))
        return Usage(status.st_blocks * BLOCK_BYTES, 1)


async def measure(directory: Directory, *, sizes: bool, files: bool) -> Usage:
    """What the command of an attempt has written so far, but for a disk of its own: of what is asked for, the other is 0."""
    told = Launch.decode(Path(directory / LAUNCH).read_bytes())
    found = (
        Usage()
        if directory.has_disk
        else await _in_its_directories(directory, told, sizes=sizes, files=files)
    )
    found += await asyncio.to_thread(_elsewhere, told, directory)
    return Usage(found.bytes * sizes, found.files * files)


async def _in_its_directories(directory: Directory, told: Launch, *, sizes: bool, files: bool) -> Usage:
    parts = [UPPER if told.overlay else WORKSPACE, TEMPORARY]
    below = UPPER if told.overlay else "at"
    parts += sorted(glob.glob(f"{MOUNTS}/*/{below}", root_dir=directory.base))  # noqa: PTH207 -- plain strings
    parts = [part for part in parts if os.path.isdir(directory / part)]  # noqa: PTH112 -- plain strings
    try:
        taken = await _measured([directory / part for part in parts], "--block-size=1") if sizes else 0
        made = await _measured([directory / part for part in parts], "--inodes") if files else 0
        found = Usage(taken, made)
    except PermissionError:
        abort = Abort()
        found = await in_thread(lambda: _walked(directory, parts, abort), abort)
    given = Usage() if told.overlay else await asyncio.to_thread(_given, directory)
    # The directories that we have made ourselves are none of its doing.
    return found.beyond(given + Usage(0, len(parts)))


async def _measured(paths: Sequence[str], unit: str) -> int:
    """What `du` says.

    Raises:
        PermissionError: it may not look everywhere.
    """
    words = ("du", "--summarize", "--one-file-system", unit, "--", *paths)
    process = await asyncio.create_subprocess_exec(
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"LC_ALL": "C", "PATH": os.defpath},
    )
    try:
        # What vanishes meanwhile it complains about, and counts the rest.
        told, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode and os.geteuid() != 0:
        raise PermissionError
    return sum(int(line.split(b"\t", 1)[0]) for line in told.splitlines())


def _walked(directory: Directory, parts: Sequence[str], abort: Abort) -> Usage:
    """What `du` would say if it might look everywhere."""
    found, seen = Usage(), _Seen(set())
    with beneath.opened(os.open(directory.base, beneath.DIRECTORY)) as root:
        pending = list(parts)
        while pending:
            abort.check()
            above = pending.pop()
            # It may be gone, or be something else, between two calls.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), beneath.lent(root, above) as at:
                found += seen.room(os.fstat(at))
                for name in os.listdir(at):  # noqa: PTH208 -- by descriptor
                    with contextlib.suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=at, follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            pending.append(f"{above}/{name}")
                        else:
                            found += seen.room(status)
    return found


def _given(directory: Directory) -> Usage:
    """What copies of code and of mounts held at the start."""
    sizes: list[int] = []
    for name in (BASELINE, copied.BASELINE):
        with contextlib.suppress(FileNotFoundError):
            baseline = workspace.read_baseline(Path(directory / name).read_bytes())
            sizes += [size for size, _, _ in baseline.values()]
    return Usage(sum(-(-size // _PAGE_BYTES) for size in sizes) * _PAGE_BYTES, len(sizes))


# ---- what is in none of its directories ----------------------------------------------------------------------------


def _elsewhere(told: Launch, directory: Directory) -> Usage:
    claim = launch.read(directory.base)
    first, found = 0 if claim is None else claim.pid, Usage()
    if told.container is not None:
        try:
            daemon = Daemon(told.container.daemon)
            path = container(told.container.name, "/json?size=1")
            about = daemon.ask("GET", path, seconds=_CONTAINER_SECONDS_MAX)
            found = Usage(int(about.get("SizeRw") or 0))
            first = int(about["State"]["Pid"])
            # Where the daemon is another machine's, that number is somebody else's here.
            if str(about["Id"]) not in Path(f"/proc/{first}/cgroup").read_text():
                first = 0
        except (OSError, KeyError, ValueError):
            first = 0
    return found + unlinked([first, *processes.descendants(first)] if first else [])


def unlinked(pids: Sequence[int]) -> Usage:
    """Files on a disk that processes hold open, or have mapped, and that have no name any more."""
    found, seen = Usage(), _Seen(set())
    for pid in pids:
        in_memory: set[int] | None = None
        for place in _deleted(pid):
            with contextlib.suppress(OSError):
                status = os.stat(place)
                if status.st_nlink or not stat.S_ISREG(status.st_mode):
                    continue
                if in_memory is None:
                    in_memory = _memory_devices(pid)
                if status.st_dev not in in_memory:
                    found += seen.room(status)
    return found


def _deleted(pid: int) -> Iterator[str]:
    for kind in ("fd", "map_files"):
        # Not all of them may be looked at, and they come and go.
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/{kind}"):  # noqa: PTH208 -- plain strings
                with contextlib.suppress(OSError):
                    place = f"/proc/{pid}/{kind}/{name}"
                    if os.readlink(place).endswith(_DELETED):
                        yield place


def _memory_devices(pid: int) -> set[int]:
    """The devices of files that take no room on any disk, as a process sees them."""
    found = set()
    with contextlib.suppress(OSError), beneath.opened(os.memfd_create("")) as nameless:
        found.add(os.fstat(nameless).st_dev)
    for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines():
        fields = line.split(" ")
        if fields[fields.index("-") + 1] in _IN_MEMORY:
            major, _, minor = fields[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return found
