"""Copies of files share their blocks where the file system can: a real one that can, in an image."""

import fcntl
import os
import shutil
import struct
import subprocess

import pytest

from spell_runner.workspace import copy_file

MIB = 1 << 20
_FIEMAP = 0xC020660B
_FLUSHED_FIRST, _SHARED = 0x1, 0x2000
# struct fiemap without its extents, and one extent.
_ASKED, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQQQIIII")
#: As many as an ioctl of Python takes room for.
_EXTENTS = 16


@pytest.fixture
def cow(tmp_path):
    """A directory on btrfs."""
    if os.geteuid() or shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs root and btrfs-progs")
    image, at = tmp_path / "image", tmp_path / "disk"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, at], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no btrfs can be mounted here: {mounted.stderr.strip()}")
    yield at
    subprocess.run(["umount", at], check=True)


def extents(path):
    """Where the bytes of a file lie on its disk, and whether each piece is another file's as well."""
    asked = _ASKED.pack(0, 1 << 62, _FLUSHED_FIRST, 0, _EXTENTS, 0)
    with path.open("rb") as file:
        told = fcntl.ioctl(file, _FIEMAP, asked + bytes(_EXTENTS * _EXTENT.size))
    count = _ASKED.unpack_from(told)[3]
    found = [_EXTENT.unpack_from(told, _ASKED.size + at * _EXTENT.size) for at in range(count)]
    return [(extent[1], bool(extent[5] & _SHARED)) for extent in found]


def test_a_copy_takes_no_room_until_it_is_written_to_and_never_changes_what_it_was_made_of(cow):
    source, copy = cow / "source", cow / "copy"
    data = os.urandom(8 * MIB)
    source.write_bytes(data)
    source.chmod(0o444)

    copy_file(str(source), copy)

    assert extents(copy) == extents(source)
    assert all(shared for _, shared in extents(copy))
    copy.chmod(0o644)
    with copy.open("r+b") as file:
        file.write(b"mine")
    assert source.read_bytes() == data
    assert copy.read_bytes() == b"mine" + data[4:]
