"""The catalogue of bad input on the bus: a message that makes no sense changes no run and stops nobody."""

import asyncio
import contextlib
import itertools
import json
from pathlib import Path

import asyncpg
import pytest

from spell_proto import bus, http, subjects
from support import stack
from support.scheduler import Client, SchedulerProcess, machine, until, whole_life
from support.spawned import children

pytestmark = pytest.mark.integration
OWNERS = itertools.count(7_000)
STARTED = {"kind": "command_started", "at": "2001-01-01T00:00:00Z"}
EXITED = {"kind": "command_exited", "at": "2001-01-01T00:00:01Z", "exit_cause": "exit"}
SAVED = {"kind": "outputs_saved", "at": "2001-01-01T00:00:02Z", "manifest": None, "bytes": 0}
LIFE = ["requested", "building", "running", "saving", "pushing", "complete"]


@pytest.fixture(scope="module", name="process")
def _process(postgres, nats):
    with stack.short_directory() as directory:
        process = SchedulerProcess(postgres, nats, Path(directory))
        asyncio.run(process.start())
        asyncio.run(until(lambda: _heard(nats)))
        yield process
        assert asyncio.run(process.stop()) == 0, process.log.read_text()


# Row of the catalogue, how the report differs from a good one, whether it is put aside as not understood.
REPORTS = [
    ("B61", {"kind": "nosuch"}, True),
    ("B61", {"kind": None}, True),
    ("B61", {"run_id": None}, True),
    ("B61", {"run_id": "1"}, True),
    ("B61", {"steps": [{"kind": "nosuch"}]}, True),
    ("B61", {"steps": [{"kind": "command_exited", "at": "2026-01-01T00:00:00Z", "exit_code": "0"}]}, True),
    ("B62", {"run_id": 2**52}, True),
    ("B62", {"run_id": 0}, True),
    ("B62", {"run_id": -1}, True),
    ("B62", {"run_id": 2**64}, True),
    ("B62", {"run_id": True}, True),
    ("B62", {"first_step": 0}, False),
    ("B62", {"first_step": -5}, False),
    ("B62", {"first_step": 10**6}, False),
    ("B62", {"first_step": 2**70}, False),
    ("B62", {"steps": [STARTED, {**EXITED, "exit_code": 2**40}]}, True),
    ("B62", {"steps": [STARTED, {**EXITED, "exit_code": 2**70}]}, True),
    ("B62", {"steps": [STARTED, {**EXITED, "exit_code": 1}, {**SAVED, "files": 2**70}]}, True),
    ("B62", {"attempt": 0}, False),
    ("B62", {"attempt": 2}, False),
    ("B63", {"fence": 0}, False),
    ("B63", {"fence": -1}, False),
    ("B63", {"fence": 2**62}, False),
    ("B63", {"machine_id": "somebody-else"}, True),
    ("B63", {"machine_id": "a.b"}, True),
    ("B64", {"steps": [{**STARTED, "at": "yesterday"}]}, True),
    ("B64", {"steps": [{**STARTED, "at": "2026-13-01T00:00:00Z"}]}, True),
    ("B64", {"steps": [{**STARTED, "at": None}]}, True),
]


@pytest.mark.parametrize(
    ("row", "wrong", "buried"), REPORTS, ids=[f"{row[0]}-{n}" for n, row in enumerate(REPORTS)]
)
async def test_a_report_that_makes_no_sense_changes_nothing(process, postgres, nats, row, wrong, buried):
    owner = next(OWNERS)
    kind, box_id = f"T{owner}", f"m-{owner}"
    started = children(process.process.pid)
    async with http.Caller(f"unix://{process.socket}") as caller, machine(nats, box_id, kind) as box:
        client = Client(caller, owner)
        run = await client.create(machine_type=kind)
        _, attempt, fence = await box.taken(run.id)
        identity = {"machine_id": box_id, "run_id": run.id, "attempt": attempt, "fence": fence}
        good = {"v": 1, "kind": "attempt", "first_step": 1, "steps": [STARTED], **identity}
        subject = subjects.report(box_id, run.id)

        data = json.dumps(good | wrong).encode()
        await box.bus.store(subject, data, message_id=f"bad-{owner}", stream=subjects.REPORTS)

        # What makes sense comes behind it, on the same stream.
        await box.report(run.id, *whole_life())
        ended = await client.until_state(run.id, "complete")
        assert await client.states(run.id) == LIFE, row
        assert ended.started_at is not None
        assert ended.started_at.year != 2001, row
        assert await _buried(postgres, subject) == int(buried), row
        assert process.log.read_text().count("comes again") == 0, (
            "what was put aside is not to be handed out again"
        )
        assert [check for check in (await client.verify()).checks if not check.ok] == []
    assert children(process.process.pid) == started


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"kind": "heartbeat", "v": 2}',
        b"[" * 50_000,
        b"x" * 500_000,
    ],
)
async def test_a_heartbeat_that_makes_no_sense_is_put_aside_and_the_next_is_answered(process, nats, data):
    owner = next(OWNERS)
    async with machine(nats, f"m-{owner}", f"T{owner}") as box:
        with pytest.raises(bus.LOST):
            await box.bus.request(subjects.heartbeat(box.id), data, timeout=0.2)

        answer = await box.beat()

    assert answer.attempts == ()


async def _heard(nats):
    """Whether heartbeats are answered yet."""
    with contextlib.suppress(*bus.LOST):
        async with machine(nats, "m-first", "Tfirst"):
            return True
    return False


async def _buried(postgres, subject):
    connection = await asyncpg.connect(
        postgres.url("scheduler"), server_settings={"search_path": "scheduler"}
    )
    try:
        return await connection.fetchval("SELECT count(*) FROM dead_letters WHERE subject = $1", subject)
    finally:
        await connection.close()
