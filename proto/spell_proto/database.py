"""Postgres for a service that owns one schema: pool, migrations, named queries (shell).

Queries stand in `.sql` files next to the code that calls them:

    -- name: the_name
    -- What it is for.
    SELECT …;
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import asyncpg
import orjson

from spell_proto import logs

log = logs.get()

POOL_SIZE_MAX = 6
#: How long a service waits for a server that is still starting, and how often it looks.
START_SECONDS_MAX = 30.0
START_RETRY_SECONDS = 0.05
_NAME = re.compile(r"^-- name: (?P<name>[a-z0-9_]+)\s*$", re.MULTILINE)
_SETTINGS = {
    "statement_timeout": "30000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "30000",
}


def queries(package: str, name: str) -> dict[str, str]:
    """The named queries of the file `name` in `package`."""
    text = files(package).joinpath(name).read_text("utf-8")
    parts = _NAME.split(text)[1:]
    return {parts[index]: parts[index + 1].strip() for index in range(0, len(parts), 2)}


async def _prepare(connection: asyncpg.Connection) -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind,
            encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
            schema="pg_catalog",
        )


async def _keep(_connection: asyncpg.Connection) -> None:
    """Nothing of ours leaves state in a session, so a connection goes back as it is: the usual reset is a round
    trip to the server for every query.
    """


@asynccontextmanager
async def pool(url: str, schema: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool of connections that see `schema` first. Waits up to 30 s for a server that is still starting."""
    async with asyncio.timeout(START_SECONDS_MAX):
        while True:
            # A pool whose first connection failed is closed for good: each try needs a new one.
            opened = asyncpg.create_pool(
                url,
                min_size=1,
                max_size=POOL_SIZE_MAX,
                init=_prepare,
                reset=_keep,
                command_timeout=30,
                server_settings={**_SETTINGS, "search_path": schema, "application_name": f"spell-{schema}"},
            )
            try:
                await opened
                break
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.debug("waiting for postgres", problem=repr(error))
                await asyncio.sleep(START_RETRY_SECONDS)
    try:
        yield opened
    finally:
        try:
            async with asyncio.timeout(2):
                await opened.close()
        except TimeoutError:
            opened.terminate()


async def migrate(connections: asyncpg.Pool, schema: str, package: str) -> None:
    """Apply the numbered `.sql` files in `<package>/migrations`, each once, whoever comes first.

    Raises:
        RuntimeError: an applied file has changed since.
    """
    folder = files(package).joinpath("migrations")
    scripts = sorted(
        (item.name, item.read_text("utf-8")) for item in folder.iterdir() if item.name.endswith(".sql")
    )
    async with connections.acquire() as connection:
        await connection.execute("SELECT pg_advisory_lock(hashtext($1))", f"spell-migrate-{schema}")
        try:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations"
                "(name text PRIMARY KEY, sha256 text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
            )
            rows = await connection.fetch("SELECT name, sha256 FROM migrations")
            applied = {row["name"]: row["sha256"] for row in rows}
            for name, text in scripts:
                await _apply(connection, name, text, applied.get(name))
        finally:
            await connection.execute("SELECT pg_advisory_unlock(hashtext($1))", f"spell-migrate-{schema}")


async def _apply(connection: Any, name: str, text: str, known: str | None) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()
    if known is not None and known != digest:
        raise RuntimeError(f"the migration {name} was changed after it had been applied")
    if known is None:
        async with connection.transaction():
            await connection.execute(text)
            await connection.execute("INSERT INTO migrations(name, sha256) VALUES ($1, $2)", name, digest)
        log.info("migration applied", migration=name)
