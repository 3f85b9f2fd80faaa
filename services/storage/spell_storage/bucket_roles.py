"""Buckets that are read as the role of the cluster: what Amazon lends us for it, got anew before it ends, kept in memory (shell)."""

import asyncio
import time
from collections.abc import Callable, Coroutine

from spell_storage.amazon import Lent

#: So long before its end what is lent is got anew: a read that begins with it has to get as far as its beginning.
SPARE_SECONDS = 120.0


class Roles:
    """What is lent for roles, each got once however many ask. `lend` gets it; `clock` is the time of day."""

    def __init__(
        self, lend: Callable[[str], Coroutine[None, None, Lent]], clock: Callable[[], float] = time.time
    ) -> None:
        self._lend = lend
        self._clock = clock
        self._lent: dict[str, Lent] = {}
        self._asking = asyncio.Lock()

    async def renew(self, role: str) -> None:
        """See to it that there is something that is good for a while.

        Raises:
            AmazonError: nothing can be had.
        """
        if self._good(role):
            return
        async with self._asking:
            if not self._good(role):
                self._lent[role] = await self._lend(role)

    def current(self, role: str) -> Lent:
        """What `renew` has got."""
        return self._lent[role]

    def _good(self, role: str) -> bool:
        return role in self._lent and self._lent[role].expires_at - self._clock() > SPARE_SECONDS
