"""How much an owner may have saved: contents count once, however many of his runs and uploads have them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from spell_proto import database
from spell_proto.errors import RefusedError
from spell_proto.git import PLATFORM
from spell_proto.views import FilesUse
from spell_storage.housekeeping import InUse

_SQL = database.queries("spell_storage", "quotas.sql")
_NO_MANIFEST = -1
#: How old the sum may be by which a beginning is judged; the end is judged by what is true then.
_BELIEVED_SECONDS = 10.0
#: Whoever has stored a manifest names it within so long: a run reports it, an upload is complete.
NAMED_WITHIN = timedelta(minutes=15)
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
            f"your saved files would be {' and '.join(told)}; 'spell archive' and 'spell rm' make room",
            field="bytes",
        )


def shown_bytes(size: int) -> str:
    """As in `12.3 GB`, with so many digits that two sizes that differ a little differ in print."""
    exponent = min(len(_UNITS) - 1, max(0, (size.bit_length() - 1) // 10))
    return f"{size} bytes" if exponent == 0 else f"{size / 1024**exponent:.4g} {_UNITS[exponent]}"


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
        self._known: dict[int, tuple[float, FilesUse]] = {}

    def limited(self, owner_id: int) -> bool:
        return owner_id != PLATFORM and bool(self._files_max or self._bytes_max)

    async def use(self, owner_id: int) -> FilesUse:
        """What an owner has, and may have."""
        return await self._use(self._pool, owner_id, _NO_MANIFEST)

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

    async def lock(self, connection: Any, owner_id: int) -> None:
        """Until the end of a transaction nobody else adds to what this owner has."""
        if self.limited(owner_id):
            await connection.execute(_SQL["lock_owner"], owner_id)

    async def check_added(self, connection: Any, owner_id: int, manifest_id: int) -> None:
        """Whether a manifest that this transaction has just made fits. Raises QuotaError."""
        if self.limited(owner_id):
            before = await self._use(connection, owner_id, manifest_id)
            check(before, await self._use(connection, owner_id, _NO_MANIFEST))

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

    async def _use(self, connection: Any, owner_id: int, without: int) -> FilesUse:
        row = await connection.fetchrow(_SQL["use"], owner_id, without)
        return FilesUse(
            files=row["files"], bytes=row["bytes"], files_max=self._files_max, bytes_max=self._bytes_max
        )


async def _asked(ask: InUse | None, owner_id: int, digests: Sequence[str]) -> set[str]:
    return await ask(owner_id, digests) if ask is not None and digests else set()
