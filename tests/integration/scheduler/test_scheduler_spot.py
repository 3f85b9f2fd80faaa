"""A spot machine that has notice, as the scheduler sees it: no more runs for it, and what its runs saved is kept."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from spell_proto import http
from spell_proto.events import AttemptFailed, AttemptKilled, CommandExited, CommandStarted, OutputsSaved
from spell_proto.state import REASON_TEXT, Reason
from support import stack
from support.scheduler import TOTALS, Client, SchedulerProcess, machine, now, whole_life

pytestmark = pytest.mark.integration
OWNERS = itertools.count(5000)
DIGEST = "d" * 64


@pytest.fixture(scope="module", name="process")
def _process(postgres, nats) -> Iterator[SchedulerProcess]:
    with stack.short_directory() as directory:
        process = SchedulerProcess(postgres, nats, Path(directory), SPELL_LOST_AFTER_SECONDS="2")
        asyncio.run(process.start())
        yield process
        assert asyncio.run(process.stop()) == 0, process.log.read_text()


@pytest.fixture(name="place")
async def _place(process) -> AsyncIterator[tuple[Client, str]]:
    """A client of a fresh owner, and a machine type nobody else uses. Every invariant holds afterwards."""
    owner = next(OWNERS)
    async with http.Caller(f"unix://{process.socket}") as caller:
        client = Client(caller, owner)
        yield client, f"S{owner}"
        assert [check for check in (await client.verify()).checks if not check.ok] == []


def failed(reason=Reason.SPOT_RECLAIMED):
    return AttemptFailed(at=now(), reason=reason, message=REASON_TEXT[reason], log=TOTALS)


def ended_by_notice(manifest=DIGEST):
    started = CommandStarted(at=now())
    return (
        started,
        CommandExited(at=now(), exit_code=143, exit_cause="reclaim"),
        OutputsSaved(at=now(), manifest=manifest, files=1 if manifest else 0, bytes=9 if manifest else 0),
    )


async def test_a_machine_with_notice_gets_no_runs_and_another_one_does(place, nats):
    client, kind = place
    async with machine(nats, "m-going", kind, slots=4) as going:
        going.has = {"spot": True, "reclaimed": True}
        await going.beat()
        runs = [await client.create(machine_type=kind) for _ in range(2)]

        assert [(run.state, run.queue_reason) for run in runs] == [("requested", "no_machine")] * 2
        assert (await client.machine_type(kind)).machines == 0
        async with machine(nats, "m-staying", kind) as staying:
            first = await client.until_state(runs[0].id, "building")
            assert first.machine_id == "m-staying"
            await staying.report(runs[0].id, *whole_life())
            await client.until_state(runs[0].id, "complete")
            second = await client.until_state(runs[1].id, "building")
            assert second.machine_id == "m-staying"
            await staying.report(runs[1].id, *whole_life())

            await client.until_state(runs[1].id, "complete")
            # Its one slot is taken: what comes now is for the other one, once that stays after all.
            third, fourth = [await client.create(machine_type=kind) for _ in range(2)]
            assert (third.machine_id, fourth.state) == ("m-staying", "requested")
            going.has = {"spot": True}
            await going.beat()
            assert (await client.until_state(fourth.id, "building")).machine_id == "m-going"


async def test_a_run_that_had_notice_keeps_its_files_and_one_that_had_not_started_has_none(place, nats):
    client, kind = place
    async with machine(nats, "m-noticed", kind, slots=4) as box:
        box.has = {"spot": True}
        await box.beat()
        saved, empty, waiting, cancelled = [await client.create(machine_type=kind) for _ in range(4)]

        await box.report(saved.id, *ended_by_notice(), failed())
        await box.report(empty.id, *ended_by_notice(manifest=None), failed())
        await box.report(waiting.id, failed())
        await box.report(cancelled.id, AttemptKilled(at=now(), log=TOTALS))
        views = [
            await client.until_state(run.id, "interrupted") for run in (saved, empty, waiting, cancelled)
        ]

        assert {view.reason for view in views} == {"spot_reclaimed"}
        assert [view.manifest for view in views] == [DIGEST, None, None, None]
        assert [view.saved_files for view in views] == [1, 0, None, None]
        assert await client.states(saved.id) == [
            *("requested", "building", "running", "saving", "pushing", "interrupted")
        ]
        assert await client.states(waiting.id) == ["requested", "building", "interrupted"]


async def test_a_stop_before_the_command_comes_before_the_notice_and_one_after_it_does_not(place, nats):
    client, kind = place
    async with machine(nats, "m-asked", kind, slots=2) as box:
        box.has = {"spot": True}
        await box.beat()
        before, after = [await client.create(machine_type=kind) for _ in range(2)]
        await box.report(after.id, *ended_by_notice())
        await client.until_state(after.id, "pushing")
        for run in (before, after):
            await client.end(run.id, "stop")

        await box.report(before.id, failed())
        await box.report(after.id, failed())

        assert (await client.until_state(before.id, "killed")).reason == "stopped_before_running"
        assert (await client.until_state(after.id, "interrupted")).manifest == DIGEST


async def test_a_machine_that_vanishes_before_it_can_say_the_last_word_has_saved_all_the_same(place, nats):
    client, kind = place
    async with machine(nats, "m-vanishing", kind, slots=2) as box:
        box.has = {"spot": True, "reclaimed": False}
        await box.beat()
        saved, lost = [await client.create(machine_type=kind) for _ in range(2)]
        await box.report(saved.id, *ended_by_notice())
        await box.report(lost.id, *ended_by_notice()[:2])
        await client.until_state(saved.id, "pushing")
        await client.until_state(lost.id, "saving")

    views = [await client.until_state(run.id, "interrupted") for run in (saved, lost)]
    assert [(view.reason, view.manifest) for view in views] == [
        ("spot_reclaimed", DIGEST),
        ("spot_reclaimed", None),
    ]
