"""The scheduler's slow backstops: admission when something woke it, lost machines, deadlines, old messages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from spell_proto import logs
from spell_proto.bus import LOST, Bus
from spell_proto.service import ticker
from spell_proto.state import Reason
from spell_scheduler.lifecycle import Expired, MachineGone
from spell_scheduler.runs import SQL
from spell_scheduler.store import Store

log = logs.get()

ADMISSION_SECONDS = 10.0
WATCH_SECONDS = 5.0
#: Looks that are further apart than this were interrupted by something.
BREAK_SECONDS = 4 * WATCH_SECONDS
HOUSEKEEPING_SECONDS = 30.0
OUTBOX_DAYS = 7
DEAD_LETTERS_MAX = 10_000
TEMPORARY: tuple[type[BaseException], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError, *LOST)


async def _guarded(what: str, once: Callable[[], Awaitable[Any]]) -> Any:
    """One round of a loop; a database or bus that is away for now is no reason to leave."""
    try:
        return await once()
    except TEMPORARY as error:
        log.warning("waits for a part that is away", loop=what, problem=repr(error))
        return None


async def admission(stop: asyncio.Event, store: Store) -> None:
    """Admit whenever something may have become possible, and now and then in case nobody said so."""
    while await ticker(stop, ADMISSION_SECONDS, wake=store.admission_wanted):
        await _guarded("admission", store.admit_now)


async def watch_machines_once(store: Store) -> int:
    """Give up the runs of machines that have been silent too long; how many."""
    rows = await store.pool.fetch(SQL["runs_on_lost_machines"], store.settings.lost_after_seconds)
    if rows:
        fences = await store.pool.fetch(SQL["next_fences"], len(rows))
        facts = [
            (row["id"], MachineGone(Reason.MACHINE_LOST, fence["fence"]))
            for row, fence in zip(rows, fences, strict=True)
        ]
        await store.apply(facts, "watchdog")
    return len(rows)


async def watch_deadlines_once(store: Store) -> float:
    """Stop the runs whose time is over; seconds until the next deadline, `WATCH_SECONDS` at most."""
    rows = await store.pool.fetch(SQL["expired_runs"])
    if rows:
        await store.apply([(row["id"], Expired()) for row in rows], "deadline")
    seconds = await store.pool.fetchval(SQL["next_deadline"])
    return WATCH_SECONDS if seconds is None else min(max(float(seconds), 0.01), WATCH_SECONDS)


class Hearing:
    """For how long machines could have been heard without a break. Silence counts against a machine only then: a stack
    that was down, a laptop that slept, a bus or database that was away say nothing about machines.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._looked_at = 0.0

    def seconds(self, now: float, *, able: bool) -> float:
        """Call at every look, `now` by the wall clock: it goes on while a machine sleeps, and our looks do not."""
        if now - self._looked_at > BREAK_SECONDS or now < self._looked_at or not able:
            self._since = None
        self._looked_at = now
        if self._since is None and able:
            self._since = now
        return 0.0 if self._since is None else now - self._since


async def watchdog(stop: asyncio.Event, store: Store, bus: Bus) -> None:
    """Lost machines and deadlines."""
    hearing, able = Hearing(), True
    seconds = 0.0
    while await ticker(stop, seconds, wake=store.deadline_set):
        heard_seconds = hearing.seconds(time.time(), able=able and bus.connected)
        store.machines_heard = heard_seconds >= store.settings.lost_after_seconds
        if store.machines_heard:
            await _guarded("machines", lambda: watch_machines_once(store))
        until_deadline = await _guarded("deadlines", lambda: watch_deadlines_once(store))
        able = until_deadline is not None
        seconds = until_deadline or WATCH_SECONDS


async def housekeeping(stop: asyncio.Event, store: Store, bus: Bus) -> None:
    """Streams that the bus has lost are made again; published messages are forgotten after a week, and all but the
    newest dead letters.
    """
    seconds = 0.0
    while await ticker(stop, seconds):
        if bus.connected:
            await _guarded("streams", bus.ensure_streams)
        await _guarded("outbox", lambda: store.pool.execute(SQL["forget_published"], OUTBOX_DAYS))
        await _guarded("dead letters", lambda: store.pool.execute(SQL["forget_buried"], DEAD_LETTERS_MAX))
        seconds = HOUSEKEEPING_SECONDS
