"""Gives an attempt a disk of its own: what its command may write is as much as fits on it (shell).

Theory of operation
-------------------
A disk is a sparse file in the directory of its attempt, `disk.img`, with a file system that is mounted at
`disks/<attempt>`. As long as that file is there the attempt has the disk; once it is gone, the disk is unmounted by
`sweep`, which follows every removal and the start of a runner. So whatever was killed where, nothing stays mounted.

Every run has a copy of the mounts of this machine, made at its start, those of other runs among them. Once a disk is
unmounted here, the directory that it was mounted on is removed: that has the kernel unmount it in all these copies, and
no run keeps the disk of another.
"""

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from spell_proto import logs
from spell_proto.errors import SettingsError
from spell_proto.state import Reason
from spell_runner import loops, workspace
from spell_runner.directory import BASELINE, DISKS, IMAGE, Directory
from spell_runner.errors import AttemptError
from spell_runner.quotas import NO_LIMITS, Limits
from spell_runner.shim import linux
from spell_runner.shim.room import FULL_BYTES, Disk
from spell_runner.usage import Usage

log = logs.get()

#: Beside what a run may write: for the directories in which a snapshot of a full disk stands.
_KEPT_BYTES_MIN, _KEPT_SHARE = 4 << 20, 64
_FILES_KEPT_MIN, _FILES_KEPT_SHARE = 64, 8
_FILES_MAX = 1 << 31
#: Those of the file system itself.
_FILES_GIVEN = 32
#: What the kernel makes when it mounts one, or may have made.
_OVERLAY_FILES = 4
_TRIES = 4
_ROUNDED_BYTES = 128 * 1024
_LOCKS = 64
#: Process, user and group of who listens at a socket.
_PEER = struct.Struct("iII")
_ASKING_SECONDS_MAX = 5.0


def files_for(limits: Limits) -> int:
    """For how many files a disk needs room. Pure."""
    if not limits.files_max:
        # A file that holds anything takes a block.
        return min(_FILES_MAX, limits.bytes_max // loops.BLOCK_BYTES + _FILES_KEPT_MIN)
    kept = max(_FILES_KEPT_MIN, limits.files_max // _FILES_KEPT_SHARE)
    return min(_FILES_MAX, limits.files_max + kept + _FILES_GIVEN)


def taken_by(paths: Iterable[Path]) -> Usage:
    """What copies of these will take."""
    found = Usage()
    for path in paths:
        entries = workspace.walk(path) if workspace.is_directory(path) else ()
        sizes = [entry.stat(follow_symlinks=False).st_size for _, entry in entries] or [path.lstat().st_size]
        blocks = sum(-(-size // loops.BLOCK_BYTES) + 1 for size in sizes)
        found += Usage(blocks * loops.BLOCK_BYTES, len(sizes) + 1)
    return found


class Disks:
    """Those of one machine. `rule` is one of `settings.QUOTAS`."""

    def __init__(self, data: Path, limits: Limits = NO_LIMITS, rule: str = "auto") -> None:
        self._attempts = data / "attempts"
        self._place = data / DISKS
        self._template = str(data / "disk.template")
        self._limits = limits
        self._rule = rule
        self.able = False
        #: What a disk needs beside what it should, as was seen of one.
        self._more = 0
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def open(self) -> None:
        """Take down what nobody needs any more, and see whether there can be disks here.

        Raises:
            SettingsError: there cannot be any, and nothing is to be run without.
        """
        self.sweep()
        if not self._limits or self._rule == "watch":
            return
        problem = self._problem()
        self.able = problem is None
        if problem is not None and self._rule == "strict":
            raise SettingsError(
                f"the limits of what a run may write cannot be enforced here (SPELL_RUN_QUOTA=strict): {problem}"
            )
        log.info("what keeps runs to their limits", by="watching" if problem else "disks", problem=problem)

    def close(self) -> None:
        """Leave nothing behind where no attempt has a disk."""
        self.sweep()
        with contextlib.suppress(OSError):
            self._place.rmdir()

    # ---- one attempt -----------------------------------------------------------------------------------------

    def give(self, directory: Directory, copied: Iterable[Path] = (), problem: str | None = None) -> None:
        """Give an attempt a disk, unless it has one. Of `copied` there is room for copies besides; a `problem` is why it
        cannot have one.

        Raises:
            AttemptError: it cannot have one, and must.
        """
        if not self.able:
            return
        if problem is None:
            try:
                with self._lock(directory.name):
                    self._make(directory, taken_by(copied))
            except OSError as error:
                self._undo(directory)
                problem = str(error)
        if problem is None:
            return
        log.warning("a run has no disk of its own", attempt=directory.name, problem=problem)
        if self._rule == "strict":
            raise AttemptError(Reason.START_FAILED, f"it cannot be given a disk of its own: {problem}")

    def of(self, directory: Directory, overlays: int) -> Disk | None:
        """The disk of an attempt whose command is about to start, with so many overlays."""
        if not directory.has_disk:
            return None
        about = os.statvfs(directory.disk)
        before = about.f_files - about.f_ffree + overlays * _OVERLAY_FILES
        return Disk(directory.disk, self._limits.bytes_max, self._limits.files_max, before)

    def sweep(self) -> None:
        """Unmount the disks of which there is no image any more."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._place):  # noqa: PTH208 -- plain strings
                with self._lock(name):
                    if not (self._attempts / name / IMAGE).exists():
                        self._take_down(name)

    def _lock(self, name: str) -> threading.Lock:
        return self._locks[hash(name) % _LOCKS]

    def _make(self, directory: Directory, given: Usage) -> None:
        image, at = directory / IMAGE, directory.disk
        if directory.has_disk and loops.shown_at(at) == os.path.realpath(image):
            # Made by a runner that was killed before it could start anything.
            return
        if os.path.lexists(at):
            self._take_down(directory.name)
        # It says that the workspace, which was on the disk, is whole.
        Path(directory / BASELINE).unlink(missing_ok=True)
        directory.has_disk = True
        if self.able and given == Usage():
            loops.copy(self._template, image)
        else:
            self._format(image, given)
        os.mkdir(at, 0o700)  # noqa: PTH102 -- plain strings
        loops.mount(image, at)

    def _format(self, image: str, given: Usage) -> None:
        bytes_max, files = self._limits.bytes_max + given.bytes, files_for(self._limits) + given.files
        kept = max(_KEPT_BYTES_MIN, bytes_max // _KEPT_SHARE)
        loops.make(image, bytes_max + FULL_BYTES + self._more, files, kept)

    def _undo(self, directory: Directory) -> None:
        Path(directory / IMAGE).unlink(missing_ok=True)
        directory.has_disk = False
        with self._lock(directory.name):
            self._take_down(directory.name)

    def _take_down(self, name: str) -> None:
        at = self._place / name
        try:
            while loops.shown_at(str(at)) is not None:
                linux.unmount(str(at))
            at.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("a disk cannot be taken down", attempt=name, problem=str(error))

    # ---- all of them -----------------------------------------------------------------------------------------

    def _problem(self) -> str | None:
        """Why there can be no disks here; None where there can: one is made, as large as those to come."""
        if not self._limits.bytes_max:
            return "a disk has a size: SPELL_RUN_FILES_MAX needs SPELL_RUN_BYTES_MAX"
        if os.geteuid():
            return "only root can mount disks"
        if shutil.which(loops.PROGRAM, path=f"/usr/sbin:/sbin:{os.defpath}") is None:
            return f"{loops.PROGRAM} is not installed (e2fsprogs)"
        self._attempts.mkdir(mode=0o700, exist_ok=True)
        # What is left of it where we are killed goes like every attempt that was not taken on.
        path = Path(tempfile.mkdtemp(dir=self._attempts, prefix=".disk-"))
        directory = Directory(path)
        try:
            self._place.mkdir(mode=0o700, exist_ok=True)
            # What a file system takes for itself shows once it is there; what that takes in turn is little.
            for _ in range(_TRIES):
                self._make(directory, Usage())
                about = os.statvfs(directory.disk)
                self._undo(directory)
                room, files = about.f_bavail * about.f_frsize, about.f_ffree
                lacking = self._limits.bytes_max + FULL_BYTES - room
                if -2 * _ROUNDED_BYTES <= lacking <= 0:
                    break
                self._more += lacking + _ROUNDED_BYTES
            # Most disks are copies of this one.
            self._format(self._template, Usage())
        except OSError as error:
            return str(error)
        finally:
            self._undo(directory)
            workspace.remove(path)
        if lacking > 0 or files < self._limits.files_max:
            return f"a disk has room for {room:,} bytes and {files:,} files only"
        return None


def unseen_by(daemon: str) -> str | None:
    """Why the Docker daemon whose socket is at a path cannot see what is mounted here; None where it can."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ASKING_SECONDS_MAX)
            connection.connect(daemon)
            told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, _, _ = _PEER.unpack(told)
        same = Path(f"/proc/{pid}/ns/mnt").samefile("/proc/self/ns/mnt")
    except OSError as error:
        return f"whether the Docker daemon sees what is mounted here cannot be told: {error}"
    return None if same else "the Docker daemon does not see what is mounted here"
