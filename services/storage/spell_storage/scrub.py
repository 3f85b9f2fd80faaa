"""Reads every stored file again, says which are damaged or lost and what they are called, and finds bytes on no record."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from spell_proto import database, logs, resources
from spell_proto.errors import ConflictError, GoneError, NotFoundError
from spell_proto.git import PLATFORM
from spell_proto.scrubbing import DamagedFile, ScrubLine
from spell_storage import manifests, passes
from spell_storage.blobs import Blobs
from spell_storage.contents import Blob, DoubtError
from spell_storage.objects import Objects

log = logs.get()

_SQL = database.queries("spell_storage", "scrub.sql")
PORTION = 500
#: How often it says how far it is.
SAY_SECONDS = 1.0
#: Of a file that is in more manifests than this, only so many are named.
NAMED_MAX = 100
_PREFIX = "blobs/"
_DIGEST_CHARS = 64


@dataclass(slots=True)
class _Count:
    bytes_of_all: int
    files: int = 0
    bytes: int = 0
    damaged: int = 0

    def line(self, *found: DamagedFile, strays: int = 0, done: bool = False) -> ScrubLine:
        return ScrubLine(
            files=self.files,
            bytes=self.bytes,
            bytes_of_all=max(self.bytes_of_all, self.bytes),
            damaged=self.damaged,
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
        """Check everything, and say so as it goes.

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
            strays = await self._give_up_strays(datetime.now(UTC) - self._kept)
            yield count.line(strays=strays, done=True)

    async def _check_all(self, count: _Count) -> AsyncGenerator[ScrubLine, None]:
        last = 0
        while rows := await self._pool.fetch(_SQL["objects_after"], last, PORTION):
            last = rows[-1]["id"]
            doubts: dict[str, str] = {}
            async with aclosing(self._look(rows, count, doubts)) as lines:
                async for line in lines:
                    yield line
            if doubts:
                await asyncio.sleep(self._blobs.contents.again_seconds)
                await self._condemn([row for row in rows if row["sha256"] in doubts])
            count.files += len(rows)
            damaged = await self._pool.fetch(_SQL["damaged_of"], [row["id"] for row in rows])
            for row in damaged:
                count.damaged += 1
                yield count.line(*await self._names(row))

    async def _look(
        self, rows: Sequence[asyncpg.Record], count: _Count, doubts: dict[str, str]
    ) -> AsyncGenerator[ScrubLine, None]:
        """Read objects once; `doubts` are those that seem damaged."""
        said_at = time.monotonic()
        for row in rows:
            if row["key"] is None:
                continue
            try:
                async with aclosing(self._blobs.contents.checking(_blob(row))) as sizes:
                    async for size in sizes:
                        count.bytes += size
                        if time.monotonic() - said_at >= SAY_SECONDS:
                            yield count.line()
                            said_at = time.monotonic()
            except DoubtError as doubt:
                doubts[row["sha256"]] = str(doubt)

    async def _condemn(self, rows: Sequence[asyncpg.Record]) -> None:
        """Read what seems damaged a second time."""
        for row in rows:
            try:
                async for _ in self._blobs.contents.checking(_blob(row)):
                    pass
            except DoubtError as doubt:
                await self._blobs.contents.condemn(_blob(row), str(doubt))

    async def _names(self, row: asyncpg.Record) -> list[DamagedFile]:
        """What a damaged object is called, in each manifest that needs it."""
        found: list[DamagedFile] = []
        for needing in await self._pool.fetch(_SQL["needed_by"], row["id"], NAMED_MAX):
            owner_id, digest, upload = needing
            top = resources.PUBLIC if owner_id == PLATFORM else resources.UPLOADS
            for path in await self._paths(owner_id, digest, row["sha256"]):
                name = None if upload is None else "/".join(filter(None, (top, upload, path)))
                found.append(
                    DamagedFile(
                        sha256=row["sha256"],
                        size=row["size"],
                        owner_id=owner_id,
                        name=name,
                        manifest=digest,
                        path=path,
                    )
                )
        return found or [DamagedFile(sha256=row["sha256"], size=row["size"])]

    async def _paths(self, owner_id: int, digest: str, sha256: str) -> list[str]:
        """Where in a manifest a file is; the manifest itself is at the empty path."""
        if digest == sha256:
            return [""]
        try:
            data = await self._blobs.manifest(owner_id, digest)
        except (NotFoundError, GoneError):
            return [""]
        manifest = await asyncio.to_thread(manifests.MANIFEST.validate_json, data)
        return [entry.path for entry in manifest.entries if entry.link is None and entry.sha256 == sha256]

    async def _give_up_strays(self, before: datetime) -> int:
        """Have bytes removed that are on no record, which only a power cut leaves; how many there were."""
        count = 0
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


def _blob(row: asyncpg.Record) -> Blob:
    return Blob(row["sha256"], row["size"], row["key"], sums=None)
