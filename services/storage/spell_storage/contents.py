"""Reads stored bytes: what is given out was checked, and what is damaged or lost is missing from then on (shell).

Theory of operation
-------------------
A disk, a mount or a network that is away for a moment looks as if it had lost everything. So no look at bytes condemns
them by itself: they are looked at twice, some time apart, and the store must be there (`sentinel`). What fails then
loses its place, but its bytes stay, as *suspects*: they are read again in every pass, and put back where they are whole
after all. Only bytes that were read, and are others, are ever removed while somebody needs them.
"""

import asyncio
import errno
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from spell_proto import database, logs
from spell_proto.errors import GoneError, UnavailableError
from spell_storage import sums
from spell_storage.objects import Objects
from spell_storage.sentinel import Sentinel
from spell_storage.sums import Digesting

log = logs.get()

_SQL = database.queries("spell_storage", "contents.sql")
#: So long after the first look comes the second.
AGAIN_SECONDS = 2.0
_PORTION = 500
#: What a disk says of bytes that it cannot give back.
_DAMAGE = frozenset({errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)})


class DoubtError(Exception):
    """Bytes are not there, or are others, as far as one look at them says."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are here: how many, where they lie, and the checksums of their pieces."""

    sha256: str
    size: int
    key: str
    sums: bytes | None


class Contents:
    """The bytes of objects. `again_seconds` is how long after the first look the second one comes."""

    def __init__(
        self, pool: asyncpg.Pool, objects: Objects, sentinel: Sentinel, again_seconds: float = AGAIN_SECONDS
    ) -> None:
        self._pool = pool
        self._objects = objects
        self._sentinel = sentinel
        self.again_seconds = again_seconds

    async def stream(self, blob: Blob, first: int, length: int) -> AsyncGenerator[bytes, None]:
        """Bytes of a blob, each piece checked before any of it is given out.

        Raises:
            GoneError: they are damaged or lost; the blob is missing from now on.
            UnavailableError: the store is away.
        """
        if length == 0:
            return
        if blob.sums is None:
            blob = await self._summed(blob)
        position, end = sums.covering(first, length, blob.size)
        async with aclosing(self._checked(blob, position, end)) as pieces:
            async for piece in pieces:
                skip, end_of_it = max(0, first - position), first + length - position
                yield piece if skip == 0 and len(piece) <= end_of_it else piece[skip:end_of_it]
                position += len(piece)

    async def small(self, blobs: Iterable[Blob]) -> AsyncGenerator[list[tuple[str, bytes]], None]:
        """Small blobs by their digests, some at a time; without those that are not plainly whole at the first look.

        Raises:
            UnavailableError: the store is away.
        """
        some: list[Blob] = []
        size = 0
        for blob in blobs:
            some.append(blob)
            size += blob.size
            if size >= sums.PIECE_BYTES:
                yield await self._plainly_whole(some)
                some, size = [], 0
        if some:
            yield await self._plainly_whole(some)

    async def _plainly_whole(self, blobs: list[Blob]) -> list[tuple[str, bytes]]:
        found = await self._objects.get_all([blob.key for blob in blobs])
        return [
            (blob.sha256, data)
            for blob, data in zip(blobs, found, strict=True)
            if data is not None and len(data) == blob.size and _is_whole(blob, data)
        ]

    async def checking(self, blob: Blob) -> AsyncGenerator[int, None]:
        """Look at a blob as a whole, once, and compare its SHA-256; how many bytes each step has read.

        Raises:
            DoubtError: it seems damaged or lost.
            UnavailableError: it is not given out, for whatever other reason.
        """
        digesting = Digesting()
        async with aclosing(self._pieces(blob, 0, blob.size)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(digesting.add, piece)
                yield len(piece)
        if digesting.sha256 != blob.sha256:
            raise DoubtError(f"its SHA-256 is {digesting.sha256}")
        await self._pool.execute(_SQL["set_sums"], blob.sha256, blob.key, digesting.sums)

    async def lost(self, rows: Iterable[asyncpg.Record]) -> set[str]:
        """Which of some objects do not lie where they should, as far as that is cheap to say. They are missing from now on.

        Raises:
            UnavailableError: the store is away.
        """
        if not self._objects.local:
            return set()
        # After a power cut a row may be there without its file; a stat each costs little on a local disk.
        blobs = [Blob(row["sha256"], row["size"], row["key"], None) for row in rows]
        doubtful = [blob for blob in blobs if await self._objects.size(blob.key) != blob.size]
        if not doubtful:
            return set()
        await asyncio.sleep(self.again_seconds)
        gone: set[str] = set()
        for blob in doubtful:
            found = await self._objects.size(blob.key)
            if found != blob.size:
                await self.condemn(blob, f"{found} bytes lie there instead of {blob.size}")
                gone.add(blob.sha256)
        return gone

    async def condemn(self, blob: Blob, why: str) -> None:
        """What was looked at twice is missing from now on.

        Raises:
            UnavailableError: the store is away; nothing is said about its bytes.
        """
        await self._sentinel.check()
        if await self._pool.fetchval(_SQL["quarantine"], blob.sha256, blob.key) is not None:
            log.error("stored bytes are damaged or lost", sha256=blob.sha256, key=blob.key, problem=why)

    async def look_again(self, before: datetime) -> int:
        """Read suspects again and put back those that are whole; those that have been others since `before` go. Those
        that cannot be read stay as long as somebody needs them. How many were put back.
        """
        await self._pool.execute(_SQL["give_up_unwanted"])
        last, back = "", 0
        while rows := await self._pool.fetch(_SQL["suspects_after"], last, _PORTION):
            last = rows[-1]["key"]
            for row in rows:
                whole = await self._look_again(Blob(row["sha256"], row["size"], row["key"], None))
                back += whole is True
                if whole is False and row["at"] < before:
                    await self._pool.execute(_SQL["give_up_other"], row["key"])
        return back

    async def _look_again(self, suspect: Blob) -> bool | None:
        """Whether it is whole, and back; None where nobody can say."""
        digesting = Digesting()
        try:
            if await self._objects.size(suspect.key) not in {None, suspect.size}:
                return False
            async with aclosing(self._pieces(suspect, 0, suspect.size)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(digesting.add, piece)
        except (DoubtError, UnavailableError, OSError):
            return None
        if digesting.sha256 != suspect.sha256:
            return False
        told = suspect.sha256, suspect.key, digesting.sums
        if await self._pool.fetchval(_SQL["put_back"], *told) is not None:
            log.warning("stored bytes are whole after all", sha256=suspect.sha256, key=suspect.key)
        return True

    async def _checked(self, blob: Blob, position: int, end: int) -> AsyncGenerator[bytes, None]:
        """Whole pieces that are what they were; one that seems not to be is read twice."""
        assert blob.sums is not None, "an object has its sums once it was read"
        doubted_at = -1
        while position < end:
            try:
                async with aclosing(self._pieces(blob, position, end)) as pieces:
                    async for piece in pieces:
                        if not sums.is_piece(blob.sums, position // sums.PIECE_BYTES, piece):
                            raise DoubtError(f"the bytes from {position} on are others")  # noqa: TRY301 -- as if it could not be read
                        position += len(piece)
                        yield piece
            except DoubtError as doubt:
                if doubted_at == position:
                    await self.condemn(blob, str(doubt))
                    raise damaged(blob.sha256) from doubt
                doubted_at = position
                await asyncio.sleep(self.again_seconds)

    async def _pieces(self, blob: Blob, begin: int, end: int) -> AsyncGenerator[bytes, None]:
        """Whole pieces of an object, however the store hands them out.

        Raises:
            DoubtError: there seem to be fewer.
        """
        held, left = bytearray(), end - begin
        try:
            async with aclosing(self._objects.stream(blob.key, begin, left)) as stream:
                async for data in stream:
                    if not held and len(data) == min(sums.PIECE_BYTES, left):
                        left -= len(data)
                        yield data
                        continue
                    held += data
                    while held and len(held) >= min(sums.PIECE_BYTES, left):
                        piece = bytes(held[: sums.PIECE_BYTES])
                        del held[: len(piece)]
                        left -= len(piece)
                        yield piece
        except OSError as error:
            if error.errno not in _DAMAGE and not isinstance(error, FileNotFoundError):
                raise UnavailableError(
                    "unavailable", f"stored bytes cannot be read: {error.strerror}"
                ) from error
            raise DoubtError(str(error)) from error
        except UnavailableError as error:
            # What is asked for beyond the end of an object is refused like anything else.
            found = await self._objects.size(blob.key)
            if found is None or found >= blob.size:
                raise
            raise DoubtError(f"{found} bytes lie there instead of {blob.size}") from error
        if left:
            raise DoubtError(f"it ends {left} bytes too soon")

    async def _summed(self, blob: Blob) -> Blob:
        """A blob from a time without checksums, read once as a whole before any of it is given out."""
        for last in (False, True):
            try:
                async for _ in self.checking(blob):
                    pass
                break
            except DoubtError as doubt:
                if last:
                    await self.condemn(blob, str(doubt))
                    raise damaged(blob.sha256) from doubt
                await asyncio.sleep(self.again_seconds)
        found = await self._pool.fetchval(_SQL["sums_of"], blob.sha256, blob.key)
        if found is None:
            raise damaged(blob.sha256)
        return replace(blob, sums=found)


def _is_whole(blob: Blob, data: bytes) -> bool:
    """Whether a small blob is what it was, as far as its sum says."""
    return blob.size == 0 or (blob.sums is not None and sums.is_piece(blob.sums, 0, data))


def damaged(digest: str) -> GoneError:
    """The answer to who asks for bytes that are not here any more."""
    return GoneError("blob_damaged", f"the bytes of {digest} are damaged or lost; they are not given out")
