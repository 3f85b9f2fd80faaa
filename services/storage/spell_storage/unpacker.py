"""Makes blobs and a manifest of an archive that was uploaded (shell).

It is read twice by another process: once to see that all of it is as it should be and what its files are, and once for
the bytes that are not here yet. So nothing is stored of an archive that is refused.
"""

import asyncio
import contextlib
import hashlib
import math
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson

from spell_proto.errors import InvalidError, UnavailableError
from spell_proto.shapes import Shape
from spell_proto.views import Manifest, ManifestEntry
from spell_storage.blobs import SMALL_BYTES_MAX, Blobs
from spell_storage.incoming import Incoming, IncomingFile

AT_ONCE = 2
SILENT_SECONDS_MAX = 120.0
_LINE_BYTES_MAX = 1 << 18
_READ_BYTES = 1 << 20


class _Member(Shape):
    """What is said of a file in an archive."""

    path: str
    size: int
    mode: int
    mtime: float
    sha256: str = ""


class Unpacker:
    """Reads archives, a few at once."""

    def __init__(self, incoming: Incoming, blobs: Blobs, at_once: int = AT_ONCE) -> None:
        self._incoming = incoming
        self._blobs = blobs
        self._turns = asyncio.Semaphore(at_once)

    async def manifest(self, owner_id: int, file: IncomingFile) -> Manifest:
        """What an archive that has arrived holds; all of it is stored when this returns.

        Raises:
            InvalidError: archive_refused.
            ConflictError: upload_file_changed.
        """
        try:
            async with self._turns:
                return await self._manifest(owner_id, file)
        except FileNotFoundError:
            raise await self._incoming.is_lost(file) from None

    async def _manifest(self, owner_id: int, file: IncomingFile) -> Manifest:
        hashing = hashlib.sha256()
        entries = [entry async for entry in self._listed(file, hashing)]
        if file.announced not in {None, hashing.hexdigest()}:
            raise await self._incoming.is_other(file)
        missing = set(await self._blobs.missing(owner_id, [entry.sha256 for entry in entries]))
        if missing:
            await self._store(owner_id, file, entries, missing)
        return Manifest(entries=tuple(entries))

    async def _listed(
        self, file: IncomingFile, hashing: "hashlib._Hash"
    ) -> AsyncGenerator[ManifestEntry, None]:
        async with _reading("list", _hashed(self._incoming.pieces(file), hashing)) as answers:
            async for member in _members(answers):
                yield ManifestEntry(
                    path=member.path,
                    size=member.size,
                    sha256=member.sha256,
                    mode=member.mode,
                    modified_at=_moment(member.mtime),
                )

    async def _store(
        self, owner_id: int, file: IncomingFile, entries: list[ManifestEntry], missing: set[str]
    ) -> None:
        async with _reading("bytes", self._incoming.pieces(file)) as answers:
            expected = iter(entries)
            async for member in _members(answers):
                entry = next(expected)
                assert entry.path == member.path, "the same bytes give the same answers"
                content = _content(answers, entry.size)
                if entry.sha256 not in missing:
                    async for _ in content:
                        pass
                elif entry.size <= SMALL_BYTES_MAX:
                    await self._blobs.put(owner_id, entry.sha256, b"".join([data async for data in content]))
                else:
                    await self._blobs.put_stream(owner_id, entry.sha256, content)
                missing.discard(entry.sha256)


async def _hashed(pieces: AsyncIterator[bytes], hashing: "hashlib._Hash") -> AsyncIterator[bytes]:
    async for piece in pieces:
        hashing.update(piece)
        yield piece


@asynccontextmanager
async def _reading(what: str, pieces: AsyncIterator[bytes]) -> AsyncGenerator[asyncio.StreamReader, None]:
    """The answers of a process that is given an archive, and ends with this."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-B", "-m", "spell_storage.unpacking", what),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        limit=_LINE_BYTES_MAX,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(_feed(process.stdin, pieces))
            yield process.stdout
            # It has read to the end, or has seen enough.
            feeding.cancel()
    except ExceptionGroup as group:
        # One of the two failed first.
        raise group.exceptions[0] from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _feed(stdin: asyncio.StreamWriter, pieces: AsyncIterator[bytes]) -> None:
    # Whoever refuses an archive reads no more of it.
    with contextlib.suppress(ConnectionError):
        async for piece in pieces:
            stdin.write(piece)
            await stdin.drain()
        stdin.close()


async def _members(answers: asyncio.StreamReader) -> AsyncIterator[_Member]:
    """What is said of every file.

    Raises:
        InvalidError: the archive is refused.
        UnavailableError: the process that reads it was ended.
    """
    while True:
        async with asyncio.timeout(SILENT_SECONDS_MAX):
            line = await answers.readline()
        if not line.endswith(b"\n"):
            raise UnavailableError("unavailable", "the archive could not be read to its end; try again")
        said = orjson.loads(line)
        if "refused" in said:
            raise InvalidError("archive_refused", f"upload.tar.gz: {said['refused']}", field="archive")
        if "end" in said:
            return
        yield _Member(**said)


async def _content(answers: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        async with asyncio.timeout(SILENT_SECONDS_MAX):
            data = await answers.read(min(size, _READ_BYTES))
        if not data:
            raise UnavailableError("unavailable", "the archive could not be read to its end; try again")
        size -= len(data)
        yield data


def _moment(seconds: float) -> datetime:
    """A time of an archive, which may be any number."""
    try:
        return datetime.fromtimestamp(seconds if math.isfinite(seconds) else 0, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)
