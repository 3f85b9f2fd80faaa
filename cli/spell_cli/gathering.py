"""What of a local path goes into an upload: files and links, as they are found; nothing is followed out of it."""

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from spell_cli.errors import CliError
from spell_cli.terminal import short_path
from spell_proto.resources import NAME_BYTES_MAX, PATH_PARTS_MAX

#: Some room is left for what stands before it.
_PATH_BYTES_MAX = 3_800
_SKIPPED = ".DS_Store"


@dataclass(frozen=True, slots=True)
class Local:
    """A file that is to be uploaded, or a link. `path` is what it is called in the upload."""

    path: str
    source: Path
    size: int
    mode: int
    mtime_ns: int
    link: str | None = None

    @property
    def modified_at(self) -> str:
        return datetime.fromtimestamp(self.mtime_ns / 1e9, UTC).isoformat()


@dataclass(slots=True)
class Gathered:
    """What there is, by path, a sentence for everything that is left out, and how many empty directories are."""

    found: list[Local] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    empty: int = 0

    @property
    def files(self) -> list[Local]:
        return [local for local in self.found if local.link is None]

    @property
    def size(self) -> int:
        return sum(local.size for local in self.files)


def gather(path: Path, on_count: Callable[[int], None] = lambda _: None) -> Gathered:
    """A directory with all that is in it, or a file alone. The path itself may be a link. `on_count` is told how much has
    been looked at, directory by directory.

    Raises:
        CliError: it is not there or cannot be read, or holds a name that no upload can hold.
    """
    gathered = Gathered()
    root, status = looked_at(path)
    if stat.S_ISREG(status.st_mode):
        _check_name(path.name)
        gathered.found.append(_local(path.name, root, status))
        return gathered
    try:
        count = 0
        for above, entries in _walk(root):
            count += len(entries)
            on_count(count)
            gathered.empty += bool(above and not entries)
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    _add(gathered, f"{above}{entry.name}", entry)
    except OSError as error:
        raise CliError(f"{short_path(str(error.filename or path))}: {error.strerror}.") from None
    return gathered


def looked_at(path: Path) -> tuple[Path, os.stat_result]:
    """Where a directory, or a file, really is.

    Raises:
        CliError: it is not there, or is something else.
    """
    try:
        root = path.resolve(strict=True)
        status = root.stat()
    except OSError as error:
        raise CliError(f"{short_path(str(error.filename or path))}: {error.strerror}.") from None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise CliError(f"{short_path(str(path))} is neither a file nor a directory.")
    return root, status


def opened(local: Local) -> BinaryIO:
    """A file to be read. What has become a link since it was found is not followed, and no pipe is waited for.

    Raises:
        CliError: it cannot be read, or is no file any more.
    """
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        file = os.fdopen(os.open(local.source, flags), "rb")
    except OSError as error:
        raise CliError(f"'{short_path(local.path)}' cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CliError(f"'{short_path(local.path)}' is no file any more.")
    return file


def unchanged(local: Local, file: BinaryIO) -> bool:
    """Whether a file is as it was found, as far as its size and time tell."""
    status = os.fstat(file.fileno())
    return (status.st_size, status.st_mtime_ns) == (local.size, local.mtime_ns)


def _walk(directory: Path) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """What is in each directory, and what its paths begin with."""
    waiting = [(directory, "")]
    while waiting:
        place, above = waiting.pop()
        with os.scandir(place) as entries:
            found = [
                entry for entry in entries if entry.name != _SKIPPED or entry.is_dir(follow_symlinks=False)
            ]
        found.sort(key=lambda entry: entry.name)
        yield above, found
        waiting += [
            (Path(entry.path), f"{above}{entry.name}/")
            for entry in found
            if entry.is_dir(follow_symlinks=False)
        ]


def _add(gathered: Gathered, name: str, entry: os.DirEntry[str]) -> None:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        _check_name(name)
        gathered.found.append(_local(name, Path(entry.path), status))
    elif stat.S_ISLNK(status.st_mode):
        target = os.readlink(entry.path)  # noqa: PTH115 -- a Path would tidy it up
        if stays_inside(name, target):
            _check_name(name)
            gathered.found.append(_local(name, Path(entry.path), status, target))
        else:
            gathered.notes.append(
                f"'{short_path(name)}' is left out: it is a link to {short_path(target)}, outside"
            )
    else:
        gathered.notes.append(f"'{short_path(name)}' is left out: it is neither file nor directory")


def stays_inside(path: str, target: str) -> bool:
    """Whether a link at `path` leads to something in the same upload. Pure."""
    try:
        target.encode()
    except UnicodeEncodeError:
        return False
    reached = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return bool(target) and not target.startswith("/") and reached.split("/")[0] != ".."


def _local(path: str, source: Path, status: os.stat_result, link: str | None = None) -> Local:
    size = status.st_size if link is None else 0
    return Local(path, source, size, stat.S_IMODE(status.st_mode) & 0o777, status.st_mtime_ns, link)


def _check_name(path: str) -> None:
    why = name_problem(path)
    if why is not None:
        raise CliError(f"'{short_path(path)}' cannot be uploaded: {why}. Rename it first.")


def name_problem(path: str) -> str | None:
    """Why no upload can hold a path. Pure."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    if size > _PATH_BYTES_MAX:
        return f"its path is longer than {_PATH_BYTES_MAX} bytes"
    parts = path.split("/")
    if len(parts) > PATH_PARTS_MAX:
        return f"it is below more than {PATH_PARTS_MAX - 1} directories"
    if any(unquote(part) in {".", ".."} for part in parts):
        return "its name means '.' or '..' where it is escaped"
    if any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        return f"its name is longer than {NAME_BYTES_MAX} bytes"
    return None
