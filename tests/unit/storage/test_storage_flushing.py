"""Flushes: shared by those who wait, never one that began too early, and again after one that failed."""

import asyncio

import pytest

from spell_storage.flushing import Flushing


class Disk:
    """Takes as long for a flush as it is told to."""

    def __init__(self):
        self.flushes = 0
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.problem = None

    async def flush(self):
        self.flushes += 1
        self.begun.set()
        await self.goes_on.wait()
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem


async def test_all_who_ask_during_a_flush_share_the_next_one():
    disk = Disk()
    flushing = Flushing(disk.flush)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(flushing.done())
        await disk.begun.wait()
        late = [tasks.create_task(flushing.done()) for _ in range(10)]
        await asyncio.sleep(0)
        before = [task.done() for task in late]
        disk.goes_on.set()

    assert before == [False] * 10, "what they have written may have come too late for the first one"
    assert disk.flushes == 2


async def test_who_asks_when_all_is_over_has_a_flush_of_his_own():
    disk = Disk()
    disk.goes_on.set()
    flushing = Flushing(disk.flush)
    await flushing.done()
    await flushing.done()

    assert disk.flushes == 2


async def test_a_flush_that_failed_counts_for_nobody():
    disk = Disk()
    disk.problem = OSError("no")
    disk.goes_on.set()
    flushing = Flushing(disk.flush)
    with pytest.raises(OSError, match="no"):
        await flushing.done()
    await flushing.done()

    assert disk.flushes == 2
