"""Load → decide → commit: the one way in which a fact changes runs, and the hand-over of what follows from it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from spell_proto import logs
from spell_proto.events import SnapshotSaved
from spell_scheduler import runs
from spell_scheduler.admission import Machine, Queued, admit
from spell_scheduler.lifecycle import Admitted, Decision, Fact, Logged, Order, Run, decide
from spell_scheduler.runs import SQL, Connection, Post, fact_post, run_of
from spell_scheduler.settings import Settings

log = logs.get()

ADMIT_PER_OWNER_MAX = 64

#: After commit: messages for the relay, hints for machines.
Outgoing = Callable[[Sequence[Post], Sequence[tuple[str, Order]]], Awaitable[None]]


@dataclass(slots=True)
class Changes:
    """What one transaction has decided so far; handed over once it is committed."""

    posts: list[Post] = field(default_factory=list)
    orders: list[tuple[str, Order]] = field(default_factory=list)
    admitted: dict[int, Run] = field(default_factory=dict)
    freed: bool = False

    def add(self, decision: Decision, cause: str) -> list[Post]:
        """Note the messages and orders of a decision; returns its messages."""
        posts = [fact_post(row, cause) for row in decision.logged]
        self.posts.extend(posts)
        if decision.run.machine_id is not None:
            self.orders.extend((decision.run.machine_id, order) for order in decision.orders)
        return posts


class Store:
    """The scheduler's transactions on runs."""

    def __init__(self, pool: asyncpg.Pool, settings: Settings, outgoing: Outgoing) -> None:
        self.pool = pool
        self.settings = settings
        self._outgoing = outgoing
        #: Set when a run with a time limit has started, so that the watchdog looks at the clock anew.
        self.deadline_set = asyncio.Event()
        #: Set when a slot may have become free, or a machine has come.
        self.admission_wanted = asyncio.Event()
        #: Whether every machine that lives could have reported by now all that it has seen.
        self.machines_heard = False

    async def hand_over(self, changes: Changes) -> None:
        """Call right after commit."""
        if changes.posts or changes.orders:
            await self._outgoing(changes.posts, changes.orders)

    async def apply(self, facts: Sequence[tuple[int, Fact]], cause: str) -> dict[int, Run]:
        """Apply facts, in order, to the runs they are about. The slots that this frees wake admission.

        Returns the runs as they are afterwards, without those that do not exist.
        """
        changes = Changes()
        async with self.pool.acquire() as connection, connection.transaction():
            after = await self._apply(connection, facts, cause, changes)
        if changes.freed:
            self.admission_wanted.set()
        await self.hand_over(changes)
        return after

    async def _apply(
        self, connection: Connection, facts: Sequence[tuple[int, Fact]], cause: str, changes: Changes
    ) -> dict[int, Run]:
        ids = sorted({run_id for run_id, _ in facts})
        rows = await connection.fetch(SQL["lock_runs"], ids)
        if not rows:
            return {}
        now = runs.now_of(rows)
        before = {row["id"]: run_of(row) for row in rows}
        after = dict(before)
        logged: list[Logged] = []
        posts: list[Post] = []
        snapshots: list[tuple[Run, SnapshotSaved]] = []
        for run_id, fact in facts:
            if run_id not in after:
                continue
            decision = decide(after[run_id], fact, now)
            if decision.note:
                log.debug(
                    "a fact changed nothing", run_id=run_id, fact=type(fact).__name__, why=decision.note
                )
            posts.extend(changes.add(decision, cause))
            logged.extend(decision.logged)
            snapshots.extend((decision.run, taken) for taken in decision.snapshots)
            after[run_id] = decision.run
        changed = [
            (before[run_id], after[run_id]) for run_id in before if after[run_id] is not before[run_id]
        ]
        changed = [(old, new) for old, new in changed if old != new]
        if changed:
            # The rows are locked, so nobody can have been faster.
            written = await runs.write_decided(connection, changed, logged, posts, snapshots)
            assert len(written) == len(changed), "a locked run changed under its lock"
            if any(new.deadline is not None and old.deadline is None for old, new in changed):
                self.deadline_set.set()
            changes.freed = changes.freed or any(_released(old, new) for old, new in changed)
            for row in logged:
                log.info(
                    "run moved" if row.kind == "moved" else "run intent",
                    run_id=row.run_id,
                    before=row.before,
                    after=row.after,
                    intent=row.intent,
                    reason=row.reason,
                    cause=cause,
                )
        return after

    async def admit(self, connection: Connection, changes: Changes) -> int:
        """Give free slots to the oldest runs that may start. Inside the caller's transaction; how many it gave."""
        await connection.execute(SQL["take_admission_lock"])
        machines = await connection.fetch(SQL["free_machines"], self.settings.reachable_seconds)
        free = [found for found in map(_machine, machines) if found.free > 0 and found.can_run(frozenset())]
        if not free:
            return 0
        most = min(sum(machine.free for machine in free), ADMIT_PER_OWNER_MAX)
        engines: dict[str, frozenset[str]] = {}
        for machine in free:
            engines[machine.machine_type] = engines.get(machine.machine_type, frozenset()) | machine.engines
        heads = await connection.fetch(
            SQL["queue_heads"],
            list(engines),
            most,
            self.settings.runs_max,
            [",".join(sorted(names)) for names in engines.values()],
        )
        if not heads:
            return 0
        before = {row["id"]: run_of(row) for row in heads}
        queued = [_queued(row) for row in heads]
        pairs = admit(queued, free)
        if not pairs:
            return 0
        fences = {row["id"]: row["fence_if_admitted"] for row in heads}
        await self._write_admitted(connection, before, pairs, fences, runs.now_of(heads), changes)
        return len(pairs)

    async def _write_admitted(
        self,
        connection: Connection,
        before: dict[int, Run],
        pairs: Sequence[tuple[int, Machine]],
        fences: dict[int, int],
        now: datetime,
        changes: Changes,
    ) -> None:
        decided: list[Decision] = []
        for run_id, machine in pairs:
            given = Admitted(machine.id, machine.boot_id, machine.spot, fences[run_id])
            decided.append(decide(before[run_id], given, now))
        logged = [row for decision in decided for row in decision.logged]
        posts = {
            decision.run.id: [fact_post(row, "admission") for row in decision.logged] for decision in decided
        }
        written = await runs.write_decided(
            connection,
            [(before[decision.run.id], decision.run) for decision in decided],
            logged,
            [post for made in posts.values() for post in made],
        )
        # A stop or kill may have been faster than us; such a run is final and nothing was written for it.
        for decision in decided:
            if decision.run.id in written:
                changes.add(decision, "admission")
                changes.admitted[decision.run.id] = decision.run
                log.info(
                    "run moved",
                    run_id=decision.run.id,
                    before="requested",
                    after="building",
                    cause="admission",
                )

    async def admit_now(self) -> int:
        """One round of admission in its own transaction, if anything waits.

        Whoever frees a slot and whoever creates a run that has to wait both ask for a round after their commit, so
        the later of the two sees the other.
        """
        if not await self.pool.fetchval(SQL["anything_queued"]):
            return 0
        changes = Changes()
        async with self.pool.acquire() as connection, connection.transaction():
            admitted = await self.admit(connection, changes)
        await self.hand_over(changes)
        return admitted


def _released(before: Run, after: Run) -> bool:
    return before.machine_id is not None and after.ended_at is not None and before.ended_at is None


def _machine(row: runs.Row) -> Machine:
    engines = frozenset(row["engines"])
    return Machine(
        row["id"], row["boot_id"], row["spot"], row["machine_type"], row["free"], engines, row["reclaimed"]
    )


def _queued(row: runs.Row) -> Queued:
    needs = runs.needs_of(row)
    return Queued(row["id"], row["owner_id"], row["owner_free"], row["machine_type"], needs)
