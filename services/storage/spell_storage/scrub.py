"""Reads every stored file again, says which are damaged or lost and what they are called, and finds bytes on no record."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncpg

from spell_proto import database, logs
from spell_proto.errors import ConflictError, UnavailableError
from spell_proto.scrubbing import DamagedFile, ScrubLine
from spell_storage import passes
from spell_storage.blobs import Blobs
from spell_storage.contents import Blob, DoubtError
from spell_storage.naming import Naming
from spell_storage.objects import Objects

log = logs.get()

_SQL = database.queries("spell_storage", "scrub.sql")
PORTION = 500
#: How often it says how far it is.
SAY_SECONDS = 1.0
#: So many names are told in a line.
_NAMED_AT_ONCE = 100
#: A store of which more cannot be read is not checked to its end.
UNREADABLE_MAX = 10_000
#: A check that broke off is gone on with for so long.
_GONE_ON_WITH = timedelta(days=1)
_PREFIX = "blobs/"
_DIGEST_CHARS = 64


@dataclass(slots=True)
class _Count:
    bytes_of_all: int
    files: int = 0
    bytes: int = 0
    damaged: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)

    def line(self, *found: DamagedFile, strays: int = 0, done: bool = False) -> ScrubLine:
        return ScrubLine(
            files=self.files,
            bytes=self.bytes,
            bytes_of_all=max(self.bytes_of_all, self.bytes),
            damaged=len(self.damaged),
            unreadable=len(self.unreadable),
            found=found,
            strays=strays,
            done=done,
        )


class Scrub:
    """A check of the whole store. What it finds damaged is missing from then on, so that it is asked for again."""

    def __init__(self, pool: asyncpg.Pool, objects: Objects, blobs: Blobs, kept_seconds: float) -> None:
        self._pool = pool
        self._objects = objects
        self._blobs = blobs
        self._kept = timedelta(seconds=kept_seconds)

    async def lines(self) -> AsyncGenerator[ScrubLine, None]:
        """Check everything, and say so as it goes. One that broke off lately is gone on with.

        Raises:
            ConflictError: a check goes on already.
            UnavailableError: the store is away.
        """
        async with passes.alone(self._pool, _SQL["try_lock"], _SQL["unlock"]) as alone:
            if not alone:
                raise ConflictError("check_goes_on", "the stored files are being checked already")
            await self._blobs.sentinel.check()
            await self._blobs.contents.look_again(datetime.now(UTC) - self._kept)
            count = _Count(await self._pool.fetchval(_SQL["bytes_of_all"]))
            yield count.line()
            async with aclosing(self._check_all(count)) as lines:
                async for line in lines:
                    yield line
            naming = Naming(self._pool, self._blobs, count.unreadable)
            async with aclosing(naming.files([*count.damaged, *count.unreadable])) as named:
                async for files in named:
                    for start in range(0, len(files), _NAMED_AT_ONCE):
                        yield count.line(*files[start : start + _NAMED_AT_ONCE])
            strays = await self._give_up_strays(datetime.now(UTC) - self._kept)
            await self._pool.execute(_SQL["set_done"])
            yield count.line(strays=strays, done=True)

    async def _check_all(self, count: _Count) -> AsyncGenerator[ScrubLine, None]:
        last, rows = await self._begin(count)
        while rows := rows or await self._pool.fetch(_SQL["objects_after"], last, PORTION):
            last = max(last, rows[-1]["id"])
            async with aclosing(self._check(rows, count)) as lines:
                async for line in lines:
                    yield line
            rows = []
            if len(count.unreadable) > UNREADABLE_MAX:
                raise UnavailableError(
                    "unavailable",
                    f"more than {UNREADABLE_MAX} stored files cannot be read; see the log of storage",
                )
            await self._pool.execute(_SQL["set_checked"], last, count.unreadable)
            yield count.line()

    async def _begin(self, count: _Count) -> tuple[int, list[asyncpg.Record]]:
        """After which object the check goes on, and what could not be read up to there."""
        begun = await self._pool.fetchrow(_SQL["begun"], datetime.now(UTC) - _GONE_ON_WITH)
        if begun is None:
            return 0, []
        before = await self._pool.fetchrow(_SQL["checked_before"], begun["last_id"], begun["unreadable"])
        assert before is not None, "an aggregate always has a row"
        count.files, count.bytes = before["files"], before["bytes"]
        count.damaged += [
            row["id"] for row in await self._pool.fetch(_SQL["damaged_before"], begun["last_id"])
        ]
        return begun["last_id"], await self._pool.fetch(_SQL["objects"], begun["unreadable"])

    async def _check(self, rows: Sequence[asyncpg.Record], count: _Count) -> AsyncGenerator[ScrubLine, None]:
        """Look at objects; at those that seem to be damaged, or are not given out, once more after a while."""
        outcome = _Outcome()
        looked_at: Sequence[asyncpg.Record] = [row for row in rows if row["key"] is not None]
        for pause in (0.0, 1.0, 5.0):
            if looked_at and pause:
                await asyncio.sleep(pause * self._blobs.contents.again_seconds)
            again, outcome = outcome, _Outcome()
            async with aclosing(self._look(looked_at, count, outcome, first=not pause)) as lines:
                async for line in lines:
                    yield line
            for row in looked_at:
                # Two looks, one after the other.
                if row["id"] in outcome.doubts and row["id"] in again.doubts:
                    await self._blobs.contents.condemn(_blob(row), outcome.doubts.pop(row["id"]))
            looked_at = [row for row in looked_at if row["id"] in outcome.doubts | outcome.unread]
        if looked_at:
            # Either the store is away, and this breaks off, or it is these objects alone.
            await self._blobs.sentinel.check()
            told = {row["key"]: (outcome.doubts | outcome.unread)[row["id"]] for row in looked_at[:10]}
            log.error("stored bytes cannot be read", count=len(looked_at), problems=told)
        ids = [row["id"] for row in rows]
        count.files += len(ids)
        count.unreadable += [row["id"] for row in looked_at]
        count.damaged += [row["id"] for row in await self._pool.fetch(_SQL["damaged_of"], ids)]

    async def _look(
        self, rows: Sequence[asyncpg.Record], count: _Count, outcome: "_Outcome", *, first: bool
    ) -> AsyncGenerator[ScrubLine, None]:
        """Read objects once."""
        said_at = time.monotonic()
        for row in rows:
            try:
                async with aclosing(self._blobs.contents.checking(_blob(row))) as sizes:
                    async for size in sizes:
                        count.bytes += size if first else 0
                        if time.monotonic() - said_at >= SAY_SECONDS:
                            yield count.line()
                            said_at = time.monotonic()
            except DoubtError as doubt:
                outcome.doubts[row["id"]] = str(doubt)
            except UnavailableError as error:
                outcome.unread[row["id"]] = str(error)

    async def _give_up_strays(self, before: datetime) -> int:
        """Have bytes removed that are on no record, which only a power cut leaves; how many there were."""
        count = await self._objects.clear_unfinished(before)
        if await self._blobs.sentinel.is_shared():
            log.warning("bytes on no record are left: another database keeps files in the same object store")
            return count
        async for listed in self._objects.listed(_PREFIX):
            old = [key for key, modified_at in listed if modified_at < before]
            digests = [key.rpartition("/")[2][:_DIGEST_CHARS] for key in old]
            strays = [row["key"] for row in await self._pool.fetch(_SQL["strays"], old, digests)]
            await self._pool.execute(_SQL["give_up"], strays)
            count += len(strays)
        return count


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of looking at objects, by id: those that seem damaged, and those that were not given out."""

    doubts: dict[int, str] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)


def _blob(row: asyncpg.Record) -> Blob:
    return Blob(row["sha256"], row["size"], row["key"], sums=None)
