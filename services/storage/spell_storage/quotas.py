"""How much an owner may have saved: contents count once, however many of his runs and uploads have them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

import asyncpg

from spell_proto import database
from spell_proto.errors import RefusedError
from spell_proto.git import PLATFORM
from spell_proto.views import FilesUse
from spell_storage.housekeeping import InUse

_SQL = database.queries("spell_storage", "quotas.sql")
#: The sum that saves keep is added up anew after so long, whatever happens; and that may take so long.
_ADDED_UP_WITHIN = timedelta(hours=1)
_SCAN_SECONDS_MAX = 600.0
#: Saves that have their sums taken at once: the pool has connections for others, too.
_AT_ONCE = 3
#: How old the sum may be by which a beginning is judged; the end is judged by what is true then.
_BELIEVED_SECONDS = 10.0
#: Whoever has stored a manifest names it within so long: a run reports it, an upload is complete.
NAMED_WITHIN = timedelta(minutes=15)
_ROOM = "'spell archive' and 'spell rm' make room"
_UNITS = ("bytes", "KB", "MB", "GB", "TB")


class QuotaError(RefusedError):
    """An owner would have more than he may."""

    status = 413


def check(before: FilesUse, after: FilesUse) -> None:
    """What adds nothing is always let through, also where the limit was lowered since.

    Raises:
        QuotaError: a limit is passed.
    """
    told: list[str] = []
    if before.files < after.files > after.files_max > 0:
        told.append(f"{after.files} files, {after.files_max} are allowed")
    if before.bytes < after.bytes > after.bytes_max > 0:
        told.append(f"{shown_bytes(after.bytes)}, {shown_bytes(after.bytes_max)} are allowed")
    if told:
        raise QuotaError(
            "quota_exceeded",
            f"your saved files would be {' and '.join(told)}; {_ROOM}",
            field="bytes",
        )


def full(use: FilesUse) -> str | None:
    """A sentence where an owner has as much as he may, or more: what has run is kept, but nothing begins. Pure."""
    told: list[str] = []
    if use.files >= use.files_max > 0:
        told.append(f"{use.files} files, {use.files_max} are allowed")
    if use.bytes >= use.bytes_max > 0:
        told.append(f"{shown_bytes(use.bytes)}, {shown_bytes(use.bytes_max)} are allowed")
    return f"your saved files are {' and '.join(told)}; {_ROOM}" if told else None


def shown_bytes(size: int) -> str:
    """As in `12.3 GB`, with so many digits that two sizes that differ a little differ in print."""
    exponent = min(len(_UNITS) - 1, max(0, (size.bit_length() - 1) // 10))
    return f"{size} bytes" if exponent == 0 else f"{size / 1024**exponent:.4g} {_UNITS[exponent]}"


@dataclass(frozen=True, slots=True)
class Before:
    """What an owner had, and whether a manifest was among it already."""

    use: FilesUse
    counted: bool


class Quotas:
    """The limits for every owner; 0 means none. What the platform publishes has no limit."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        files_max: int,
        bytes_max: int,
        in_use: InUse | None,
        let_go: InUse | None = None,
    ) -> None:
        self._pool = pool
        self._files_max = files_max
        self._bytes_max = bytes_max
        self._in_use = in_use
        self._let_go = let_go
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._known: dict[int, tuple[float, FilesUse]] = {}

    def limited(self, owner_id: int) -> bool:
        return owner_id != PLATFORM and bool(self._files_max or self._bytes_max)

    async def use(self, owner_id: int) -> FilesUse:
        """What an owner has, and may have."""
        if self.limited(owner_id):
            found = await self._added_up(self._pool, owner_id)
            if found is not None:
                return found
        async with self._pool.acquire() as connection, connection.transaction():
            return await self._scan(connection, owner_id)

    async def check_room(self, owner_id: int, files: int, size: int) -> None:
        """Whether so many new contents would fit. Raises QuotaError."""
        if not self.limited(owner_id):
            return
        try:
            await self._check_room(owner_id, files, size)
        except QuotaError:
            if not await self.look_again(owner_id):
                raise
            await self._check_room(owner_id, files, size)

    @asynccontextmanager
    async def turn(self, owner_id: int) -> AsyncIterator[None]:
        """Wait for those who add to what this owner has, before a connection is taken that others need."""
        if not self.limited(owner_id):
            yield
            return
        async with self._turns.setdefault(owner_id, asyncio.Lock()), self._at_once:
            yield

    async def check_not_full(self, owner_id: int) -> None:
        """Whether anything may begin that will save files. Raises QuotaError."""
        if self.limited(owner_id) and full(await self._lately(owner_id)):
            # What was archived or removed a moment ago has made room.
            await self.look_again(owner_id)
            problem = full(await self.use(owner_id))
            if problem is not None:
                raise QuotaError("quota_exceeded", problem)

    async def lock(self, connection: Any, owner_id: int) -> None:
        """Until the end of a transaction nobody else adds to what this owner has."""
        if self.limited(owner_id):
            await connection.execute(_SQL["lock_owner"], owner_id)

    async def before(self, connection: Any, owner_id: int, digest: str) -> Before | None:
        """What an owner has before a transaction that has locked him adds a manifest; None where he has no limit."""
        if not self.limited(owner_id):
            return None
        found = await self._added_up(connection, owner_id)
        if found is None:
            found = await self._scan(connection, owner_id)
            await connection.execute(_SQL["add_up"], owner_id, found.files, found.bytes)
        return Before(found, counted=await connection.fetchval(_SQL["is_counted"], owner_id, digest))

    async def add(
        self, connection: Any, owner_id: int, manifest_id: int, before: Before | None, *, beyond: bool
    ) -> str | None:
        """Count a manifest that this transaction has just made; a sentence where its owner has as much as he may from here
        on. Raises QuotaError: it does not fit, and nothing `beyond` the limit is to be kept.
        """
        if before is None or before.counted:
            return None if before is None else full(before.use)
        added = await connection.fetchrow(_SQL["added"], owner_id, manifest_id)
        had = before.use
        has = had.model_copy(
            update={"files": had.files + added["files"], "bytes": had.bytes + added["bytes"]}
        )
        if not beyond:
            check(had, has)
        await connection.execute(_SQL["add_to_it"], owner_id, added["files"], added["bytes"])
        return full(has)

    async def forget(self, owner_ids: Iterable[int]) -> None:
        """Some of what these owners have is named no more, or again: it is added up anew."""
        for owner_id in sorted(set(owner_ids)):
            if not self.limited(owner_id):
                continue
            # Under the lock, and in a statement of its own: after it, nobody adds what he saw before.
            with suppress(asyncpg.LockNotAvailableError):
                async with self._pool.acquire() as connection, connection.transaction():
                    await self.lock(connection, owner_id)
                    await connection.execute(_SQL["forget_it"], owner_id)

    async def look_again(self, owner_id: int) -> bool:
        """Count no more what nothing names since the last pass; whether there was any of that. What was stored lately
        is about to be named: it counts, unless it was named and is not any more.
        """
        if self._in_use is None:
            return False
        rows = await self._pool.fetch(_SQL["maybe_unnamed"], owner_id, datetime.now(UTC) - NAMED_WITHIN)
        try:
            named = await _asked(self._in_use, owner_id, [row["digest"] for row in rows])
            young = [row["digest"] for row in rows if row["young"] and row["digest"] not in named]
            kept = named | (set(young) - await _asked(self._let_go, owner_id, young))
        except RefusedError:
            return False
        gone = [row["id"] for row in rows if row["digest"] not in kept]
        await self._pool.execute(_SQL["set_unnamed"], gone)
        if gone:
            await self.forget([owner_id])
        self._known.pop(owner_id, None)
        return bool(gone)

    async def _check_room(self, owner_id: int, files: int, size: int) -> None:
        before = await self._lately(owner_id)
        update = {"files": before.files + files, "bytes": before.bytes + size}
        check(before, before.model_copy(update=update))

    async def _lately(self, owner_id: int) -> FilesUse:
        """What an owner had a moment ago: who begins an upload asks for each of its files."""
        at, known = self._known.get(owner_id, (0.0, None))
        if known is None or time.monotonic() - at > _BELIEVED_SECONDS:
            at, known = time.monotonic(), await self.use(owner_id)
            self._known = {
                owner: told for owner, told in self._known.items() if at - told[0] < _BELIEVED_SECONDS
            }
            self._known[owner_id] = (at, known)
        return known

    async def _added_up(self, connection: Any, owner_id: int) -> FilesUse | None:
        row = await connection.fetchrow(_SQL["added_up"], owner_id, datetime.now(UTC) - _ADDED_UP_WITHIN)
        return None if row is None else self._shown(row)

    async def _scan(self, connection: Any, owner_id: int) -> FilesUse:
        """In a transaction: who has saved much waits longer."""
        await connection.execute(f"SET LOCAL statement_timeout = {int(_SCAN_SECONDS_MAX * 1000)}")
        return self._shown(await connection.fetchrow(_SQL["use"], owner_id, timeout=_SCAN_SECONDS_MAX))

    def _shown(self, row: Any) -> FilesUse:
        return FilesUse(
            files=row["files"], bytes=row["bytes"], files_max=self._files_max, bytes_max=self._bytes_max
        )


async def _asked(ask: InUse | None, owner_id: int, digests: Sequence[str]) -> set[str]:
    return await ask(owner_id, digests) if ask is not None and digests else set()
