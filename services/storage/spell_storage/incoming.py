"""Files on their way into an upload: parts in the object store, a blob once all of them are there (shell).

What was acknowledged is kept: a part is durable, and on record, before the offset behind it is told. Parts have keys of
their own, so a copy of this service that was killed leaves nothing that another one could mistake for its own; what is
under no record is swept away later.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import asyncpg

from spell_proto import database, logs
from spell_proto.errors import ConflictError, InvalidError, NotFoundError, RefusedError, shown
from spell_storage.blobs import SMALL_BYTES_MAX, Blobs
from spell_storage.flushing import Flushing
from spell_storage.objects import Objects
from spell_storage.passes import alone, repeat
from spell_storage.quotas import QuotaError

log = logs.get()

_SQL = database.queries("spell_storage", "incoming.sql")
_PREFIX = "parts/"
_OTHER = "what has arrived is not what was announced"
_LOST = "some of what has arrived was lost"
#: A part is as big as this, or what has arrived after so long: a bad line makes progress too.
PART_BYTES_MAX = 4 << 20
PART_SECONDS_MAX = 5.0
#: Objects under no record are this old at least when they are removed: their record may be on its way.
STRAY_SECONDS = 3600.0
#: What an owner has begun is added up so often, not for each of his files.
_BELIEVED_SECONDS = 10.0
#: Asking for more would keep others waiting.
_DIGESTS_AT_ONCE = 1_000
#: How long whoever completes an upload waits for a file that is about to be whole.
FINISHED_SECONDS_MAX = 1800.0


class LockedError(RefusedError):
    """Somebody else is sending this file right now."""

    status = 423


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """How much of a file is here. With `sha256` it is a blob."""

    id: int
    upload_id: int
    compressed: bool
    path: str
    length: int
    received: int
    announced: str | None
    sha256: str | None

    @property
    def whole(self) -> bool:
        return self.received == self.length


@dataclass(slots=True)
class _Begun:
    """What an owner had begun at a time, and what he has begun here since."""

    at: float
    files: int
    bytes: int


class Incoming:
    """The tables `upload_files` and `upload_parts`, and the parts."""

    def __init__(self, pool: asyncpg.Pool, objects: Objects, blobs: Blobs) -> None:
        self._pool = pool
        self._objects = objects
        self._blobs = blobs
        self._flushing = Flushing(objects.settle)
        self._begun: dict[int, _Begun] = {}
        #: Files that are being sent; what is set when they are not any more.
        self._busy: dict[int, asyncio.Event] = {}

    async def create(
        self, owner_id: int, upload_id: int, path: str, length: int, announced: str | None
    ) -> IncomingFile:
        """Begin a file, or go on with it. One whose bytes its owner has here already is whole at once.

        Raises:
            NotFoundError: there is no such upload, or it is complete.
            ConflictError: upload_file_changed.
            QuotaError: its owner would have more than he may.
        """
        await self.check_room(owner_id, upload_id, [path], 1, length)
        await self._pool.execute(_SQL["add_file"], upload_id, owner_id, path, length, announced)
        row = await self._pool.fetchrow(_SQL["file_at"], upload_id, owner_id, path)
        if row is None:
            raise _waits_no_more(upload_id)
        file = (await self._still_there(owner_id, [IncomingFile(**dict(row))]))[0]
        known = file.announced or file.sha256
        if file.length != length or (announced is not None and known not in {None, announced}):
            if not file.compressed:
                raise ConflictError(
                    "upload_file_changed",
                    f"{shown(path)} was begun as another file, of {file.length} bytes, not {length}, or with "
                    "another SHA-256",
                    field="Upload-Length",
                    hint=f"DELETE /api/uploads/{upload_id}/files/{file.id} takes it out of the upload",
                )
            # There is one archive, and this is what it is now.
            await self.begin_again(file)
            await self._pool.execute(_SQL["set_file"], file.id, length, announced)
            return await self.find(owner_id, upload_id, file.id)
        if announced is not None and known is None:
            await self._pool.execute(_SQL["announce"], file.id, announced)
            file = replace(file, announced=announced)
        if file.sha256 is not None or file.compressed:
            return file
        if length == 0:
            return await self.finish(owner_id, file)
        if announced is not None and not await self._blobs.missing(owner_id, [announced]):
            await self._pool.execute(_SQL["finish"], file.id, announced)
            return await self.find(owner_id, upload_id, file.id)
        return file

    async def bring(self, owner_id: int, upload_id: int, path: str, digest: str, data: bytes) -> IncomingFile:
        """A small file in one go: it needs no parts. Raises as `create` does."""
        await self.check_room(owner_id, upload_id, [path], 1, len(data))
        try:
            await self._blobs.put(owner_id, digest, data)
        except InvalidError as error:
            raise _changed(path, _OTHER) if error.code == "digest_mismatch" else error from None
        values = (upload_id, owner_id, path, len(data), digest)
        row = await self._pool.fetchrow(_SQL["add_whole"], *values)
        # It was begun as another file, or its upload is complete by now.
        return (
            await self.create(owner_id, upload_id, path, len(data), digest)
            if row is None
            else IncomingFile(**dict(row))
        )

    async def bring_all(self, owner_id: int, upload_id: int, contents: Mapping[str, bytes]) -> None:
        """Small files together, by their digests, for the manifest to name.

        Raises:
            NotFoundError, QuotaError: as `create` does.
            InvalidError: digest_mismatch; then none is here.
        """
        sizes = {digest: len(data) for digest, data in contents.items()}
        await self.check_room(owner_id, upload_id, list(sizes), len(sizes), sum(sizes.values()))
        await self._blobs.put_all(owner_id, contents)
        columns = list(sizes), list(sizes.values())
        if await self._pool.fetchval(_SQL["add_pack"], upload_id, owner_id, *columns) is None:
            raise _waits_no_more(upload_id)

    async def check_room(
        self, owner_id: int, upload_id: int, paths: Sequence[str] | None, files: int, length: int
    ) -> None:
        """Whether there is room for the files at some paths, or for all of an upload, beside what was begun. Raises QuotaError."""
        quotas, now = self._blobs.quotas, time.monotonic()
        if not quotas.limited(owner_id):
            return
        begun = self._begun.get(owner_id)
        if paths is not None and begun is not None and now - begun.at < _BELIEVED_SECONDS:
            begun.files, begun.bytes = begun.files + files, begun.bytes + length
            # What was begun twice was counted twice: only a refusal has to be looked at again.
            with suppress(QuotaError):
                await quotas.check_room(owner_id, begun.files, begun.bytes)
                return
        row = await self._pool.fetchrow(_SQL["announced"], owner_id, upload_id, paths)
        assert row is not None, "an aggregate always has a row"
        await quotas.check_room(owner_id, row["files"] + files, row["bytes"] + length)
        if paths is not None:
            self._begun = {
                owner: begun for owner, begun in self._begun.items() if now - begun.at < _BELIEVED_SECONDS
            }
            self._begun[owner_id] = _Begun(now, row["files"] + files, row["bytes"] + length)

    async def find(self, owner_id: int, upload_id: int, file_id: int) -> IncomingFile:
        """A file on its way. Raises NotFoundError."""
        return (await self._still_there(owner_id, [await self._find(owner_id, upload_id, file_id)]))[0]

    async def _find(self, owner_id: int, upload_id: int, file_id: int) -> IncomingFile:
        row = await self._pool.fetchrow(_SQL["file"], upload_id, owner_id, file_id)
        if row is None:
            raise NotFoundError(
                "upload_file_not_found", f"there is no file {file_id} in upload {upload_id}", field="file"
            )
        return IncomingFile(**dict(row))

    async def all(self, owner_id: int, upload_id: int) -> list[IncomingFile]:
        """By path."""
        rows = await self._pool.fetch(_SQL["files"], upload_id, owner_id)
        return await self._still_there(owner_id, [IncomingFile(**dict(row)) for row in rows])

    async def _still_there(self, owner_id: int, files: list[IncomingFile]) -> list[IncomingFile]:
        """As much as is here: a file whose blob was lost begins anew."""
        digests, lost = list({file.sha256 for file in files if file.sha256 is not None}), set[str]()
        for at in range(0, len(digests), _DIGESTS_AT_ONCE):
            lost.update(await self._blobs.missing(owner_id, digests[at : at + _DIGESTS_AT_ONCE]))
        for file in files:
            if file.sha256 in lost:
                log.warning("the blob of a file on its way is lost", file_id=file.id, sha256=file.sha256)
                await self._pool.execute(_SQL["forget_blob"], file.id, file.sha256)
        return [replace(file, received=0, sha256=None) if file.sha256 in lost else file for file in files]

    async def append(
        self, owner_id: int, file: IncomingFile, offset: int, pieces: AsyncIterator[bytes]
    ) -> IncomingFile:
        """Add bytes from `offset` on; with the last one the file becomes a blob. What breaks off is kept so far.

        Raises:
            LockedError: it is being sent already.
            ConflictError: offset_conflict, upload_file_changed.
            InvalidError: upload_too_long.
        """
        with self._alone(file):
            file = await self.find(owner_id, file.upload_id, file.id)
            received = file.received
            if offset != received:
                raise _moved(file, offset)
            async for data in _parts(file, received, pieces):
                await self._add(file, received, data)
                received += len(data)
            if received == file.length and not file.compressed:
                return await self._finished(owner_id, file)
            return await self.find(owner_id, file.upload_id, file.id)

    async def finish(self, owner_id: int, file: IncomingFile) -> IncomingFile:
        """Make a file whose bytes are all here a blob; raises as `append` does. One that is a blob stays as it is; where
        somebody makes it one right now, this waits for that.
        """
        until = time.monotonic() + FINISHED_SECONDS_MAX
        while file.id in self._busy and (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._busy[file.id].wait()
        with self._alone(file):
            return await self._finished(owner_id, file)

    async def pieces(self, file: IncomingFile) -> AsyncGenerator[bytes, None]:
        """All bytes of a file that is whole.

        Raises:
            FileNotFoundError: not all of its parts are there.
        """
        for row in await self._pool.fetch(_SQL["parts"], file.id):
            async for piece in self._objects.stream(row["object_key"], 0, row["length"]):
                yield piece

    async def is_other(self, file: IncomingFile) -> ConflictError:
        """Forget a file that is not what was announced; what to answer."""
        await self.begin_again(file)
        return _changed(file.path, _OTHER)

    async def is_lost(self, file: IncomingFile) -> ConflictError:
        """Forget a file of which some is lost; what to answer."""
        await self.begin_again(file)
        return _changed(file.path, _LOST)

    async def remove(self, file: IncomingFile) -> None:
        """Take a file out of its upload. Raises LockedError."""
        with self._alone(file):
            keys = [row["object_key"] for row in await self._pool.fetch(_SQL["parts"], file.id)]
            await self._pool.execute(_SQL["remove_file"], file.id)
            await self._remove(keys)

    async def begin_again(self, file: IncomingFile) -> None:
        """Forget what has arrived of a file: it is not what it should be."""
        keys = [row["object_key"] for row in await self._pool.fetch(_SQL["parts"], file.id)]
        await self._pool.execute(_SQL["begin_again"], file.id)
        await self._remove(keys)

    async def clear(self, upload_id: int) -> None:
        """Remove the parts of an upload that has no files any more."""
        async for keys in self._objects.listed(f"{_PREFIX}{upload_id}/"):
            await self._remove([key for key, _ in keys])

    async def run(self, stop: asyncio.Event, seconds: float, kept_seconds: float) -> None:
        """Sweep every `seconds` until `stop` is set or this is cancelled, which is safe at every line."""
        await repeat(stop, seconds, lambda now: self.sweep(now, kept_seconds), "abandoned uploads")

    async def sweep(self, now: datetime, kept_seconds: float) -> None:
        """Remove uploads that nobody has gone on with for long, and parts under no record."""
        async with alone(self._pool, _SQL["try_lock"], _SQL["unlock"]) as turn:
            if not turn:
                return
            gone = await self._pool.fetch(_SQL["remove_abandoned"], now - timedelta(seconds=kept_seconds))
            strays = 0
            async for objects in self._objects.listed(_PREFIX):
                old = [key for key, at in objects if (now - at).total_seconds() >= STRAY_SECONDS]
                rows = await self._pool.fetch(_SQL["known_parts"], old)
                found = set(old) - {row["object_key"] for row in rows}
                await self._remove(found)
                strays += len(found)
        if gone or strays:
            log.info("abandoned uploads removed", uploads=len(gone), parts=strays)

    async def _add(self, file: IncomingFile, offset: int, data: bytes) -> None:
        key = f"{_PREFIX}{file.upload_id}/{file.id}/{offset}-{secrets.token_hex(8)}"
        await self._objects.put(key, data, synced=True)
        if await self._pool.fetchval(_SQL["add_part"], file.id, offset, len(data), key) is None:
            await self._objects.remove(key)
            raise _moved(file, offset)

    async def _finished(self, owner_id: int, file: IncomingFile) -> IncomingFile:
        file = await self.find(owner_id, file.upload_id, file.id)
        if file.sha256 is not None:
            return file
        if not file.whole:
            raise await self.is_lost(file)
        try:
            await self._store(owner_id, file, file.announced or await self._digest(file), self.pieces(file))
        except FileNotFoundError as error:
            # Another copy of this service may have finished it, or the disk has lost some of it.
            found = await self.find(owner_id, file.upload_id, file.id)
            if found.sha256 is None:
                log.warning("parts of a file are lost", file_id=file.id, problem=str(error))
                raise await self.is_lost(file) from None
        return await self.find(owner_id, file.upload_id, file.id)

    async def _store(
        self, owner_id: int, file: IncomingFile, digest: str | None, pieces: AsyncIterator[bytes]
    ) -> None:
        assert digest is not None, "it was announced, or found"
        try:
            if file.length <= SMALL_BYTES_MAX:
                await self._blobs.put(owner_id, digest, b"".join([piece async for piece in pieces]))
            else:
                await self._blobs.put_stream(owner_id, digest, pieces)
        except InvalidError as error:
            if error.code != "digest_mismatch":
                raise
            raise await self.is_other(file) from None
        keys = [row["object_key"] for row in await self._pool.fetch(_SQL["parts"], file.id)]
        if keys:
            # Each part was durable when it was acknowledged; so is the blob before it takes their place.
            await self._flushing.done()
        await self._pool.execute(_SQL["finish"], file.id, digest)
        await self._remove(keys)

    async def _digest(self, file: IncomingFile) -> str:
        hashing = hashlib.sha256()
        async for piece in self.pieces(file):
            await asyncio.to_thread(hashing.update, piece)
        return hashing.hexdigest()

    async def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            await self._objects.remove(key)

    @contextmanager
    def _alone(self, file: IncomingFile) -> Iterator[None]:
        """Keep two requests of one client apart. Between copies of this service the record does, part by part."""
        if file.id in self._busy:
            raise LockedError("upload_locked", f"{shown(file.path)} is being sent already; try again")
        self._busy[file.id] = asyncio.Event()
        try:
            yield
        finally:
            self._busy.pop(file.id).set()


async def _parts(file: IncomingFile, received: int, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The bytes in parts. What came before the sender was lost is a part too."""
    held, since = bytearray(), time.monotonic()
    try:
        async for piece in pieces:
            held += piece
            if received + len(held) > file.length:
                raise _too_long(file)
            late = time.monotonic() - since >= PART_SECONDS_MAX
            if len(held) >= PART_BYTES_MAX or (late and held):
                received += len(held)
                yield bytes(held)
                held, since = bytearray(), time.monotonic()
    except (ConnectionError, TimeoutError):
        if held:
            yield bytes(held)
        raise
    if held:
        yield bytes(held)


def _waits_no_more(upload_id: int) -> NotFoundError:
    return NotFoundError(
        "upload_not_found", f"there is no upload {upload_id} that waits for files", field="id"
    )


def _moved(file: IncomingFile, offset: int) -> ConflictError:
    return ConflictError(
        "offset_conflict",
        f"Upload-Offset: {offset} is not where {shown(file.path)} goes on; a HEAD request says where",
        field="Upload-Offset",
    )


def _changed(path: str, why: str) -> ConflictError:
    """That a file has to be sent again."""
    return ConflictError(
        "upload_file_changed", f"{shown(path)}: {why}; it has to be sent again", field="sha256"
    )


def _too_long(file: IncomingFile) -> InvalidError:
    return InvalidError(
        "upload_too_long",
        f"{shown(file.path)}: there are more than {file.length} bytes",
        field="Upload-Length",
    )
