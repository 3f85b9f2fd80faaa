"""The relay: committed messages reach their stream, at least once each, right after commit.

A commit hands its messages over in memory (`offer`); what a dead relay left behind is found in the table by a slow
sweep. A message is marked only when the stream has stored it; a timeout means unknown, and it is sent again under
the same id.
"""

import asyncio
from collections.abc import Sequence

import asyncpg

from spell_proto import logs, subjects
from spell_proto.bus import LOST, Bus
from spell_proto.service import Pace, ticker
from spell_scheduler import runs
from spell_scheduler.runs import Post

log = logs.get()

BATCH = 500
SWEEP_SECONDS = 5.0
#: A row younger than this may still be on its way through memory.
LEFT_BEHIND_SECONDS = 3.0
QUEUE_MAX = 20_000
AWAY: tuple[type[BaseException], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError, *LOST)
STREAMS = {stream.name: stream for stream in subjects.STREAMS}


class Relay:
    """Publishes the outbox. One per scheduler process; several share the sweep."""

    def __init__(self, pool: asyncpg.Pool, bus: Bus) -> None:
        self._pool = pool
        self._bus = bus
        self._queue: asyncio.Queue[Post] = asyncio.Queue(QUEUE_MAX)
        self._pace = Pace()
        self._wake = asyncio.Event()
        self._bus_was_away = False
        bus.on_reconnect.append(self._bus_is_back)

    def _bus_is_back(self) -> None:
        self._bus_was_away = True
        self._wake.set()

    def offer(self, posts: Sequence[Post]) -> None:
        """Messages of a transaction that has just been committed. What finds no room is found by the sweep."""
        for post in posts:
            if self._queue.full():
                return
            self._queue.put_nowait(post)

    async def run(self, stop: asyncio.Event) -> None:
        """Publish what is offered, until `stop` and then what is left."""
        while (first := await self._next(stop)) is not None:
            batch = [first]
            await self._pace.gather()
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._publish_and_mark(batch)
            self._pace.done()

    async def _next(self, stop: asyncio.Event) -> Post | None:
        """The next message; None once everything is published and `stop` is set."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        taking, stopped = asyncio.ensure_future(self._queue.get()), asyncio.ensure_future(stop.wait())
        await asyncio.wait({taking, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if taking.done():
            return taking.result()
        taking.cancel()
        return None

    async def _publish_and_mark(self, batch: Sequence[Post]) -> None:
        try:
            stored = await self._publish(batch)
            if stored:
                async with self._pool.acquire() as connection:
                    await runs.mark_published(connection, stored)
        except AWAY as error:
            log.info("messages wait for the sweep", count=len(batch), problem=repr(error))

    async def _publish(self, batch: Sequence[Post]) -> list[Post]:
        stored: list[Post] = []
        for name, stream in STREAMS.items():
            posts = [post for post in batch if post.stream == name]
            if posts:
                messages = [(post.subject, post.payload, post.message_id) for post in posts]
                done = await self._bus.store_many(stream, messages)
                stored.extend(post for post, ok in zip(posts, done, strict=True) if ok)
        return stored

    async def sweep_once(self, older_than_seconds: float = LEFT_BEHIND_SECONDS) -> int:
        """Publish what was left behind; how many that were."""
        if not self._bus.connected:
            return 0
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(runs.SQL["unpublished"], older_than_seconds, BATCH)
            if not rows:
                return 0
            batch = [Post(**dict(row)) for row in rows]
            stored = await self._publish(batch)
            if stored:
                await runs.mark_published(connection, stored)
        log.info("messages left behind were published", count=len(stored), found=len(batch))
        return len(stored)

    async def sweep(self, stop: asyncio.Event) -> None:
        """The backstop; at once when the bus is back, for nothing can be on its way through memory then."""
        while await ticker(stop, SWEEP_SECONDS, wake=self._wake):
            older_than_seconds = 0.0 if self._bus_was_away else LEFT_BEHIND_SECONDS
            self._bus_was_away = False
            try:
                while await self.sweep_once(older_than_seconds) == BATCH:
                    pass
            except AWAY as error:
                log.warning("the outbox sweep waits", problem=repr(error))
