"""Tasks that come and go in one task group, and end together when the runner stops (shell)."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from spell_runner.workspace import Abort

T = TypeVar("T")


class Tasks:
    """A task group whose tasks can all be cancelled without failing it."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._group.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if self._closed:
            # A timer or a late message would otherwise hold the group open.
            task.cancel()
        return task

    def cancel(self) -> None:
        """End them all, and whatever is started from now on."""
        self._closed = True
        for task in self._running:
            task.cancel()


async def in_thread(work: Callable[[], T], abort: Abort | None = None) -> T:
    """Run in a thread, and wait for its end even when we are cancelled: what it writes to is let go only then."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if abort is not None:
            abort.set()
        await asyncio.wait({task})
        raise
