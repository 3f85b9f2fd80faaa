"""How environments of any kind are measured and taken away (shell)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from spell_builder.directories import Directories

InUse = Callable[[str], Awaitable[bool]]


class Shelf(Protocol):
    """Where environments of a kind are."""

    async def size(self, key: str) -> int:
        """The bytes that one takes, besides those of what it stands on."""
        ...

    async def take_away(self, key: str, in_use: InUse) -> bool:
        """Remove one that nobody uses. Whoever came meanwhile was either noted before, or finds it gone and has it
        built again. False where it was not there, or is used.
        """
        ...


class DirectoryShelf:
    """Those of the local engine."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories

    async def size(self, key: str) -> int:
        return await asyncio.to_thread(self._directories.size, key)

    async def take_away(self, key: str, in_use: InUse) -> bool:
        aside = self._directories.set_aside(key)
        if aside is None:
            return False
        if await in_use(key):
            self._directories.put_back(key, aside)
            return False
        await asyncio.to_thread(self._directories.discard, aside)
        return True
