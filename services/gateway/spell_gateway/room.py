"""Whether a user may begin what will save files: asked before anything is made."""

import asyncio
import time

from spell_gateway.bounded import Bounded
from spell_gateway.storage import Storage
from spell_proto.errors import UnavailableError

#: For so long it is believed that there is room; that there is none is asked anew each time.
BELIEVED_SECONDS = 5.0
#: Adding up what somebody has can take long; nobody waits for that.
ANSWER_SECONDS_MAX = 2.0
OWNERS_MAX = 10_000
#: How routes refuse then.
FULL = {413: "quota_exceeded: your saved files are as much as you may have"}


class Room:
    """Asks storage, seldom."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._until: Bounded[int, float] = Bounded(OWNERS_MAX)

    async def check(self, owner_id: int) -> None:
        """Where storage does not answer, it is believed that there is room.

        Raises:
            RefusedError: quota_exceeded.
        """
        now = time.monotonic()
        if (self._until.get(owner_id) or 0.0) > now:
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await self._storage.check_room(owner_id)
        except (UnavailableError, TimeoutError):
            pass
        self._until.put(owner_id, now + BELIEVED_SECONDS)
