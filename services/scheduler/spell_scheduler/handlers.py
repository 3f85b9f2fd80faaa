"""What reaches the scheduler from the bus: reports of machines and their heartbeats."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from spell_proto import codec, logs
from spell_proto.engines import DOCKER, LOCAL
from spell_proto.errors import CodecError, IllegalTransitionError
from spell_proto.events import AttemptHeld, AttemptReport, AttemptWanted, Heartbeat, HeartbeatAnswer
from spell_proto.state import Reason
from spell_scheduler.lifecycle import MachineGone
from spell_scheduler.runs import SQL, run_of
from spell_scheduler.store import Store

log = logs.get()

DEAD_LETTER_BYTES_MAX = 65_536
#: What Postgres, or JSON on the way there, has no room for: a number of more than 64 bits, say.
REFUSED = (asyncpg.DataError, orjson.JSONEncodeError, OverflowError)


#: What a machine is taken to have that does not say so: it is of a version that had no words for it.
EVERY_ENGINE = [LOCAL, DOCKER]


class Handlers:
    """Turns messages into facts. Idempotent: what is known already changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def reports(self, batch: Sequence[Any]) -> None:
        """A batch from the REPORTS stream, in one transaction. Raises while the database is away: it comes again."""
        told: list[tuple[Any, AttemptReport]] = []
        for message in batch:
            try:
                report = codec.decode(codec.REPORT, message.data)
            except CodecError as error:
                await self._bury(message.subject, str(error), message.data)
                continue
            if message.subject.split(".")[3] != report.machine_id:
                await self._bury(message.subject, "a machine may only report in its own name", message.data)
                continue
            told.append((message, report))
        if told:
            await self._apply(told)

    async def _apply(self, told: Sequence[tuple[Any, AttemptReport]]) -> None:
        """One transaction for all; one each where a report is refused for what is in it, so that it harms no other."""
        facts = [(report.run_id, report) for _, report in told]
        try:
            known = await self._store.apply(facts, f"report {told[0][0].subject}")
        except (*REFUSED, IllegalTransitionError, AssertionError) as error:
            if len(told) == 1:
                # As it came: what a number of it has broken once may break whatever writes it again.
                await self._bury(told[0][0].subject, repr(error), told[0][0].data)
                return
            for one in told:
                await self._apply([one])
            return
        for message, report in told:
            if report.run_id not in known:
                await self._bury(message.subject, f"unknown_run: {report.run_id}", message.data)

    async def heartbeat(self, message: Any) -> bytes:
        """Note that a machine lives, and tell it what it should have."""
        try:
            beat = codec.decode(codec.HEARTBEAT, message.data)
        except CodecError as error:
            await self._bury(message.subject, str(error), message.data)
            raise
        pool = self._store.pool
        look_again = await pool.fetchval(
            SQL["seen_machine"],
            beat.machine_id,
            beat.boot_id,
            beat.machine_type,
            beat.slots,
            beat.spot,
            beat.isolation,
            self._store.settings.reachable_seconds,
            [_identity(attempt) for attempt in beat.attempts],
            EVERY_ENGINE if beat.engines is None else list(beat.engines),
            beat.gpus,
            list(beat.gpu_models),
            beat.run_bytes_max,
            beat.run_files_max,
            beat.reclaimed,
        )
        if look_again:
            log.info(
                "machine answers",
                machine_id=beat.machine_id,
                slots=beat.slots,
                isolation=beat.isolation,
                engines=beat.engines,
                reclaimed=beat.reclaimed,
            )
            self._store.admission_wanted.set()
        rows = await pool.fetch(SQL["attempts_on_machine"], beat.machine_id)
        vanished = _vanished(beat, rows)
        if vanished:
            await self._fail_vanished(vanished)
            rows = await pool.fetch(SQL["attempts_on_machine"], beat.machine_id)
        wanted = tuple(
            AttemptWanted(
                run_id=run.id,
                attempt=run.attempt,
                fence=run.fence,
                intent=run.intent,
                steps=run.steps,
                saves=run.saves,
            )
            for run in map(run_of, rows)
        )
        return codec.encode(HeartbeatAnswer(attempts=wanted, cause=f"heartbeat {beat.machine_id}"))

    async def _fail_vanished(self, run_ids: Sequence[int]) -> None:
        """The machine has restarted and does not know these any more: whatever ran is gone with that boot."""
        fences = await self._store.pool.fetch(SQL["next_fences"], len(run_ids))
        facts = [
            (run_id, MachineGone(Reason.HOST_REBOOTED, row["fence"]))
            for run_id, row in zip(run_ids, fences, strict=True)
        ]
        await self._store.apply(facts, "heartbeat after a restart")

    async def _bury(self, subject: str, problem: str, data: bytes) -> None:
        log.warning("a message could not be understood", subject=subject, problem=problem)
        await self._store.pool.execute(SQL["bury"], subject, problem, data[:DEAD_LETTER_BYTES_MAX])


def _vanished(beat: Heartbeat, rows: Sequence[Any]) -> list[int]:
    """Runs given to an earlier boot of this machine that the machine does not hold any more."""
    held = {_identity(attempt) for attempt in beat.attempts}
    return [
        row["id"]
        for row in rows
        if row["boot_id"] != beat.boot_id and (row["id"], row["attempt"], row["fence"]) not in held
    ]


def _identity(attempt: AttemptHeld) -> tuple[int, int, int]:
    return attempt.run_id, attempt.attempt, attempt.fence
