"""Flushes that those who wait at the same time share: one writes out for all who have asked before it began."""

import asyncio
from collections.abc import Awaitable, Callable


class Flushing:
    """Shares `flush`, which takes long and does for everybody what it does for one."""

    def __init__(self, flush: Callable[[], Awaitable[None]]) -> None:
        self._flush = flush
        self._turn = asyncio.Lock()
        self._asked = 0
        self._flushed = 0

    async def done(self) -> None:
        """Return when a flush is over that began after this was called."""
        self._asked += 1
        asked = self._asked
        async with self._turn:
            if self._flushed < asked:
                covered = self._asked
                await self._flush()
                self._flushed = covered
