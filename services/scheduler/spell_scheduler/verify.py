"""The invariant checker: replays the transition log and holds the tables against each other.

Invariants as in docs/operating.md. A check says how many things it looked at; one that looked at nothing holds.
"""

import contextlib
from typing import Any

import asyncpg
import orjson

from spell_proto import database
from spell_proto.bus import LOST, Bus
from spell_proto.subjects import EVENTS, events_of_run
from spell_proto.views import Check, Verdict

SQL = database.queries("spell_scheduler", "verify.sql")

TITLES = {
    "I1": "only legal moves",
    "I2": "exactly one final row per finished run, and none after it",
    "I3": "versions 1 to n without gap",
    "I4": "the run row equals the end of its log",
    "I5": "every row of the log has its message",
    "I6": "no message waits longer than 30 s to be published",
    "I7": "every message in the stream is a row of the log",
    "I8": "no run lives on two machines, nor under another fence than its own",
    "I9": "nothing of a run is left on a machine a minute after its end",
    "I10": "no machine holds more runs than slots",
    "I11": "a finished run's saved files have a manifest",
    "I12": "a run that was killed or has failed shows no manifest, unless it used up what it may use",
    "I15": "no owner was ever above the limit of concurrent runs",
    "I16": "run ids ascend in the order of creation",
    "I20": "intents only harden",
    "I21": "times of a run are in order",
}
OFFENDERS_MAX = 10
#: Of how many runs the stream is read when all are checked.
STREAM_RUNS_MAX = 20


async def verdict(pool: asyncpg.Pool, bus: Bus, owner_id: int, run_id: int | None) -> Verdict:
    """Check one owner's runs, or one run. The checks of the database read one snapshot."""
    checks = []
    told = await _told(pool, bus, owner_id, run_id)
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        for name, title in TITLES.items():
            given = (owner_id, told) if name == "I7" else (owner_id, run_id)
            rows = await connection.fetch(SQL[name.lower()], *given)
            checks.append(_check(name, title, rows))
    return Verdict(checks=tuple(checks))


async def _told(pool: asyncpg.Pool, bus: Bus, owner_id: int, run_id: int | None) -> list[list[int]]:
    """[run id, version] of the messages that the stream has of one run, or of an owner's newest; none without a bus."""
    if run_id is None:
        run_ids = [row["id"] for row in await pool.fetch(SQL["newest"], owner_id, STREAM_RUNS_MAX)]
    else:
        run_ids = [run_id]
    told: list[list[int]] = []
    with contextlib.suppress(*LOST):
        for one in run_ids if bus.connected else []:
            sequence = 0
            while found := await bus.stored_after(EVENTS, events_of_run(one), sequence):
                sequence, message = found
                told.append([int(message.subject.split(".")[3]), int(orjson.loads(message.data)["version"])])
    return told


def _check(name: str, title: str, rows: list[Any]) -> Check:
    """Each query gives one row per thing looked at: `what` names it, `problem` is null when it is in order."""
    offenders = [f"{row['what']}: {row['problem']}" for row in rows if row["problem"] is not None]
    detail = "; ".join(offenders[:OFFENDERS_MAX])
    if len(offenders) > OFFENDERS_MAX:
        detail += f"; and {len(offenders) - OFFENDERS_MAX} more"
    return Check(id=name, title=title, ok=not offenders, checked=len(rows), detail=detail)
