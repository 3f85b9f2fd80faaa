"""Puts back the times of objects that git marks as used where it would have written one that is there already."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

LOOSE_MAX = 1024
_DEPTH_MAX = 5  # as git has it


@contextlib.contextmanager
def kept(objects: Path) -> Iterator[None]:
    """Leave all object files of a store, and of those it borrows from, with the times they had.

    Among very many loose objects this would take longer than all the rest; there git's marks stay.
    """
    stores = [store for store in _stores(objects) if _loose(store) <= LOOSE_MAX]
    before = {file: status for store in stores for file, status in _files(store)}
    try:
        yield
    finally:
        for store in stores:
            for file, status in _files(store):
                known = before.get(file)
                if known is None or known.st_ino != status.st_ino or known.st_mtime_ns == status.st_mtime_ns:
                    continue
                with contextlib.suppress(OSError):
                    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))


def _files(store: Path) -> Iterator[tuple[str, os.stat_result]]:
    with contextlib.suppress(OSError), os.scandir(store) as directories:
        for directory in directories:
            if len(directory.name) != 2 and directory.name != "pack":
                continue
            with contextlib.suppress(OSError), os.scandir(directory) as files:
                for file in files:
                    yield file.path, file.stat()


def _loose(store: Path) -> int:
    """About how many loose objects there are; guessed as git itself does, from one of 256 directories."""
    try:
        return sum(1 for _ in (store / "17").iterdir()) * 256
    except OSError:
        return 0


def _stores(objects: Path, depth: int = 0) -> Iterator[Path]:
    yield objects
    if depth < _DEPTH_MAX:
        for borrowed in _borrowed(objects):
            yield from _stores(borrowed, depth + 1)


def _borrowed(objects: Path) -> list[Path]:
    try:
        listed = (objects / "info" / "alternates").read_bytes().splitlines()
    except OSError:
        return []
    return [objects / os.fsdecode(line) for line in listed if line[:1] not in {b"", b"#", b'"'}]
