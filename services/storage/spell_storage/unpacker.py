"""Makes blobs and a manifest of an archive that was uploaded (shell).

It is read twice by another process: once to see that all of it is as it should be and what its files are, and once for
the bytes that are not here yet. So nothing is stored of an archive that is refused.
"""

import asyncio
import contextlib
import hashlib
import math
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson

from spell_proto.errors import InvalidError, UnavailableError
from spell_proto.shapes import Shape
from spell_proto.views import Manifest, ManifestEntry
from spell_storage.blobs import SMALL_BYTES_MAX, Blobs
from spell_storage.incoming import Incoming, IncomingFile
from spell_storage.manifest_rules import check_paths

AT_ONCE = 2
#: For so long nothing may move: neither bytes of the archive nor what is said of it.
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

    def __init__(
        self,
        incoming: Incoming,
        blobs: Blobs,
        at_once: int = AT_ONCE,
        silent_seconds: float = SILENT_SECONDS_MAX,
    ) -> None:
        self._incoming = incoming
        self._blobs = blobs
        self._turns = asyncio.Semaphore(at_once)
        self._silent_seconds = silent_seconds

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
        manifest = Manifest(entries=tuple(entries))
        await asyncio.to_thread(check_paths, manifest)
        sizes = {entry.sha256: entry.size for entry in entries}
        missing = set(await self._blobs.missing(owner_id, list(sizes)))
        if missing:
            room = sum(sizes[digest] for digest in missing)
            await self._blobs.quotas.check_room(owner_id, len(missing), room)
            await self._store(owner_id, file, entries, missing)
        return manifest

    async def _listed(
        self, file: IncomingFile, hashing: "hashlib._Hash"
    ) -> AsyncGenerator[ManifestEntry, None]:
        async with _reading(
            "list", _hashed(self._incoming.pieces(file), hashing), self._silent_seconds
        ) as answers:
            async for member in answers.members():
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
        async with _reading("bytes", self._incoming.pieces(file), self._silent_seconds) as answers:
            expected = iter(entries)
            async for member in answers.members():
                entry = next(expected)
                assert entry.path == member.path, "the same bytes give the same answers"
                content = answers.content(entry.size)
                if entry.sha256 not in missing:
                    async for _ in content:
                        pass
                elif entry.size <= SMALL_BYTES_MAX:
                    await self._blobs.put(owner_id, entry.sha256, b"".join([data async for data in content]))
                else:
                    await self._blobs.put_stream(owner_id, entry.sha256, content)
                missing.discard(entry.sha256)


class _Answers:
    """What a process says of an archive that it is given. Of a large file nothing is said for long: whoever waits, waits
    until nothing has moved for `silent_seconds`.
    """

    def __init__(
        self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, silent_seconds: float
    ) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._silent_seconds = silent_seconds
        self._waiting: asyncio.Timeout | None = None

    async def feed(self, pieces: AsyncIterator[bytes]) -> None:
        # Whoever refuses an archive reads no more of it.
        with contextlib.suppress(ConnectionError):
            async for piece in pieces:
                self._stdin.write(piece)
                await self._stdin.drain()
                if self._waiting is not None and not self._waiting.expired():
                    self._waiting.reschedule(asyncio.get_running_loop().time() + self._silent_seconds)
            self._stdin.close()

    async def members(self) -> AsyncIterator[_Member]:
        """What is said of every file.

        Raises:
            InvalidError: the archive is refused.
            UnavailableError: the process that reads it was ended, or stands still.
        """
        while True:
            line = await self._heard(self._stdout.readline())
            if not line.endswith(b"\n"):
                raise _broken_off()
            said = orjson.loads(line)
            if "refused" in said:
                raise InvalidError("archive_refused", f"upload.tar.gz: {said['refused']}", field="archive")
            if "end" in said:
                return
            yield _Member(**said)

    async def content(self, size: int) -> AsyncIterator[bytes]:
        """The bytes of the file that was described last. Raises UnavailableError."""
        while size:
            data = await self._heard(self._stdout.read(min(size, _READ_BYTES)))
            if not data:
                raise _broken_off()
            size -= len(data)
            yield data

    async def _heard(self, saying: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._silent_seconds) as self._waiting:
                return await saying
        except TimeoutError:
            raise _broken_off() from None
        finally:
            self._waiting = None


async def _hashed(pieces: AsyncIterator[bytes], hashing: "hashlib._Hash") -> AsyncIterator[bytes]:
    async for piece in pieces:
        hashing.update(piece)
        yield piece


@asynccontextmanager
async def _reading(
    what: str, pieces: AsyncIterator[bytes], silent_seconds: float
) -> AsyncGenerator[_Answers, None]:
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
    answers = _Answers(process.stdin, process.stdout, silent_seconds)
    try:
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(answers.feed(pieces))
            yield answers
            # It has read to the end, or has seen enough.
            feeding.cancel()
    except ExceptionGroup as group:
        # One of the two failed first.
        raise group.exceptions[0] from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _broken_off() -> UnavailableError:
    return UnavailableError("unavailable", "the archive could not be read to its end; try again")


def _moment(seconds: float) -> datetime:
    """A time of an archive, which may be any number."""
    try:
        return datetime.fromtimestamp(seconds if math.isfinite(seconds) else 0, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)
