# ruff: noqa: PTH108 -- this runs in the few milliseconds of a start, where plain system calls are the point
"""What the runner tells a shim (`launch.json`) and what a shim writes down of its command (`shim.jsonl`).

`shim.jsonl` is the claim on an attempt: whoever links it into place first decides whether the command ever
starts. A shim appends one line when the command has started and one when everything is over. Lines are appended
with single writes; a reader takes whole lines only.

Standard library only: this is loaded once by the fork server and then only forked.
"""

import contextlib
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spell_runner.shim import linux
from spell_runner.shim.room import Disk

LAUNCH = "launch.json"
CLAIM = "shim.jsonl"
JOURNAL = "journal"
CONTROL = "control.sock"
# Relative to the directory of an attempt, in which a shim works: so no path is too long for a unix socket.
DOORBELL = "../../runner.dgram"
#: One for all attempts of a machine: a claim that is ready to be linked into place.
CANCELLATION = "../../cancellation"

_CLAIM_BYTES_MAX = 64 * 1024
#: Room on the disk that is kept behind the end of every file in which the end of an attempt is written down: what
#: must be said then can be said on a disk that is full to the last byte.
SPARE_BYTES = 8192

#: Parts of an attempt's directory that make up its workspace.
UPPER, WORK, TEMPORARY, WORKSPACE = "upper", "work", "tmp", "spell"
#: The layers of what is mounted: a directory for each, and one for each root that is the attempt's own.
MOUNTS = "mounts"
#: Layers below those of what is mounted: of files alone, and of directories to mount on. Nobody writes to them.
SKELETONS = "skeletons"
#: What is below this stands still while it is saved and the command runs on.
SNAPSHOT = "snapshot"
#: Those that the command writes to, and their snapshot: where an attempt has a disk of its own, they are on it.
WRITTEN = frozenset({SNAPSHOT, TEMPORARY, WORK, WORKSPACE, MOUNTS, UPPER})
#: All of them, in the order in which they are thrown away: that of the layer that is saved comes last.
SCRATCH = (SNAPSHOT, TEMPORARY, WORK, WORKSPACE, MOUNTS, SKELETONS, UPPER)


@dataclass(frozen=True, slots=True)
class Container:
    """What to have a Docker daemon run: the path of its socket, the name of the container, and how to create it.

    `pinned` is the name of its image with a digest; empty where no registry has given it one.
    """

    daemon: str
    name: str
    create: dict[str, Any]
    pinned: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """One more overlay, seen at `at`: the directory `lower`, never written to, below `upper` with `work` in the part `own`
    of the attempt's directory. At a root like `/mnt` it stands instead of the machine's. Where no overlays can be mounted,
    a root is the directory `at` in its part, and what has no part of its own was copied from `lower`.
    """

    at: str
    lower: str
    own: str

    @property
    def upper(self) -> str:
        return f"{self.own}/{UPPER}"

    @property
    def work(self) -> str:
        return f"{self.own}/{WORK}"

    @property
    def place(self) -> str:
        return f"{self.own}/at"

    @property
    def is_root(self) -> bool:
        return self.at.count("/") == 1


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the command of one attempt.

    `isolation` is `bubblewrap`, `unshare`, `none`, or `docker`, where `container` says the rest. With `overlay`, the workspace is `lower` with the attempt's
    own layer above it; else it is the attempt's directory `spell`. `root` is an empty directory on which a new
    root is put together. Directories in `hidden` look empty to the command, bar those in `read_only`. The directory
    `repository` with `objects` in it is bound over the workspace's `.git`, if it is named. `system` is a layer
    of system packages that is put over the machine's own directories. `gpus` are the UUIDs of
    those that are the attempt's for as long as its command may run. `bound` are directories that the command sees
    elsewhere than where they are: where they are, and where it sees them. `files` is a layer between `lower` and the
    attempt's own; `layers` are mounted besides the workspace, in this order. On `disk`, if there is one, is what the command
    writes to.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    isolation: str
    overlay: bool
    lower: str
    cwd: str
    root: str
    hidden: tuple[str, ...]
    read_only: tuple[str, ...]
    log_bytes_max: int
    bubblewrap: str = ""
    repository: str = ""
    objects: str = ""
    container: Container | None = None
    system: str = ""
    gpus: tuple[str, ...] = ()
    bound: tuple[tuple[str, str], ...] = ()
    files: str = ""
    layers: tuple[Layer, ...] = ()
    disk: Disk | None = None

    def part(self, name: str) -> str:
        """Where something is that the command writes to: from the attempt's directory, or on its disk."""
        return name if self.disk is None else f"{self.disk.path}/{name}"

    def encode(self) -> bytes:
        members = {name: getattr(self, name) for name in self.__slots__}
        members["layers"] = [(layer.at, layer.lower, layer.own) for layer in self.layers]
        if self.container is not None:
            members["container"] = {name: getattr(self.container, name) for name in Container.__slots__}
        if self.disk is not None:
            members["disk"] = {name: getattr(self.disk, name) for name in Disk.__slots__}
        return json.dumps(members, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Launch":
        members = json.loads(data)
        for name in ("argv", "hidden", "read_only", "gpus"):
            members[name] = tuple(members.get(name, ()))
        members["bound"] = tuple((source, at) for source, at in members.get("bound", ()))
        members["layers"] = tuple(Layer(*layer) for layer in members.get("layers", ()))
        if members.get("container") is not None:
            members["container"] = Container(**members["container"])
        if members.get("disk") is not None:
            members["disk"] = Disk(**members["disk"])
        return cls(**members)


@dataclass(frozen=True, slots=True)
class Ending:
    """The last line of a shim. `error` says why the command could not be started; `seconds` is monotonic.

    `reason` is set where it was not the command that made itself end, as when its memory was used up; `message` is a
    sentence about that.
    """

    exit_code: int
    exit_cause: str
    ended_us: int
    seconds: float
    stdout_bytes: int
    stderr_bytes: int
    dropped_bytes: int
    sha256: str
    journal_bytes: int
    error: str | None = None
    reason: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Everything `shim.jsonl` says. `pid` is 0 when the start was cancelled."""

    pid: int
    ticks: int
    started_us: int | None = None
    ending: Ending | None = None


def take(directory: Path | str, pid: int, ticks: int) -> bool:
    """Claim an attempt for the process `pid` (0: nobody shall start it). False when it is claimed already."""
    path = f"{directory}/{CLAIM}"
    own = f"{path}.{os.getpid()}.{pid}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(own)
    try:
        append(own, {"pid": pid, "ticks": ticks}, spare=True)
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(own)
    return True


def make_cancellation(data: Path) -> None:
    """Write down beforehand what `cancel` needs: a full disk must not keep a start from being cancelled."""
    made, new = data / Path(CANCELLATION).name, data / "cancellation.new"
    # What is there may be torn by a power cut, and is linked to what was cancelled: it is never written to.
    with contextlib.suppress(FileNotFoundError):
        if made.read_bytes().endswith(b"\n"):
            return
    new.unlink(missing_ok=True)
    append(new, {"pid": 0, "ticks": 0})
    new.rename(made)


def cancel(directory: Path | str) -> bool:
    """Claim an attempt so that nobody starts it. False when it is claimed already."""
    try:
        os.link(f"{directory}/{CANCELLATION}", f"{directory}/{CLAIM}")
    except FileExistsError:
        return False
    except FileNotFoundError:
        return take(directory, 0, 0)
    return True


def append(path: Path | str, members: dict[str, Any], *, spare: bool = False) -> None:
    """One more line, whole or not at all. With `spare`, room is kept for those that follow."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if spare:
            linux.set_aside(fd, 0, SPARE_BYTES)
        append_whole(fd, json.dumps(members, separators=(",", ":")).encode() + b"\n")
    finally:
        os.close(fd)


def append_whole(fd: int, data: bytes) -> None:
    """Append in one write. A disk that is full gets none of it, so that what follows later can be read."""
    done = os.write(fd, data)
    if done < len(data):
        os.ftruncate(fd, os.fstat(fd).st_size - done)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read(directory: Path | str) -> Claim | None:
    """What is known of an attempt's shim; None while nobody has claimed it.

    A power cut leaves lines short or full of zeros: a claim that is gone is one of a process that is gone.
    """
    try:
        fd = os.open(f"{directory}/{CLAIM}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        data = os.read(fd, _CLAIM_BYTES_MAX)
    finally:
        os.close(fd)
    lines = []
    with contextlib.suppress(ValueError):
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            lines.append(json.loads(line))  # noqa: PERF401 -- what came before a line that is torn counts
    if not lines:
        return Claim(-1, 0)
    started: int | None = None
    ending: Ending | None = None
    for line in lines[1:]:
        if "started_us" in line:
            started = line["started_us"]
        else:
            ending = Ending(**line)
    return Claim(lines[0]["pid"], lines[0]["ticks"], started, ending)
