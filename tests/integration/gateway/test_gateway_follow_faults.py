"""Followers when services break at the worst moments, which real ones cannot be made to do on demand."""

import asyncio

import pytest

from integration.gateway.flaky import PATH, FlakyRun
from integration.gateway.stage import Stream
from spell_gateway import follow
from spell_gateway.follow import SETTLE_SECONDS
from spell_proto.journal import RecordKind, encode, whole_records

pytestmark = pytest.mark.integration


async def live_through(world, run):
    """The life of a run as it happens to be told: pieces lost, repeated, late, cut; storage behind and failing."""
    run.failing = run.dice.choice((0.0, 0.2, 0.5))
    at = 0
    while at < len(run.journal):
        start, at = (
            at,
            run.dice.choice([end for end in run.ends if at < end <= at + 40_000] or [len(run.journal)]),
        )
        start = run.dice.choice((start, max(0, start - 300)))
        pieces = [(start, at)]
        if run.dice.random() < 0.3:
            middle = run.dice.randrange(start, at + 1)
            pieces = [(start, middle), (middle, at)]
        run.dice.shuffle(pieces)
        for piece in pieces * run.dice.choice((0, 1, 1, 2)):
            await world.publish(run, *piece)
        if run.dice.random() < 0.5:
            run.stored = max(run.stored, run.dice.choice([end for end in run.ends if end <= at]))
        if not run.stop_asked and run.dice.random() < 0.2:
            await world.ask_to_stop(run)
        await asyncio.sleep(run.dice.choice((0, 0, 0.01, 0.03)))
    if not run.stop_asked:
        await world.ask_to_stop(run)
    await world.finish(run)
    run.failing = min(run.failing, 0.3)


async def follow_to_the_end(world, run):
    """A client that is cut off now and then and comes back with what it has."""
    journal, versions = b"", []
    while True:
        params = {"offset": len(journal), "version": max(versions, default=0)}
        async with world.session.get(f"/api/runs/{run.id}/follow", params=params) as response:
            if response.status == 503:
                await asyncio.sleep(0.02)
                continue
            stream = Stream(response)
            leave_after = run.dice.choice((None, None, 3, 10))
            while await stream.read():
                if leave_after is not None and len(stream.records) > leave_after:
                    break
        journal += stream.journal
        versions += [record.json()["version"] for record in stream.of(RecordKind.STATE)]
        if stream.of(RecordKind.DONE):
            assert stream.kinds[-1] == RecordKind.DONE
            return journal, versions


@pytest.mark.parametrize("age_seconds", [0, 60], ids=["young", "old"])
async def test_followers_get_the_journal_whatever_breaks(world, age_seconds):
    # Many runs at once: nearly all of the time is waiting.
    runs = [FlakyRun(number, number * 7 + age_seconds, age_seconds) for number in range(1, 26)]
    world.runs.update({run.id: run for run in runs})

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        followers = {run.id: tasks.create_task(follow_to_the_end(world, run)) for run in runs}
        for run in runs:
            tasks.create_task(live_through(world, run))

    for run in runs:
        journal, versions = followers[run.id].result()
        assert journal == run.journal, run.id
        assert versions == [1, 4, len(PATH) + 1], run.id


async def test_nothing_of_ours_is_said_in_the_middle_of_a_record(world):
    run = FlakyRun(1, 1, 60)
    run.journal = b"".join(encode(RecordKind.STDOUT, n, bytes([n]) * 1000) for n in range(20))
    run.stored = 5 * 1013
    world.runs[1] = run
    async with world.session.get("/api/runs/1/follow") as response:
        stream = Stream(response)
        await stream.until(RecordKind.CAUGHT_UP)
        # A hole sends the follower to storage, which breaks off inside a record and is then gone.
        run.breaks_at, run.stored = 2500, 15 * 1013
        await world.publish(run, 16 * 1013, 17 * 1013)
        await stream.until_journal(7 * 1013)
        looks = run.looks
        await world.ask_to_stop(run)
        async with asyncio.timeout(5):
            while run.looks == looks:
                await asyncio.sleep(0.01)
        run.breaks_at, run.failing = None, 0.0
        await world.finish(run)
        await stream.rest()

    assert stream.journal == run.journal
    assert [record.json()["version"] for record in stream.of(RecordKind.STATE)] == [1, 4, 7]


async def test_a_hole_is_filled_as_soon_as_storage_has_it(world):
    run = FlakyRun(1, 1, 60)
    world.runs[1] = run
    world.trust_the_bus()
    async with world.session.get("/api/runs/1/follow") as response:
        stream = Stream(response)
        await stream.until(RecordKind.CAUGHT_UP)
        await asyncio.sleep(SETTLE_SECONDS + 0.1)
        await world.publish(run, run.ends[20], run.ends[30])
        await asyncio.sleep(0.1)
        run.stored = run.ends[25]
        began = asyncio.get_running_loop().time()
        await stream.until_journal(run.ends[30])
        seconds = asyncio.get_running_loop().time() - began

    assert stream.journal == run.journal[: run.ends[30]]
    assert seconds < 0.5


async def test_bytes_of_a_machine_that_does_not_have_the_run_are_not_its_log(world):
    run = FlakyRun(1, 1, 60)
    world.runs[1] = run
    world.trust_the_bus()
    async with world.session.get("/api/runs/1/follow") as response:
        stream = Stream(response)
        await stream.until(RecordKind.CAUGHT_UP)
        forged = FlakyRun(1, 1, 60)
        forged.journal = run.journal.replace(run.journal[13:20], b"forged!")
        await world.publish(forged, 0, run.ends[5], machine="m2")
        await world.publish(run, 0, run.ends[10])
        await stream.until_journal(run.ends[10])

    assert stream.journal == run.journal[: run.ends[10]]


async def test_a_slow_reader_holds_nobody_and_loses_nothing(world):
    run = FlakyRun(1, 1, 0)
    run.journal = b"".join(encode(RecordKind.STDOUT, n, bytes([n]) * 1_000_000) for n in range(12))
    world.runs[1] = run
    async with world.session.get("/api/runs/1/follow") as response:
        await asyncio.sleep(0.05)
        for start in range(0, len(run.journal), 1_000_013):
            await world.publish(run, start, start + 1_000_013)
        held = max(splice._held for listener in world.live._runs[1] for splice in listener.splices.values())
        await world.finish(run)
        stream = await Stream(response).rest()

    assert held <= 4 * 1024 * 1024
    assert stream.journal == run.journal
    assert stream.kinds[-1] == RecordKind.DONE


async def test_a_follower_is_let_go_when_the_gateway_stops(world):
    run = FlakyRun(1, 1, 60)
    run.stored = whole_records(run.journal[:1000])
    world.runs[1] = run
    async with world.session.get("/api/runs/1/follow") as response:
        stream = Stream(response)
        await stream.until(RecordKind.CAUGHT_UP)
        world.live.stop()
        await stream.rest()

    assert stream.journal == run.journal[: run.stored]
    assert not stream.of(RecordKind.DONE)


async def test_a_quiet_stream_is_kept_alive(world, monkeypatch):
    monkeypatch.setattr(follow, "PING_SECONDS", 0.05)
    run = FlakyRun(1, 1, 60)
    world.runs[1] = run
    async with world.session.get("/api/runs/1/follow") as response:
        stream = Stream(response)
        while len(stream.of(RecordKind.PING)) < 3:
            await stream.read()

    assert stream.journal == b""


async def test_a_follower_that_leaves_is_forgotten(world):
    run = FlakyRun(1, 1, 60)
    world.runs[1] = run
    async with world.session.get("/api/runs/1/follow") as response:
        await Stream(response).until(RecordKind.CAUGHT_UP)
    async with asyncio.timeout(5):
        while world.live._runs:
            await asyncio.sleep(0.01)

    assert world.live._runs == {}
