"""The gateway when a service is there but late: storage that hangs, rows that show after their fact, old names."""

import asyncio

import pytest

from integration.gateway.flaky import FlakyRun
from integration.gateway.stage import Stream
from spell_gateway import code, follow
from spell_gateway.storage import Storage
from spell_proto import http
from spell_proto.errors import UnavailableError
from spell_proto.http import Caller
from spell_proto.journal import RecordKind
from spell_proto.spec import CodeRef

pytestmark = pytest.mark.integration


async def test_live_output_flows_while_storage_hangs(world, monkeypatch):
    monkeypatch.setattr(follow, "PING_SECONDS", 0.3)
    run = FlakyRun(1, 1, 60)
    run.answering.clear()
    world.runs[1] = run
    async with asyncio.timeout(8), world.session.get("/api/runs/1/follow") as response:
        stream = Stream(response)
        await stream.until(RecordKind.PING)
        for start, end in zip(run.ends[:20], run.ends[1:21], strict=True):
            await world.publish(run, start, end)
        await stream.until_journal(run.ends[20])
        early = RecordKind.CAUGHT_UP in stream.kinds
        run.stored = run.ends[40]
        run.answering.set()
        await stream.until(RecordKind.CAUGHT_UP)
        # And in the middle of following, when a hole makes storage needed.
        run.answering.clear()
        await world.publish(run, run.ends[50], run.ends[51])
        await asyncio.sleep(0.2)
        await world.publish(run, run.ends[40], run.ends[50])
        await stream.until_journal(run.ends[51])
        run.answering.set()
        await world.finish(run)
        await stream.rest()

    assert not early
    assert stream.journal == run.journal
    assert stream.kinds[-1] == RecordKind.DONE


async def test_an_answer_that_does_not_begin_is_not_waited_for(world, monkeypatch):
    monkeypatch.setattr(http, "HEADERS_SECONDS_MAX", 0.1)
    run = FlakyRun(1, 1, 60)
    run.answering.clear()
    world.runs[1] = run
    with pytest.raises(UnavailableError):
        async with asyncio.timeout(5), world.storage.journal(1, 1, 0):
            pass
    run.answering.set()


async def test_an_event_told_before_its_row_shows_is_sent_soon_after(world):
    run = FlakyRun(1, 1, 60)
    run.committed = False
    world.runs[1] = run
    world.trust_the_bus()
    async with asyncio.timeout(3), world.session.get("/api/events?follow=1") as response:
        assert await response.content.readline() == b"{}\n"
        await world.tell(b'{"run_id":1,"owner_id":1,"after":"building","kind":"moved"}')
        await asyncio.sleep(0.15)
        run.committed = True
        line = await response.content.readline()

    assert b'"run_id":1' in line


async def test_a_repository_is_called_by_its_new_name_soon_after_it_was_renamed(world, monkeypatch):
    world.repository = "old"
    ref = CodeRef(commit="a" * 40, root_directory="repo")
    before = await world.code.locate(1, ref)
    world.repository = "new"
    believed = await world.code.locate(1, ref)
    monkeypatch.setattr(code, "COMMITS_BELIEVED_SECONDS", 0.0)
    after = await world.code.locate(1, ref)

    assert [where.repository for where in (before, believed, after)] == ["old", "old", "new"]


async def test_checking_a_run_may_take_longer_than_other_calls(world):
    async with Caller(world.storage_url, timeout_seconds=0.1) as caller:
        verdict = await Storage(caller).verify(FlakyRun(1, 1, 60).view())

    assert verdict.checks == ()
