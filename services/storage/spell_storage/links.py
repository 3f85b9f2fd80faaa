"""Links: names that an owner has given to resources (shell)."""

import asyncpg

from spell_proto import database, resources
from spell_proto.errors import ConflictError, NotFoundError, shown
from spell_proto.uploads import LinkView

_SQL = database.queries("spell_storage", "links.sql")
LINKS_MAX = 1_000


class Links:
    """The table `links`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, owner_id: int, alias: str, target: str) -> LinkView:
        """Name a resource; the same link again is answered as it is.

        Raises:
            InvalidError: alias_invalid, alias_forbidden.
            ConflictError: link_exists, too_many_links.
        """
        resources.alias(alias)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_SQL["lock"], owner_id % 2**31)
            if await connection.fetchval(_SQL["count"], owner_id) >= LINKS_MAX:
                raise ConflictError("too_many_links", f"links: at most {LINKS_MAX} are allowed")
            await connection.execute(_SQL["add"], owner_id, alias, target)
            row = await connection.fetchrow(_SQL["one"], owner_id, alias)
        assert row is not None, "it was there, or was added"
        if row["target"] != target:
            raise ConflictError(
                "link_exists",
                f"alias: {shown(alias)} leads to {shown(row['target'])} already",
                field="alias",
                hint=f"Take it away first: spell unlink {alias}",
            )
        return LinkView(**dict(row))

    async def one(self, owner_id: int, alias: str) -> LinkView:
        """Raises NotFoundError."""
        row = await self._pool.fetchrow(_SQL["one"], owner_id, alias)
        if row is None:
            raise _unknown(alias)
        return LinkView(**dict(row))

    async def all(self, owner_id: int) -> tuple[LinkView, ...]:
        return tuple(LinkView(**dict(row)) for row in await self._pool.fetch(_SQL["all"], owner_id))

    async def remove(self, owner_id: int, alias: str) -> None:
        """Raises NotFoundError."""
        if await self._pool.fetchval(_SQL["remove"], owner_id, alias) is None:
            raise _unknown(alias)


def _unknown(alias: str) -> NotFoundError:
    return NotFoundError("link_not_found", f"No links with alias {shown(alias)} found.", field="alias")
