"""How often, and after how long, an index that does not answer is asked again (shell)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from spell_builder.commands import Say
from spell_builder.errors import IndexUnreachableError

T = TypeVar("T")

TRIES = 4
BACKOFF_SECONDS = 1.0


async def patiently(ask: Callable[[], Awaitable[T]], say: Say, tries: int = TRIES) -> T:
    """What `ask` answers, asked again while the index does not answer, and saying so.

    Raises:
        IndexUnreachableError: it did not answer at the last try either.
        BuildFailedError: something else is wrong, for which it is not asked again.
    """
    for attempt in range(1, tries):
        try:
            return await ask()
        except IndexUnreachableError as error:
            pause = BACKOFF_SECONDS * 2 ** (attempt - 1)
            say(f"{error}; trying again in {pause:.0f} s", True)
            await asyncio.sleep(pause)
    return await ask()
