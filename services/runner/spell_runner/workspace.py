# ruff: noqa: PTH101, PTH115 -- walks and opens by descriptor and lstat, which pathlib has no names for
"""The files a run starts with where no overlay can be mounted: its own copy, and what it looked like at first (shell)."""

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import orjson

from spell_runner import beneath

# ioctl that makes a file share the blocks of another one until either is written to.
_FICLONE = 0x40049409


#: Path -> signature.
Baseline = dict[str, list[int]]


class AbortedError(Exception):
    """What a thread was doing is not wanted any more."""


class Abort:
    """Tells a working thread to give up; it looks between two files."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def set(self) -> None:
        self._flag.set()

    def check(self) -> None:
        if self._flag.is_set():
            raise AbortedError


def signature(status: os.stat_result) -> list[int]:
    """Equal as long as nobody has written to a file: nobody can set back the time of its last change."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def copy_tree(source: Path, target: Path, abort: Abort, owner: tuple[int, int] | None = None) -> bytes:
    """What `copied_tree` does, and the baseline as it is written down."""
    return encode_baseline(copied_tree(source, target, abort, owner))


def copied_tree(source: Path, target: Path, abort: Abort, owner: tuple[int, int] | None = None) -> Baseline:
    """Copy everything below `source` into the directory `target`; the baseline says what was there: path -> signature.
    `owner`, user and group, gets it all.
    """
    baseline: Baseline = {}
    for path, entry in walk(source):
        abort.check()
        to = target / path
        if entry.is_symlink():
            to.symlink_to(os.readlink(entry.path))
            _same_time(entry, to)
        elif entry.is_dir(follow_symlinks=False):
            to.mkdir(mode=0o755)
        else:
            copy_file(entry.path, to)
            _same_time(entry, to)
        if owner is not None:
            # Before the signature is taken, which this changes.
            os.chown(to, *owner, follow_symlinks=False)
        if not entry.is_dir(follow_symlinks=False):
            baseline[path] = signature(to.lstat())
    return baseline


def encode_baseline(baseline: Baseline) -> bytes:
    """A baseline as it is written down: names may hold what no text can."""
    return orjson.dumps({os.fsencode(path).hex(): value for path, value in baseline.items()})


def read_baseline(data: bytes) -> Baseline:
    """Path -> signature, as it was written down."""
    return {os.fsdecode(bytes.fromhex(path)): value for path, value in orjson.loads(data).items()}


def walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below `root`, parents first, names in order; links are never followed."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry in _entries(root / prefix):
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)


def is_directory(path: Path) -> bool:
    """Whether it is one, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def make_readable(path: str | Path) -> None:
    """Give ourselves the right to read a file or directory of ours that a run has taken it from. No link."""
    mode = os.lstat(path).st_mode
    if not stat.S_ISLNK(mode):
        os.chmod(path, stat.S_IMODE(mode) | (0o700 if stat.S_ISDIR(mode) else 0o400))


def open_readable(path: str, above: int | None = None) -> int:
    """A descriptor to read a file by, whatever rights a run has left to it, which stay as they are; links are refused, pipes
    do not block. `path` is one below the directory `above`.
    """
    try:
        return os.open(path, beneath.READ, dir_fd=above)
    except PermissionError:
        # The run took its own right to read away. It may still go on, while this is saved.
        with beneath.opened(os.open(path, beneath.HELD, dir_fd=above)) as held:
            mode = os.fstat(held).st_mode
            if not stat.S_ISREG(mode):
                raise
            place = f"/proc/self/fd/{held}"
            os.chmod(place, stat.S_IMODE(mode) | 0o400)
            try:
                return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.chmod(place, stat.S_IMODE(mode))


def open_below(root: str, path: str) -> int:
    """What `open_readable` does, of a path of any length below a directory, through directories alone."""
    above, _, name = path.rpartition("/")
    with (
        beneath.opened(os.open(root, beneath.HELD | os.O_DIRECTORY)) as top,
        beneath.opened(beneath.open_beneath(top, above, beneath.HELD | os.O_DIRECTORY)) as directory,
    ):
        return open_readable(name, directory)


def remove(path: Path) -> None:
    """Delete a directory with everything in it, whatever rights its parts have and however deep it is."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(path)
    with contextlib.suppress(OSError):
        make_readable(path)
        _flatten(path)
        path.rmdir()


def _flatten(top: Path) -> None:
    """Empty a directory level by level, in the room of one: what is deep may have no path that the system takes."""
    above = os.open(top, beneath.DIRECTORY)
    try:
        numbers = itertools.count()
        while names := os.listdir(above):  # noqa: PTH208 -- by descriptor
            for name in names:
                if _is_file(name, above):
                    os.unlink(name, dir_fd=above)
                    continue
                os.chmod(name, 0o700, dir_fd=above)
                directory = os.open(name, beneath.DIRECTORY, dir_fd=above)
                try:
                    _lift(directory, above, numbers)
                finally:
                    os.close(directory)
                os.rmdir(name, dir_fd=above)
    finally:
        os.close(above)


def _lift(directory: int, above: int, numbers: Iterator[int]) -> None:
    """Remove the files of a directory, and move its directories to the one above."""
    for name in os.listdir(directory):
        if _is_file(name, directory):
            os.unlink(name, dir_fd=directory)
            continue
        os.chmod(name, 0o700, dir_fd=directory)
        while True:
            try:
                os.rename(name, f".{next(numbers)}", src_dir_fd=directory, dst_dir_fd=above)
            except (NotADirectoryError, FileExistsError):
                continue
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                continue
            break


def _is_file(name: str, directory: int) -> bool:
    return not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    if os.lstat(directory).st_mode & 0o500 != 0o500:
        # Its names can be read without the right to search it, but nothing can be asked of them.
        make_readable(directory)
    with os.scandir(directory) as found:
        return sorted(found, key=attrgetter("name"))


def _same_time(entry: os.DirEntry[str], to: Path) -> None:
    """By its time, git knows a file for unchanged."""
    mtime = entry.stat(follow_symlinks=False).st_mtime_ns
    os.utime(to, ns=(mtime, mtime), follow_symlinks=False)


def link_or_copy(source: str, target: str | Path, owner: tuple[int, int] | None = None) -> None:
    """One more name for a file that nobody writes to; a copy where it has as many as a file can have."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        copy_as_it_is(source, target, owner)


def copy_as_it_is(source: str, target: str | Path, owner: tuple[int, int] | None = None) -> None:
    """A copy with the same time and mode, of a link a link; `owner` gets it."""
    status = os.lstat(source)
    if stat.S_ISLNK(status.st_mode):
        Path(target).symlink_to(os.readlink(source))
    else:
        copy_file(source, Path(target))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
    if owner is not None:
        os.chown(target, *owner, follow_symlinks=False)


def copy_file(source: str, target: Path) -> None:
    with os.fdopen(os.open(source, beneath.READ), "rb", buffering=0) as reader:
        mode = os.fstat(reader.fileno()).st_mode & 0o777
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, _FICLONE, reader.fileno())
                return
            size = os.fstat(reader.fileno()).st_size
            try:
                while size > 0 and (done := os.copy_file_range(reader.fileno(), fd, size)):
                    size -= done
            except OSError:
                # Not every pair of file systems can; what was copied so far has moved both positions on.
                with os.fdopen(fd, "wb", closefd=False) as writer:
                    shutil.copyfileobj(reader, writer)
        finally:
            os.close(fd)
