"""Puts back the times of objects that git marks as used where it would have written one that is there already."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_DEPTH_MAX = 5  # as git has it


class _Times(NamedTuple):
    inode: int
    accessed: int
    changed: int


@contextlib.contextmanager
def kept(objects: Path) -> Iterator[None]:
    """Leave all object files of a store, and of those it borrows from, with the times they had."""
    before = dict(_files(objects))
    try:
        yield
    finally:
        for path, now in _files(objects):
            known = before.get(path)
            if known is not None and known.inode == now.inode and known.changed != now.changed:
                with contextlib.suppress(OSError):
                    os.utime(path, ns=(known.accessed, known.changed))


def _files(objects: Path, depth: int = 0) -> Iterator[tuple[str, _Times]]:
    with contextlib.suppress(OSError), os.scandir(objects) as directories:
        for directory in directories:
            if len(directory.name) != 2 and directory.name != "pack":
                continue
            with contextlib.suppress(OSError), os.scandir(directory) as files:
                for file in files:
                    status = file.stat()
                    yield file.path, _Times(status.st_ino, status.st_atime_ns, status.st_mtime_ns)
    if depth < _DEPTH_MAX:
        for borrowed in _borrowed(objects):
            yield from _files(borrowed, depth + 1)


def _borrowed(objects: Path) -> list[Path]:
    try:
        listed = (objects / "info" / "alternates").read_bytes().splitlines()
    except OSError:
        return []
    return [objects / os.fsdecode(line) for line in listed if line[:1] not in {b"", b"#", b'"'}]
