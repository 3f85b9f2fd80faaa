"""`python -m spell_storage.unpacking list|bytes`: reads a tar.gz on stdin and says on stdout what is in it.

A program of its own, in which an archive of anybody's is read with little memory, no files and nobody's secrets. It
writes to no path: for every file a line of JSON, with `bytes` followed by its bytes, and at last a line that says `end`,
or why the archive is `refused`.
"""

import gzip
import hashlib
import json
import math
import resource
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

#: What all members are below.
ROOT = "upload"
FILES_MAX = 300_000
PATH_BYTES_MAX = 4096
#: What a manifest may say of all files, and what it says of each besides its path.
TOLD_BYTES_MAX = 64 << 20
ENTRY_BYTES = 170
BYTES_MAX = 1 << 40
#: Up to this an archive may hold what it likes, beyond it so many times its own size.
ANY_BYTES_MAX = 64 << 20
RATIO_MAX = 100
MEMORY_BYTES_MAX = 512 << 20
CPU_SECONDS_MAX = 4 * 3600
_READ_BYTES = 1 << 18
_SPECIAL = 0o7000
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_END_BYTES = 1024


class RefusedArchiveError(Exception):
    """An archive that is not what `spell upload --compress` makes."""


@dataclass(frozen=True)
class Limits:
    """How much may be in an archive."""

    files: int = FILES_MAX
    bytes: int = BYTES_MAX
    any_bytes: int = ANY_BYTES_MAX
    ratio: int = RATIO_MAX
    told_bytes: int = TOLD_BYTES_MAX


class Counted:
    """Bytes on their way in, and how many there were."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self.count += len(data)
        return data


class Unfolded:
    """The bytes of a tar within a gzip stream. They never grow beyond what `limits` allow."""

    def __init__(self, raw: IO[bytes], limits: Limits) -> None:
        self._packed = Counted(raw)
        # All it needs of a file is that it can be read.
        self._file = gzip.GzipFile(fileobj=cast(Any, self._packed), mode="rb")
        self._limits = limits
        self.count = 0
        #: Behind the last byte that is not zero.
        self.end = 0
        self.tail = b""

    def read(self, size: int) -> bytes:
        data = bytes(self._file.read(size))
        filled = len(data.rstrip(b"\0"))
        if filled:
            self.end = self.count + filled
        self.count += len(data)
        self.tail = (self.tail + data[-_END_BYTES:])[-_END_BYTES:]
        if self.count > self._limits.bytes:
            raise RefusedArchiveError(f"there are more than {self._limits.bytes} bytes in it")
        if self.count > max(self._limits.any_bytes, self._limits.ratio * self._packed.count):
            raise RefusedArchiveError(f"it unfolds to more than {self._limits.ratio} times its size")
        return data


class Content:
    """The bytes of a file, to be read before the next file is asked for. Raises RefusedArchiveError."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self) -> bytes:
        with _refusing():
            data = self._file.read(_READ_BYTES)
            self._left -= len(data)
            if not data and self._left:
                raise EOFError("a file ends too soon")
        return data


def members(raw: IO[bytes], limits: Limits) -> Iterator[tuple[dict[str, Any], Content]]:
    """What is known of every file, and its bytes.

    Raises:
        RefusedArchiveError: it holds what no upload may hold, too much, or is damaged.
    """
    unfolded, seen, told = Unfolded(raw, limits), set[str](), 0
    with _refusing(), tarfile.open(fileobj=cast(Any, unfolded), mode="r|", encoding="utf-8") as archive:
        while (member := archive.next()) is not None:
            # It would keep all of them.
            archive.members.clear()  # type: ignore[attr-defined]  # the stubs leave it out
            path = checked_path(member)
            if member.isdir():
                continue
            if path in seen:
                raise RefusedArchiveError(f"{path!a} is there twice")
            seen.add(path)
            told += len(path.encode()) + ENTRY_BYTES
            if len(seen) > limits.files:
                raise RefusedArchiveError(f"there are more than {limits.files} files in it")
            if told > limits.told_bytes:
                raise RefusedArchiveError("the paths of its files are too long for so many of them")
            content = archive.extractfile(member)
            assert content is not None, "a regular file has content"
            yield _described(member, path), Content(content, member.size)
        while unfolded.read(_READ_BYTES):
            pass
    if unfolded.end > archive.offset:
        raise RefusedArchiveError("it is damaged, or there is something behind its end")
    if unfolded.tail.strip(b"\0"):
        raise RefusedArchiveError("it is damaged: it does not end as a tar does")


@contextmanager
def _refusing() -> Iterator[None]:
    """Whatever a library makes of bytes that are no archive, it is refused."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise RefusedArchiveError(f"it is damaged, or no tar.gz ({error})") from None
    except MemoryError:
        raise RefusedArchiveError("what describes its files takes too much memory") from None


def checked_path(member: tarfile.TarInfo) -> str:
    """Where a member belongs in the upload; empty for the root.

    Raises:
        RefusedArchiveError: it may not be in an upload.
    """
    name = member.name
    kind = "a link" if member.issym() or member.islnk() else "neither file nor directory"
    if not member.isdir() and (member.type not in _REGULAR or member.sparse is not None):
        raise RefusedArchiveError(f"{name!a} is {kind}")
    first, *parts = name.split("/")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise RefusedArchiveError(f"the name {name!a} is not valid UTF-8") from None
    if first != ROOT or any(part in {"", ".", ".."} for part in parts) or "\0" in name:
        raise RefusedArchiveError(f"{name!a} is not a path below '{ROOT}/'")
    if size > PATH_BYTES_MAX:
        raise RefusedArchiveError(f"the path {name[:40]!a}… is longer than {PATH_BYTES_MAX} bytes")
    if not parts and not member.isdir():
        raise RefusedArchiveError(f"{name!a} is no directory")
    if member.size < 0:
        raise RefusedArchiveError(f"{name!a} is shorter than nothing")
    if member.mode & _SPECIAL and not member.isdir():
        raise RefusedArchiveError(f"{name!a} would run as somebody else: its mode is {member.mode:o}")
    return "/".join(parts)


def _described(member: tarfile.TarInfo, path: str) -> dict[str, Any]:
    moment = float(member.mtime)
    return {
        "path": path,
        "size": member.size,
        "mode": member.mode & 0o777,
        "mtime": moment if math.isfinite(moment) else 0.0,
    }


def tell(raw: IO[bytes], out: IO[bytes], *, with_bytes: bool, limits: Limits) -> None:
    """Answer: see the module. What breaks off in the bytes of a file that was begun is not told, but raised."""
    count, between = 0, True
    try:
        for described, content in members(raw, limits):
            if with_bytes:
                _say(out, described)
            between = not with_bytes
            hashing = hashlib.sha256()
            while data := content.read():
                if with_bytes:
                    out.write(data)
                else:
                    hashing.update(data)
            if not with_bytes:
                _say(out, described | {"sha256": hashing.hexdigest()})
            count, between = count + 1, True
    except RefusedArchiveError as error:
        if not between:
            raise
        _say(out, {"refused": str(error)})
    else:
        _say(out, {"end": count})
    out.flush()


def _say(out: IO[bytes], line: dict[str, Any]) -> None:
    out.write(json.dumps(line, allow_nan=False).encode() + b"\n")


def _confine() -> None:
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_SECONDS_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    _confine()
    tell(sys.stdin.buffer, sys.stdout.buffer, with_bytes=sys.argv[1] == "bytes", limits=Limits())
