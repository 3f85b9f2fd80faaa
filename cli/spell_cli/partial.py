"""Files that are being fetched, beside their targets until they are whole. What is known by its SHA-256 is kept where it
breaks off, so that the same command goes on from there.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from spell_cli.answers import Entry
from spell_cli.errors import CliError
from spell_cli.progress import OnBytes

#: Below this fetching again costs less than a leftover would surprise.
KEPT_BYTES_MIN = 8 << 20
_READ_BYTES = 1 << 20
#: Windows has none; two commands for one file may undo each other's work there, but no file is ever wrong.
_fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None


class Partial:
    """The bytes of a file so far. `keep` says whether they stay when the file is left unfinished."""

    def __init__(self, path: Path, file: BinaryIO, on_bytes: OnBytes, *, keep: bool) -> None:
        self.path = path
        self.keep = keep
        self.digest = hashlib.sha256()
        self.size = 0
        self._file = file
        self._on_bytes = on_bytes

    def take_up(self, size_max: int) -> None:
        """Go on from what is there; what is longer than the file should be is no beginning of it."""
        if os.fstat(self._file.fileno()).st_size > size_max:
            self._file.truncate(0)
        while data := self._file.read(_READ_BYTES):
            self.digest.update(data)
            self.size += len(data)
        self._on_bytes(self.size, known=True)

    def add(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            # Told apart from a connection that is lost: asking again would not help.
            raise self._full(error) from None
        self.digest.update(data)
        self.size += len(data)
        self._on_bytes(len(data))

    def finish(self) -> None:
        """All of it has reached the file system."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> CliError:
        self.keep = False
        return CliError(f"Ran out of disk space: {error.strerror}.")


@contextmanager
def partial(target: Path, entry: Entry, on_bytes: OnBytes) -> Iterator[Partial]:
    """The file to write to. When this ends it is gone, unless it was renamed or is worth keeping."""
    path, handle, keep = _opened(target, entry)
    try:
        with os.fdopen(handle, "r+b") as file:
            begun = Partial(path, file, on_bytes, keep=keep)
            begun.take_up(entry["size"] or 0)
            try:
                yield begun
            finally:
                keep = begun.keep
                # What cannot be written any more is not needed any more.
                with contextlib.suppress(OSError):
                    file.flush()
    finally:
        if not keep:
            path.unlink(missing_ok=True)


def _opened(target: Path, entry: Entry) -> tuple[Path, int, bool]:
    if entry["sha256"] is not None and (entry["size"] or 0) >= KEPT_BYTES_MIN:
        path = target.parent / f".spell-{entry['sha256'][:32]}.part"
        handle = _own(path)
        if handle is not None:
            return path, handle, True
    handle, name = tempfile.mkstemp(prefix=".spell-", dir=target.parent)
    return Path(name), handle, False


def _own(path: Path) -> int | None:
    """A file of ours and of this command alone; None where it is anything else."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags, 0o600)
    except OSError:
        return None
    status = os.fstat(handle)
    mine = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    try:
        if mine and hasattr(os, "getuid"):
            mine = status.st_uid == os.getuid()
        if mine and _fcntl is not None:
            _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        mine = False
    # Whoever had it before may have finished it and renamed it away.
    if not mine or not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
        os.close(handle)
        return None
    return handle
