"""The invariant checker: replays the transition log and holds the tables against each other.

Invariants as in docs/operating.md. A check says how many things it looked at; one that looked at nothing holds.
"""

from typing import Any

import asyncpg

from spell_proto import database
from spell_proto.views import Check, Verdict

SQL = database.queries("spell_scheduler", "verify.sql")

TITLES = {
    "I1": "only legal moves",
    "I2": "exactly one final row per finished run, and none after it",
    "I3": "versions 1 to n without gap",
    "I4": "the run row equals the end of its log",
    "I5": "every row of the log has its message",
    "I6": "no message waits longer than 30 s to be published",
    "I10": "no machine holds more runs than slots",
    "I11": "a finished run's saved files have a manifest",
    "I12": "a killed or failed run shows no manifest",
    "I15": "no owner was ever above the limit of concurrent runs",
    "I16": "run ids ascend in the order of creation",
    "I20": "intents only harden",
    "I21": "times of a run are in order",
}
OFFENDERS_MAX = 10


async def verdict(pool: asyncpg.Pool, owner_id: int, run_id: int | None) -> Verdict:
    """Check one owner's runs, or one run. The checks read one snapshot."""
    checks = []
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        for name, title in TITLES.items():
            rows = await connection.fetch(SQL[name.lower()], owner_id, run_id)
            checks.append(_check(name, title, rows))
    return Verdict(checks=tuple(checks))


def _check(name: str, title: str, rows: list[Any]) -> Check:
    """Each query gives one row per thing looked at: `what` names it, `problem` is null when it is in order."""
    offenders = [f"{row['what']}: {row['problem']}" for row in rows if row["problem"] is not None]
    detail = "; ".join(offenders[:OFFENDERS_MAX])
    if len(offenders) > OFFENDERS_MAX:
        detail += f"; and {len(offenders) - OFFENDERS_MAX} more"
    return Check(id=name, title=title, ok=not offenders, checked=len(rows), detail=detail)
