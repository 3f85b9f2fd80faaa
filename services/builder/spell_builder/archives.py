"""Which environments are stored as archives, for other machines: the builder's rows about them (shell)."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from spell_proto import database
from spell_proto.archives import Packed

_SQL = database.queries("spell_builder", "archives.sql")
#: Whoever was told of an archive may be fetching it for so long.
GRACE_SECONDS = 3600.0
#: What was not sent to its end by then never will be.
SENT_SECONDS_MAX = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Archive:
    """A stored archive. `content` is the digest of the list of what is in it, `path` what it was built for."""

    digest: str
    content: str
    path: str
    size: int


class Archives:
    """The table `archives`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def find(self, key: str, *, fetching: bool) -> Archive | None:
        """The archive of an environment; with `fetching`, it stays for a while even if it is removed."""
        row = await self._pool.fetchrow(_SQL["find"], key, fetching)
        return None if row is None else Archive(**row)

    async def begin(self, key: str, packed: Packed, content: str, path: str) -> None:
        """Note an archive before it is sent; waits while the same one is being removed."""
        await self._pool.execute(_SQL["begin"], packed.digest, key, content, path, packed.size)

    async def stored(self, key: str, digest: str) -> None:
        """Note that an archive is there, whole."""
        await self._pool.execute(_SQL["stored"], digest, key)

    async def remove(self, keys: Sequence[str]) -> None:
        """Tell nobody of the archives of these environments any more."""
        await self._pool.execute(_SQL["remove"], list(keys))

    async def remove_damaged(self, digest: str) -> None:
        """Tell nobody of this archive any more."""
        await self._pool.execute(_SQL["remove_damaged"], digest)

    async def spare(self) -> list[str]:
        """Archives that nobody can be fetching any more, or that were never sent to their end."""
        rows = await self._pool.fetch(_SQL["spare"], GRACE_SECONDS, SENT_SECONDS_MAX)
        return [row["digest"] for row in rows]

    @asynccontextmanager
    async def removing(self, digest: str) -> AsyncIterator[bool]:
        """Be the one who removes an archive; whether it is still spare. Without an error, its row goes at the end."""
        async with self._pool.acquire() as connection, connection.transaction():
            spare = await connection.fetchval(_SQL["lock_spare"], GRACE_SECONDS, SENT_SECONDS_MAX, digest)
            yield spare is not None
            if spare is not None:
                await connection.execute(_SQL["delete"], digest)

    async def kept(self) -> dict[str, int]:
        """Environment -> the bytes that its archive takes."""
        return {row["key"]: row["size"] for row in await self._pool.fetch(_SQL["kept"])}
