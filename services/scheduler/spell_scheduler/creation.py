"""Creating runs: everything that came in while the last commit was under way goes into the next one.

The transaction that creates a run also admits it when a slot is free. It holds the admission lock from its first
statement, so ids become visible in ascending order.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from spell_proto import logs
from spell_proto.engines import DOCKER, LOCAL
from spell_proto.errors import ConflictError, shown
from spell_proto.service import Pace, ticker
from spell_proto.shapes import Shape
from spell_proto.spec import RunSpec
from spell_scheduler import lifecycle, runs
from spell_scheduler.runs import SQL, Connection, Post, Row
from spell_scheduler.store import Changes, Store

log = logs.get()

BATCH_MAX = 128
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


class NewRun(Shape):
    """The body of the scheduler's `POST /runs`. `request_sha256` tells a repeated request from a changed one."""

    owner_id: int
    creator: str
    idempotency_key: str | None
    request_sha256: str
    spec: RunSpec
    labels: tuple[str, ...] = ()


class Made(Shape):
    """The body of the scheduler's `POST /runs/made`: which run an earlier request has made."""

    owner_id: int
    idempotency_key: str
    request_sha256: str


@dataclass(slots=True, eq=False)
class _Waiting:
    """A creation on its way: the future gets (row of the run, whether it had existed before)."""

    new: NewRun
    done: "asyncio.Future[tuple[Row, bool]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A run that is made in this transaction."""

    new: NewRun
    run: lifecycle.Run
    now: datetime

    def row(self) -> dict[str, Any]:
        """The columns of its row that never change."""
        spec = self.new.spec
        return {
            "id": self.run.id,
            "owner_id": self.new.owner_id,
            "creator": self.new.creator,
            "idempotency_key": self.new.idempotency_key,
            "request_sha256": self.new.request_sha256,
            "spec": spec.model_dump(),
            "machine_type": spec.machine_type,
            "needs": runs.needs_text(spec),
            "repository": runs.repository_of(spec),
            "labels": list(self.new.labels),
            "created_at": self.now,
            "timeout_seconds": spec.timeout_seconds,
        }


class Creation:
    """Batches creations into transactions. `run` must be running."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._pace = Pace()

    async def create(self, new: NewRun) -> tuple[Row, bool]:
        """Create a run; its row and whether an earlier request with the same key had made it already.

        Raises:
            ConflictError: the key was used for another request.
        """
        waiting = _Waiting(new)
        self._queue.append(waiting)
        self._wake.set()
        return await waiting.done

    async def run(self, stop: asyncio.Event) -> None:
        """Serve creations until `stop`."""
        while await ticker(stop, 3600, wake=self._wake) or self._queue:
            while self._queue:
                await self._pace.gather()
                batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
                await self._serve([waiting for waiting in batch if not waiting.done.cancelled()])
                self._pace.done()

    async def _serve(self, batch: Sequence[_Waiting]) -> None:
        """One transaction for all of them; one each when that fails, so that one bad row harms nobody else."""
        if not batch:
            return
        try:
            results = await self._commit([waiting.new for waiting in batch])
        except Exception as error:  # noqa: BLE001  # handed to the caller it belongs to
            # Only what Postgres refused for what is in it is certainly not committed: the rest is the callers' to
            # repeat, with their idempotency keys.
            if len(batch) > 1 and isinstance(error, REFUSED):
                for waiting in batch:
                    await self._serve([waiting])
                return
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if waiting.done.done():
                continue
            if isinstance(result, ConflictError):
                waiting.done.set_exception(result)
            else:
                waiting.done.set_result(result)

    async def _commit(self, batch: Sequence[NewRun]) -> list[tuple[Row, bool] | ConflictError]:
        changes = Changes()
        async with self._store.pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["take_admission_lock"])
            fresh, old, results = await self._tell_apart(connection, batch)
            if fresh:
                await _insert(connection, fresh, changes)
                await self._store.admit(connection, changes)
                await _post_builds(connection, fresh, changes)
            rows = {run_id: _row_after(made, changes) for run_id, made in fresh.items()}
            if old:
                seconds = self._store.settings.reachable_seconds
                rows |= {row["id"]: row for row in await connection.fetch(SQL["get_runs"], old, seconds)}
        if any(run_id not in changes.admitted for run_id in fresh):
            self._store.admission_wanted.set()
        await self._store.hand_over(changes)
        return [
            result if isinstance(result, ConflictError) else (rows[result[0]], result[1])
            for result in results
        ]

    async def _tell_apart(
        self, connection: Connection, batch: Sequence[NewRun]
    ) -> tuple[dict[int, _Fresh], list[int], list[tuple[int, bool] | ConflictError]]:
        """Which of a batch are new (with their ids), which were made before, and the result of each in turn."""
        keys = [
            {"owner_id": new.owner_id, "key": new.idempotency_key}
            for new in batch
            if new.idempotency_key is not None
        ]
        opened = await connection.fetchrow(SQL["begin_create"], keys, len(batch))
        known = {(row["owner_id"], row["key"]): (row["id"], row["request_sha256"]) for row in opened["known"]}
        old = [row["id"] for row in opened["known"]]
        results: list[tuple[int, bool] | ConflictError] = []
        fresh: dict[int, _Fresh] = {}
        for new, run_id in zip(batch, opened["ids"], strict=True):
            key = (new.owner_id, new.idempotency_key)
            if new.idempotency_key is None or key not in known:
                run = lifecycle.Run(run_id, new.owner_id, timeout_seconds=new.spec.timeout_seconds)
                fresh[run_id] = _Fresh(new, run, opened["now"])
                results.append((run_id, False))
                if new.idempotency_key is not None:
                    known[key] = (run_id, new.request_sha256)
                continue
            first, sha256 = known[key]
            results.append(
                (first, True) if sha256 == new.request_sha256 else conflict(new.idempotency_key, first)
            )
        return fresh, old, results


async def _insert(connection: Connection, fresh: dict[int, _Fresh], changes: Changes) -> None:
    logged = [lifecycle.created(made.run, f"user {made.new.creator}", made.now) for made in fresh.values()]
    posts = [runs.fact_post(row, f"request {fresh[row.run_id].new.request_sha256[:12]}") for row in logged]
    await runs.insert_created(connection, [made.row() for made in fresh.values()], logged, posts)
    changes.posts.extend(posts)


async def _post_builds(connection: Connection, fresh: dict[int, _Fresh], changes: Changes) -> None:
    """A run that has to wait gets its environment built meanwhile."""
    waiting = {
        run_id: made.new.spec
        for run_id, made in fresh.items()
        if run_id not in changes.admitted and not made.new.spec.environment.bare
    }
    if waiting:
        types = sorted({spec.machine_type for spec in waiting.values()})
        rows = await connection.fetch(SQL["engines_of_types"], types)
        engines = {row["machine_type"]: row["engines"] for row in rows}
        posts: list[Post] = [
            runs.build_post(run_id, spec, engines.get(spec.machine_type, (LOCAL, DOCKER)))
            for run_id, spec in waiting.items()
        ]
        await runs.insert_created(connection, [], [], posts)
        changes.posts.extend(posts)


def _row_after(made: _Fresh, changes: Changes) -> Row:
    """The row of a new run as this transaction leaves it, without asking for it."""
    run = changes.admitted.get(made.run.id, made.run)
    return asdict(run) | made.row() | {"machine_reachable": run.machine_id is not None}


def conflict(key: str | None, run_id: int) -> ConflictError:
    """That a key has made a run of another request."""
    return ConflictError(
        "idempotency_conflict",
        f"Idempotency-Key: {shown(key)} was used for another request, which made run {run_id}",
        field="Idempotency-Key",
    )
