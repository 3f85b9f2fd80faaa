"""Tells the object store of this database from one that is away, and from any other (shell).

A directory that is not mounted looks like an empty one, a bucket whose name was mistyped like one that has lost
everything. So the store holds one object that the database knows; where that is not found, nothing is condemned,
removed or added.
"""

import secrets
import time

import asyncpg

from spell_proto import database, logs
from spell_proto.errors import UnavailableError
from spell_storage.objects import Objects

log = logs.get()

_SQL = database.queries("spell_storage", "sentinel.sql")
_PREFIX = "store/"
#: Of a store that has had no such object so far, so many stored files are looked for.
_SAMPLES = 20


class Sentinel:
    """The object `store/ID`, and the table `store` that has its ID."""

    def __init__(self, pool: asyncpg.Pool, objects: Objects) -> None:
        self._pool = pool
        self._objects = objects
        self._id: str | None = None
        self._seen_at = float("-inf")

    async def check(self, *, within_seconds: float = 0.0) -> None:
        """See that the store is there; or that it was, so lately.

        Raises:
            UnavailableError: it is away, or another one.
        """
        if time.monotonic() - self._seen_at < within_seconds:
            return
        if self._id is None:
            self._id = await self._placed()
        try:
            found = await self._objects.get(_PREFIX + self._id)
        except FileNotFoundError:
            raise _away(f"{_PREFIX}{self._id} is not in it") from None
        if found != self._id.encode():
            raise _away(f"{_PREFIX}{self._id} is another one")
        self._seen_at = time.monotonic()

    async def is_shared(self) -> bool:
        """Whether another database keeps its bytes here, too, or has done so."""
        mine = _PREFIX + (self._id or "")
        return any([key != mine async for page in self._objects.listed(_PREFIX) for key, _ in page])

    async def _placed(self) -> str:
        row = await self._pool.fetchrow(_SQL["store"])
        if row is None:
            await self._pool.execute(_SQL["name_store"], secrets.token_hex(16))
            row = await self._pool.fetchrow(_SQL["store"])
        assert row is not None, "it was made just now, by whoever"
        name: str = row["id"]
        if not row["placed"]:
            keys = [known["key"] for known in await self._pool.fetch(_SQL["some_keys"], _SAMPLES)]
            if keys and all([await self._objects.size(key) is None for key in keys]):
                raise _away("none of the files that were stored last is in it")
            await self._objects.put(_PREFIX + name, name.encode(), synced=True)
            await self._pool.execute(_SQL["set_placed"])
        return name


def _away(why: str) -> UnavailableError:
    log.error("the object store is away, or not the one of this database: see SPELL_BLOB_STORE", problem=why)
    return UnavailableError("unavailable", "the object store is not there; try again")
