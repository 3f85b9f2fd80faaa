"""Archives: what comes out is what went in, equal directories are equal archives, and damage is never unpacked."""

import os
import stat
import subprocess
import sys
import tempfile

import pytest

from spell_proto import archives
from spell_proto.archive_format import ArchiveError, DamagedError, stamp
from spell_proto.errors import FullError


@pytest.fixture
def tree(tmp_path):
    """What an environment may hold: programs, links wherever they lead, empty directories, names that are no text."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "bin/tool").write_bytes(b"#!/bin/sh\n")
    (root / "bin/tool").chmod(0o555)
    (root / "bin/python").symlink_to("/nowhere/python3")
    (root / "up").symlink_to("../..")
    (root / ("deep/" * 30)).mkdir(parents=True)
    (root / ("deep/" * 30) / "x").write_text("deep")
    with open(os.fsencode(root) + b"/\xff\xfe", "wb") as odd:  # noqa: PTH123 -- no text
        odd.write(os.urandom(3 << 20))
    os.utime(root / "bin/tool", (1_600_000_000.7, 1_600_000_000.7))
    os.link(root / "bin/tool", root / "bin/same")
    return root


def described(root):
    found = {}
    for folder, names, files in os.walk(os.fsencode(root)):
        for name in (*names, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 -- bytes
            shape = os.lstat(path)
            content: object = None
            if stat.S_ISLNK(shape.st_mode):
                content = os.readlink(path)  # noqa: PTH115
            elif stat.S_ISREG(shape.st_mode):
                with open(path, "rb") as file:  # noqa: PTH123
                    content = (file.read(), shape.st_mode & 0o777, int(shape.st_mtime))
            found[path.removeprefix(os.fsencode(root))] = content
    return found


async def test_an_archive_holds_all_there_is_and_a_copy_gives_the_same_one_again(tree, tmp_path):
    copy = tmp_path / "copy"
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        packed = await archives.pack(str(tree), first)
        unpacked = await archives.unpack(first, packed.digest, str(copy), sealed=True)

        assert described(copy) == described(tree)
        assert await archives.pack(str(copy), second) == packed
        assert unpacked.stamp == stamp(str(copy))
        assert stat.S_IMODE(copy.stat().st_mode) == 0o555
        assert os.fstat(first.fileno()).st_size == packed.size


async def test_what_was_changed_has_another_stamp(tree):
    before = stamp(str(tree))
    (tree / "bin/tool").chmod(0o755)

    assert stamp(str(tree)) != before


@pytest.mark.parametrize("how", ["flipped", "short", "long"])
async def test_a_damaged_archive_is_refused_before_anything_of_it_is_unpacked(tree, tmp_path, how):
    with tempfile.TemporaryFile() as file:
        packed = await archives.pack(str(tree), file)
        if how == "flipped":
            file.seek(packed.size // 2)
            byte = file.read(1)
            file.seek(packed.size // 2)
            file.write(bytes([byte[0] ^ 1]))
        else:
            file.truncate(packed.size + (1 if how == "long" else -1))
        file.flush()

        with pytest.raises(DamagedError, match="SHA-256"):
            await archives.unpack(file, packed.digest, str(tmp_path / "copy"), sealed=False)

    assert not (tmp_path / "copy").exists()


async def test_what_cannot_be_packed_is_told(tree, tmp_path):
    os.mkfifo(tree / "pipe")
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ArchiveError, match="pipe is neither a file nor a link"):
            await archives.pack(str(tree), file)
        with pytest.raises(ArchiveError, match="No such file"):
            await archives.pack(str(tmp_path / "gone"), file)


async def test_a_full_disk_is_told_apart(tree):
    with open("/dev/full", "r+b", buffering=0) as file, pytest.raises(FullError):  # noqa: PTH123
        await archives.pack(str(tree), file)


_MEASURED = """
import asyncio, resource, sys, tempfile
from spell_proto import archives

async def main(tree, copy):
    with tempfile.TemporaryFile(dir=tree.rpartition("/")[0]) as file:
        packed = await archives.pack(tree, file)
        await archives.unpack(file, packed.digest, copy, sealed=False)

asyncio.run(main(*sys.argv[1:]))
# Not by getrusage: that would begin with what the test itself takes.
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def test_memory_stays_flat_however_large_a_file_is(tmp_path):
    (tmp_path / "large").mkdir()
    with (tmp_path / "large/file").open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(1 << 20))

    argv = [sys.executable, "-c", _MEASURED, str(tmp_path / "large"), str(tmp_path / "copy")]
    kibibytes = int(subprocess.run(argv, capture_output=True, check=True).stdout)

    assert (tmp_path / "copy/file").stat().st_size == 300 << 20
    assert kibibytes < 150 * 1024
