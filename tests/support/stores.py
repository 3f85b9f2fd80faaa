"""Services of tests share a database and have a directory each, which is as if they shared an object store, too."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg

_NAME = "tests"


def same_store(database_url: str, directory: Path) -> None:
    """Let the storage service that is about to keep its objects in `directory` find the store of its database there."""
    with ThreadPoolExecutor(1) as thread:
        name = thread.submit(lambda: asyncio.run(name_of(database_url))).result(20)
    (directory / "store").mkdir(parents=True, exist_ok=True)
    for known in {_NAME, name or _NAME}:
        (directory / "store" / known).write_text(known)


async def name_of(database_url: str) -> str | None:
    """What the store of a database is called; None where no storage service has used the database yet."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "storage"})
    try:
        if await connection.fetchval("SELECT to_regclass('storage.store') IS NULL"):
            return None
        # Those that run already and have not looked for their store so far find this one.
        await connection.execute("INSERT INTO store (id) VALUES ($1) ON CONFLICT DO NOTHING", _NAME)
        await connection.execute("UPDATE store SET placed = true")
        name: str = await connection.fetchval("SELECT id FROM store")
        return name
    finally:
        await connection.close()
