"""The index file of git, version 2: written for files that are laid out already, and read to find them again.

An entry carries the size and the time of its file, so git can tell at a glance that nothing has changed. All else
that it could compare (inode, device, owner) differs between a layer and an overlay over it, and is left zero: the
configuration beside the index says `core.checkStat=minimal`.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_HEADER = struct.Struct(">4sII")
_STATUS = struct.Struct(">10I")
_FLAGS = struct.Struct(">H")
_NAME_MAX = 0xFFF
_WORD = 0xFFFFFFFF

FILE, EXECUTABLE, LINK, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o160000


class Entry(NamedTuple):
    """One file, link or submodule. `name` is its object; `mtime` is in whole seconds."""

    path: bytes
    mode: int
    name: bytes
    size: int
    mtime: int


def encode(entries: Sequence[Entry], directories: Sequence[tuple[bytes, bytes]], root: bytes) -> bytes:
    """An index of `entries`, which are in git's order.

    `directories` are path and tree of every directory, each before those in it; `root` is the whole tree. By them
    git compares the index with a commit without looking at every entry.
    """
    parts = [_HEADER.pack(b"DIRC", 2, len(entries))]
    for path, mode, name, size, mtime in entries:
        flags = min(len(path), _NAME_MAX)
        length = _STATUS.size + len(name) + _FLAGS.size + len(path)
        parts += (
            _STATUS.pack(0, 0, mtime & _WORD, 0, 0, 0, mode, 0, 0, size & _WORD),
            name,
            _FLAGS.pack(flags),
            path,
            # At least one, and so many that the next one begins at a multiple of 8.
            b"\0" * (8 - length % 8),
        )
    trees = _cached_trees(entries, directories, root)
    if trees:
        parts += (b"TREE", len(trees).to_bytes(4, "big"), trees)
    data = b"".join(parts)
    return data + _digest(len(root), data)


def decode(data: bytes) -> Iterator[Entry]:
    """The entries of an index that `encode` made.

    Raises:
        ValueError: it is not whole.
    """
    size = 20 if _sound(data, 20) else 32
    if not _sound(data, size):
        raise ValueError("an index that is not whole")
    _, _, count = _HEADER.unpack_from(data)
    position = _HEADER.size
    before_path = _STATUS.size + size + _FLAGS.size
    for _ in range(count):
        status = _STATUS.unpack_from(data, position)
        name = data[position + _STATUS.size : position + _STATUS.size + size]
        end = data.index(b"\0", position + before_path)
        path = data[position + before_path : end]
        yield Entry(path, status[6], name, status[9], status[2])
        length = before_path + len(path)
        position += length + 8 - length % 8


def _sound(data: bytes, size: int) -> bool:
    return len(data) >= _HEADER.size + size and _digest(size, data[:-size]) == data[-size:]


def _digest(size: int, data: bytes) -> bytes:
    # What git names objects by; nobody relies on its strength here.
    return (hashlib.sha1(data, usedforsecurity=False) if size == 20 else hashlib.sha256(data)).digest()


def _cached_trees(entries: Sequence[Entry], directories: Sequence[tuple[bytes, bytes]], root: bytes) -> bytes:
    files = {b"": 0} | {path: 0 for path, _ in directories}
    below = dict(files)
    for entry in entries:
        files[entry.path.rpartition(b"/")[0]] += 1
    for path, _ in reversed(directories):
        parent = path.rpartition(b"/")[0]
        files[parent] += files[path]
        below[parent] += 1
    if not all(files.values()):
        # A directory without files is in no index; git has to look for itself.
        return b""
    lines = [
        b"%b\0%d %d\n%b" % (path.rpartition(b"/")[2], files[path], below[path], name)
        for path, name in ((b"", root), *directories)
    ]
    return b"".join(lines)
