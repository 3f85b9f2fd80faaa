"""Creating runs: everything that came in while the last commit was under way goes into the next one.

The transaction that creates a run also admits it when a slot is free. It holds the admission lock from its first
statement, so ids become visible in ascending order.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from spell_proto import logs
from spell_proto.errors import ConflictError, shown
from spell_proto.service import ticker
from spell_proto.spec import RunSpec, Shape

from spell_scheduler import lifecycle, runs
from spell_scheduler.runs import SQL, Connection, Post, Row
from spell_scheduler.store import Changes, Store

log = logs.get()

BATCH_MAX = 128


class NewRun(Shape):
    """The body of the scheduler's `POST /runs`. `request_sha256` tells a repeated request from a changed one."""

    owner_id: int
    creator: str
    idempotency_key: str | None
    request_sha256: str
    spec: RunSpec
    labels: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Waiting:
    """A creation on its way: the future gets (row of the run, whether it had existed before)."""

    new: NewRun
    done: "asyncio.Future[tuple[Row, bool]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Creation:
    """Batches creations into transactions. `run` must be running."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: list[_Waiting] = []
        self._wake = asyncio.Event()

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
                batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
                await self._serve([waiting for waiting in batch if not waiting.done.cancelled()])

    async def _serve(self, batch: Sequence[_Waiting]) -> None:
        """One transaction for all of them; one each when that fails, so that one bad row harms nobody else."""
        if not batch:
            return
        try:
            results = await self._commit([waiting.new for waiting in batch])
        except Exception as error:  # noqa: BLE001  # handed to the caller it belongs to
            if len(batch) > 1:
                for waiting in batch:
                    await self._serve([waiting])
            elif not batch[0].done.done():
                batch[0].done.set_exception(error)
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
            results, fresh = await self._insert(connection, batch, changes)
            admitted: set[int] = set()
            if fresh:
                await self._store.admit(connection, changes)
                admitted = {order.run_id for _, order in changes.orders}
            await self._post_builds(connection, fresh, admitted, changes)
            ids = [result[0] for result in results if not isinstance(result, ConflictError)]
            rows = await connection.fetch(SQL["get_runs"], ids, self._store.settings.reachable_seconds)
        await self._store.hand_over(changes)
        row_of = {row["id"]: row for row in rows}
        return [
            result if isinstance(result, ConflictError) else (row_of[result[0]], result[1])
            for result in results
        ]

    async def _insert(
        self, connection: Connection, batch: Sequence[NewRun], changes: Changes
    ) -> tuple[list[tuple[int, bool] | ConflictError], dict[int, NewRun]]:
        keys = [
            {"owner_id": new.owner_id, "key": new.idempotency_key}
            for new in batch
            if new.idempotency_key is not None
        ]
        opened = await connection.fetchrow(SQL["begin_create"], keys)
        known = {(row["owner_id"], row["key"]): (row["id"], row["request_sha256"]) for row in opened["known"]}
        ids = iter([row["id"] for row in await connection.fetch(SQL["fresh_ids"], len(batch))])
        results: list[tuple[int, bool] | ConflictError] = []
        fresh: dict[int, NewRun] = {}
        for new in batch:
            key = (new.owner_id, new.idempotency_key)
            if new.idempotency_key is None or key not in known:
                run_id = next(ids)
                fresh[run_id] = new
                results.append((run_id, False))
                if new.idempotency_key is not None:
                    known[key] = (run_id, new.request_sha256)
                continue
            run_id, sha256 = known[key]
            results.append((run_id, True) if sha256 == new.request_sha256 else _conflict(new, run_id))
        if fresh:
            await self._insert_rows(connection, fresh, opened["now"], changes)
        return results, fresh

    async def _insert_rows(
        self, connection: Connection, fresh: dict[int, NewRun], now: datetime, changes: Changes
    ) -> None:
        rows, logged, posts = [], [], []
        for run_id, new in fresh.items():
            run = lifecycle.Run(run_id, new.owner_id, timeout_seconds=new.spec.timeout_seconds)
            first = lifecycle.created(run, f"user {new.creator}", now)
            rows.append(_row(run_id, new, now))
            logged.append(first)
            posts.append(runs.fact_post(first, f"request {new.request_sha256[:12]}"))
        await runs.insert_created(connection, rows, logged, posts)
        changes.posts.extend(posts)

    async def _post_builds(
        self, connection: Connection, fresh: dict[int, NewRun], admitted: set[int], changes: Changes
    ) -> None:
        """A run that has to wait gets its environment built meanwhile."""
        posts: list[Post] = [
            runs.build_post(run_id, new.spec)
            for run_id, new in fresh.items()
            if run_id not in admitted and new.spec.environment.pip
        ]
        if posts:
            await runs.insert_created(connection, [], [], posts)
            changes.posts.extend(posts)


def _row(run_id: int, new: NewRun, now: datetime) -> dict[str, Any]:
    return {
        "id": run_id,
        "owner_id": new.owner_id,
        "creator": new.creator,
        "idempotency_key": new.idempotency_key,
        "request_sha256": new.request_sha256,
        "spec": new.spec.model_dump(),
        "machine_type": new.spec.machine_type,
        "repository": new.spec.code.repository if new.spec.code else None,
        "labels": list(new.labels),
        "created_at": now,
        "timeout_seconds": new.spec.timeout_seconds,
    }


def _conflict(new: NewRun, run_id: int) -> ConflictError:
    return ConflictError(
        "idempotency_conflict",
        f"Idempotency-Key: {shown(new.idempotency_key)} was used for another request, which made run {run_id}",
        field="Idempotency-Key",
    )
