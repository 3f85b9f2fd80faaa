"""Removals that are made now and then, by one copy of the service at a time, for as long as it runs (shell)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from spell_proto import logs, service
from spell_proto.errors import RefusedError

log = logs.get()

#: The first pass comes so soon after the start, and the next one after a pass that failed.
SOON_SECONDS = 300.0
_TEMPORARY = (RefusedError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)

Pass = Callable[[datetime], Awaitable[object]]


async def repeat(stop: asyncio.Event, seconds: float, run_once: Pass, what: str) -> None:
    """Pass every `seconds` until `stop` is set or this is cancelled; `what` is said of it where it fails."""
    wait = min(seconds, SOON_SECONDS)
    while await service.ticker(stop, wait):
        wait = seconds
        try:
            await run_once(datetime.now(UTC))
        except _TEMPORARY as error:
            log.warning("nothing was removed this time", of=what, problem=repr(error))
            wait = min(seconds, SOON_SECONDS)
        except Exception:
            log.exception("removing failed", of=what)


@asynccontextmanager
async def alone(pool: asyncpg.Pool, try_lock: str, unlock: str) -> AsyncIterator[bool]:
    """Hold an advisory lock; False where another copy of the service has it."""
    async with pool.acquire() as connection:
        with _ending(connection):
            locked = await connection.fetchval(try_lock)
        if not locked:
            log.info("another copy of this service is at it already")
            yield False
            return
        try:
            yield True
        finally:
            with _ending(connection):
                await connection.fetchval(unlock)


@contextmanager
def _ending(connection: Any) -> Iterator[None]:
    """End a session of which nobody knows whether it holds the lock: it is not reset, and would hold it for good."""
    try:
        yield
    except BaseException:
        connection.terminate()
        raise
