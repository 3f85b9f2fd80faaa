"""Locks on repositories: between processes, and held as long as any process lives that was started under them (shell).

A lock is a file that is locked with flock(2). Git processes inherit it: when the service is killed, what it has
started may go on for a moment, and nobody else gets the lock before that has ended too.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from spell_proto.errors import UnavailableError

#: How long somebody waits who has to have the lock.
WAIT_SECONDS_MAX = 30.0
_RETRY_SECONDS = 0.01
_RETRY_SECONDS_MAX = 0.2


class BusyError(UnavailableError):
    """Somebody else holds the lock."""

    def __init__(self) -> None:
        super().__init__("unavailable", "the repository is being worked on; try again")


class Locks:
    """Two locks per repository.

    `using` is shared by all who add objects and refs, and held alone by who removes objects.
    `working` is held alone by who fetches into a repository or packs it anew, which takes long.
    """

    def __init__(self, data: Path) -> None:
        self._directory = data / "git-locks"

    def prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @asynccontextmanager
    async def using(
        self, repository_id: int, *, alone: bool = False, seconds: float = WAIT_SECONDS_MAX
    ) -> AsyncIterator[int]:
        """Hold the lock on the objects of a repository; yields what git processes have to inherit.

        Raises:
            BusyError: it was not to be had within `seconds`.
        """
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        async with self._held(f"{repository_id}.using", how, seconds) as held:
            yield held

    @asynccontextmanager
    async def working(self, repository_id: int, *, seconds: float = 0.0) -> AsyncIterator[int]:
        """Hold the lock on long work in a repository, alone. Raises `BusyError` as `using` does."""
        async with self._held(f"{repository_id}.working", fcntl.LOCK_EX, seconds) as held:
            yield held

    @asynccontextmanager
    async def _held(self, name: str, how: int, seconds: float) -> AsyncIterator[int]:
        # The files stay: removing one while somebody waits for it would make two locks of one.
        number = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _lock(number, how, seconds)
            yield number
        finally:
            os.close(number)


async def _lock(number: int, how: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + seconds, _RETRY_SECONDS
    while True:
        try:
            fcntl.flock(number, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= until:
                raise BusyError from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_SECONDS_MAX)
        else:
            return
