"""Directories as single files: a tar in order of name, compressed with zstd, known by its SHA-256.

Equal directories give equal archives, and an archive that was unpacked gives the same one again. It is a program of its
own, so that neither its memory nor its thousands of system calls are in the way of whoever asked for it:

    python -m spell_proto.archive_format PARENT pack DIRECTORY DESCRIPTOR
    python -m spell_proto.archive_format PARENT unpack|unpack-sealed DIRECTORY DESCRIPTOR SHA256

It ends with its parent, and prints what came of it as JSON.
"""

import ctypes
import errno
import hashlib
import json
import os
import signal
import stat
import sys
import tarfile
from collections.abc import Iterator
from io import FileIO
from typing import Any

import zstandard

from spell_proto.errors import SpellError

_LEVEL = 3
_PIECE_BYTES = 1 << 20
_NICE = 10
_PR_SET_PDEATHSIG = 1
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ArchiveError(SpellError):
    """An archive could not be made, or not be unpacked."""


class DamagedError(ArchiveError):
    """An archive is not what its digest says."""


def stamp(root: str) -> str:
    """A digest of what the system notes about each file below `root`, and one for byte code.

    Whoever changes a file changes it: it is of sizes, times of change and inodes.
    """
    files, code = hashlib.sha256(), hashlib.sha256()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        lines = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                shape = entry.stat(follow_symlinks=False)
                lines.append(
                    f"{entry.name}\0{shape.st_ino} {shape.st_mode} {shape.st_size} {shape.st_mtime_ns} {shape.st_ctime_ns}"
                )
        lines.sort()
        waiting.sort()
        kind = code if folder.endswith("__pycache__") else files
        kind.update("\n".join([folder.removeprefix(root), *lines]).encode(errors="surrogateescape"))
    return f"{files.hexdigest()} {code.hexdigest()}\n"


def main(argv: list[str]) -> dict[str, Any]:
    """Do what was asked; the answer."""
    parent, verb, path, number, *more = argv
    # What was begun must not go on beside what a successor begins.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        raise SystemExit(1)
    try:
        with FileIO(int(number), "r+b") as file:
            if verb == "pack":
                os.nice(_NICE)
                return _pack(path, file)
            return _unpack(file, more[0], path, sealed=verb == "unpack-sealed")
    except DamagedError as error:
        return {"failed": [str(error)], "kind": "damaged"}
    except OSError as error:
        if error.errno in _FULL:
            return {"failed": ["disk_full", "there is no room left on the disk"], "kind": "full"}
        return {"failed": [str(error)], "kind": "other"}
    except (ArchiveError, tarfile.TarError, zstandard.ZstdError) as error:
        return {"failed": [str(error)], "kind": "other"}


class _Hashing:
    """Writes to a file and takes the digest of what it writes."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.hashing = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hashing.update(data)
        self.size += len(data)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def _pack(source: str, file: FileIO) -> dict[str, Any]:
    written = _Hashing(file)
    squeezing = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with (
        squeezing.stream_writer(written, closefd=False) as stream,  # type: ignore[arg-type]  # it only writes
        tarfile.open(
            fileobj=stream,
            mode="w|",
            format=tarfile.GNU_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
            bufsize=_PIECE_BYTES,
        ) as tar,
    ):
        for name, shape in _walk(source):
            _add(tar, source, name, shape)
            # Of all that it has written, tarfile keeps a list.
            tar.members.clear()  # type: ignore[attr-defined]  # the stubs do not know it
    return {"digest": written.hashing.hexdigest(), "size": written.size}


def _add(tar: tarfile.TarFile, source: str, name: str, shape: os.stat_result) -> None:
    """One entry. Nobody's name, no owner, and of a file's time whole seconds: byte code holds its source's."""
    told = tarfile.TarInfo(name)
    told.mode = stat.S_IMODE(shape.st_mode)
    full = f"{source}/{name}"
    if stat.S_ISDIR(shape.st_mode):
        told.type = tarfile.DIRTYPE
        told.mode = 0o755
        tar.addfile(told)
    elif stat.S_ISLNK(shape.st_mode):
        told.type, told.mode, told.linkname = tarfile.SYMTYPE, 0o777, os.readlink(full)  # noqa: PTH115
        tar.addfile(told)
    elif stat.S_ISREG(shape.st_mode):
        told.size, told.mtime = shape.st_size, int(shape.st_mtime)
        with open(full, "rb") as content:  # noqa: PTH123 -- tens of thousands of files
            tar.addfile(told, content)
    else:
        raise ArchiveError(f"{name} is neither a file nor a link")


def _walk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `root`, directories before what is in them."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(f"{root}/{below}") as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            shape = entry.stat(follow_symlinks=False)
            yield below + entry.name, shape
            if stat.S_ISDIR(shape.st_mode):
                waiting.append(f"{below}{entry.name}/")


def _unpack(file: FileIO, digest: str, target: str, *, sealed: bool) -> dict[str, Any]:
    file.seek(0)
    found = hashlib.sha256()
    while data := file.read(_PIECE_BYTES):
        found.update(data)
    if found.hexdigest() != digest:
        # Before anything of it is believed: from here on names and links are those that were packed.
        raise DamagedError(f"its SHA-256 is {found.hexdigest()}, not {digest}")
    file.seek(0)
    folders, size = [target], 0
    os.mkdir(target, 0o755)  # noqa: PTH102 -- plain strings throughout
    with (
        zstandard.ZstdDecompressor().stream_reader(file, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tar,
    ):
        for told in tar:
            full = f"{target}/{told.name}"
            if told.isdir():
                os.mkdir(full, 0o755)  # noqa: PTH102
                folders.append(full)
            elif told.issym():
                os.symlink(told.linkname, full)  # noqa: PTH211
            else:
                size += _lay(tar, told, full)
            tar.members.clear()  # type: ignore[attr-defined]  # the stubs do not know it
    if sealed:
        for folder in reversed(folders):
            os.chmod(folder, 0o555)  # noqa: PTH101, S103 -- less than before
        # A machine that loses power must not keep the name and lose what it stands for.
        os.sync()
    return {"stamp": stamp(target), "size": size}


def _lay(tar: tarfile.TarFile, told: tarfile.TarInfo, full: str) -> int:
    content = tar.extractfile(told)
    assert content is not None
    fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while data := content.read(_PIECE_BYTES):
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
        os.fchmod(fd, told.mode)
        os.utime(fd, (told.mtime, told.mtime))
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


if __name__ == "__main__":
    json.dump(main(sys.argv[1:]), sys.stdout)
