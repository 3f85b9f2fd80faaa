"""How much memory a container or a command has used at its most, and whether the machine ran out of it (shell).

Standard library only: this is loaded once by the fork server and then only forked.
"""

import contextlib
import os
import resource
from dataclasses import dataclass

from spell_runner.shim import linux

_ROOT = "/sys/fs/cgroup"
_READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Group:
    """Where the kernel keeps what it knows of a control group, in the first version of these or the second."""

    path: str
    first: bool

    @property
    def peak(self) -> str:
        return f"{self.path}/memory.max_usage_in_bytes" if self.first else f"{self.path}/memory.peak"


class Peak:
    """The most that the processes of a container have used together. The kernel forgets it with the container, so it is
    looked at in the moment in which memory has run out: `events` is readable then. -1 where nothing can be seen.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.events = -1
        self._file = -1

    def watch(self, group: Group | None) -> None:
        """Harmless where it may not be seen, or not by us."""
        if group is None:
            return
        with contextlib.suppress(OSError):
            self._file = os.open(group.peak, os.O_RDONLY | os.O_CLOEXEC)
            if group.first:
                self.events = _told_of_first(group.path)
            else:
                self.events = linux.watch_writes(f"{group.path}/memory.events")

    def look(self) -> None:
        """Take what the kernel knows now; nothing where it has forgotten."""
        if self.events >= 0:
            with contextlib.suppress(OSError):
                os.read(self.events, _READ_BYTES)
        if self._file >= 0:
            with contextlib.suppress(OSError, ValueError):
                self.bytes = max(self.bytes, int(os.pread(self._file, 32, 0)))


def group_of(pid: int, container: str) -> Group | None:
    """The control group of a process in a container, where we see both."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:  # noqa: PTH123 -- see shim.py
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if container in path and "memory" in controllers.split(","):
                return Group(f"{_ROOT}/memory{path}", first=True)
            if container in path and not controllers and os.access(f"{_ROOT}{path}/memory.peak", os.R_OK):
                return Group(f"{_ROOT}{path}", first=False)
    return None


def _told_of_first(path: str) -> int:
    """A descriptor that becomes readable when memory runs out in a group of the first version."""
    about = os.open(f"{path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    try:
        asking = os.open(f"{path}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            os.write(asking, f"{told} {about}".encode())
        finally:
            os.close(asking)
    finally:
        os.close(about)
    return told


def kills() -> int:
    """How many processes the kernel has killed on this machine because memory had run out; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", "rb") as file:  # noqa: PTH123 -- see shim.py
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def largest_child() -> int:
    """The most that any one process has used of those that we, and they, have seen end."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def text(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:.0f} MiB"
