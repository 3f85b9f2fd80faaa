# ruff: noqa: PTH101 -- works by descriptor, which pathlib has no names for
"""Opens what is below a directory, part by part through directories alone: no link leads out of it (shell)."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Good for asking what it is, also where it may not be read; a link is opened as a link.
HELD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at a path below a directory. `above` is the directory that it is in, open until the next one is asked for."""

    path: str
    above: int
    status: os.stat_result

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def open_beneath(root: int, path: str, flags: int = HELD) -> int:
    """A descriptor of what is at a path below a directory. Parts of `path` are joined by single slashes; it may be empty.

    Raises:
        FileNotFoundError: nothing is there.
        NotADirectoryError: a part of the path is a file or a link.
        OSError: it cannot be opened.
    """
    *above, name = path.split("/") if path else ["."]
    at = os.dup(root)
    try:
        for part in above:
            below = os.open(part, HELD | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, flags, dir_fd=at)
    finally:
        os.close(at)


@contextlib.contextmanager
def opened(descriptor: int) -> Iterator[int]:
    """A descriptor that is closed in the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lent(root: int, path: str) -> Iterator[int]:
    """A descriptor of a directory of a run below another directory, through directories alone. Whatever rights the run has
    taken from itself are lent to us: in the end they are as they were.

    Raises:
        FileNotFoundError, NotADirectoryError: a part of the path is none, or none any more.
    """
    at, mode = os.dup(root), None
    try:
        for part in path.split("/") if path else ():
            below = _open_directory(at, part)
            _close(at, mode)
            at, mode = below
        yield at
    finally:
        _close(at, mode)


def _open_directory(above: int, name: str) -> tuple[int, int | None]:
    """A descriptor, and the mode that the directory is to get back."""
    with opened(os.open(name, HELD | os.O_DIRECTORY, dir_fd=above)) as held:
        # By descriptor, so that nothing else is given any rights.
        place, mode = f"/proc/self/fd/{held}", None
        if not os.access(place, os.R_OK | os.X_OK, effective_ids=True):
            mode = stat.S_IMODE(os.fstat(held).st_mode)
            os.chmod(place, mode | 0o700)
        try:
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), mode
        except OSError:
            if mode is not None:
                os.chmod(place, mode)
            raise


def _close(directory: int, mode: int | None) -> None:
    try:
        if mode is not None:
            os.fchmod(directory, mode)
    finally:
        os.close(directory)


def is_directory(held: int) -> bool:
    return stat.S_ISDIR(os.fstat(held).st_mode)


def link_of(held: int) -> str | None:
    """Where a link leads; None for what is none."""
    return os.readlink("", dir_fd=held) if stat.S_ISLNK(os.fstat(held).st_mode) else None


def walk(root: int) -> Iterator[tuple[str, bool]]:
    """The path of everything below a directory and whether that is a directory. Parents come first. No right is taken or
    given: what may not be read is an OSError.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        with opened(open_beneath(root, prefix, DIRECTORY)) as directory, os.scandir(directory) as found:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        for name, is_one in entries:
            path = f"{prefix}/{name}" if prefix else name
            yield path, is_one
            if is_one:
                pending.append(path)


def entries(
    root: Path, stays: Callable[[str], bool], failed: Callable[[str, OSError], None]
) -> Iterator[Entry]:
    """Everything below a directory of a run, however deep it is: parents first, names in order. Directories that the run has
    closed to us are opened for good. What does not `stay` is not looked at, nor what is below it; what cannot be looked at
    has `failed`, and costs nothing else.

    Raises:
        OSError: nothing at all can be looked at.
    """
    with opened(os.open(root, HELD | os.O_DIRECTORY)) as top:
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                directory = _open_for_good(top, prefix)
            except (FileNotFoundError, NotADirectoryError):
                # It is gone by now, or is something else.
                continue
            except OSError as error:
                if not prefix:
                    raise
                failed(prefix, error)
                continue
            with opened(directory):
                for entry in _entries(directory, prefix, stays, failed):
                    if entry.is_directory:
                        pending.append(entry.path)
                    yield entry


def _entries(
    directory: int, prefix: str, stays: Callable[[str], bool], failed: Callable[[str, OSError], None]
) -> Iterator[Entry]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        failed(prefix, error)
        return
    for name in names:
        path = f"{prefix}/{name}" if prefix else name
        if not stays(path):
            continue
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed(path, error)
            continue
        yield Entry(path, directory, status)


def _open_for_good(root: int, path: str) -> int:
    with opened(open_beneath(root, path, HELD | os.O_DIRECTORY) if path else os.dup(root)) as held:
        mode = stat.S_IMODE(os.fstat(held).st_mode)
        place = f"/proc/self/fd/{held}"
        if mode & 0o500 != 0o500:
            # Its names can be read without the right to search it, but nothing can be asked of them.
            os.chmod(place, mode | 0o700)
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
