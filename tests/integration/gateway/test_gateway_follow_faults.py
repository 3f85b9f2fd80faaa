"""Followers when services break at the worst moments, which real ones cannot be made to do on demand.

The scheduler and storage of these tests are small applications that speak the contract and fail by the roll of dice.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from integration.gateway.stage import Stream
from spell_gateway import follow
from spell_gateway.accounts import new_token
from spell_gateway.app import public_app
from spell_gateway.auth import Authenticator
from spell_gateway.follow import SETTLE_SECONDS, Sources
from spell_gateway.follow_api import FollowApi
from spell_gateway.live import Live
from spell_gateway.runs import Runs
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import User
from spell_gateway.storage import Storage
from spell_proto.errors import UnavailableError
from spell_proto.http import Caller, errors_to_answers, json_response, serve
from spell_proto.journal import RecordKind, encode, whole_records
from spell_proto.spec import EnvironmentRequest, RunSpec
from spell_proto.state import Intent, RunState
from spell_proto.views import LogView, RunView, TransitionList, TransitionView
from support import stack

pytestmark = pytest.mark.integration
ADA = User(id=1, name="ada", created_at=datetime(2026, 1, 1, tzinfo=UTC))
PATH = [
    RunState.REQUESTED,
    RunState.BUILDING,
    RunState.RUNNING,
    RunState.SAVING,
    RunState.PUSHING,
    RunState.COMPLETE,
]
SPEC = RunSpec(
    command="true",
    machine_type="CPU",
    environment=EnvironmentRequest(),
    env={},
    code=None,
    description="",
    timeout_seconds=None,
)


class FlakyRun:
    """One run: what the scheduler knows, what storage has, and how often either fails."""

    def __init__(self, run_id, seed, age_seconds):
        self.id = run_id
        self.dice = random.Random(seed)
        payloads = [self.dice.randbytes(self.dice.choice((0, 3, 200, 5_000))) for _ in range(120)]
        self.ends = [0]
        self.journal = b""
        for index, payload in enumerate(payloads):
            self.journal += encode(RecordKind.STDOUT, index, payload)
            self.ends.append(len(self.journal))
        self.stored = 0
        self.moves = 2
        self.stop_asked = False
        self.breaks_at = None
        self.looks = 0
        self.failing = 0.0
        self.began = datetime.now(UTC) - timedelta(seconds=age_seconds)

    def fails(self):
        return self.dice.random() < self.failing

    def transitions(self):
        moves = [("moved", index, state) for index, state in enumerate(PATH[: self.moves])]
        if self.stop_asked:
            moves.insert(3, ("intent", 2, RunState.RUNNING))
        rows = [
            TransitionView(
                run_id=self.id,
                owner_id=1,
                version=version,
                kind=kind,
                before=PATH[index - 1] if index else None,
                after=state,
                intent=Intent.STOP if kind == "intent" else Intent.RUN,
                attempt=min(index, 1),
                actor="test",
                reason=None,
                exit_code=None,
                at=self.began,
            )
            for version, (kind, index, state) in enumerate(moves, 1)
        ]
        run = self.view() if self.moves == len(PATH) else None
        return TransitionList(transitions=tuple(rows), cursor="1", run=run)

    def view(self):
        final = self.moves == len(PATH)
        log = LogView(
            journal_bytes=len(self.journal), stdout_bytes=0, stderr_bytes=0, dropped_bytes=0, sha256="0" * 64
        )
        return RunView(
            id=self.id,
            owner_id=1,
            creator="ada",
            state=PATH[self.moves - 1],
            intent=Intent.RUN,
            reason=None,
            message=None,
            version=self.moves,
            attempt=1,
            machine_id="m1",
            machine_reachable=True,
            spec=SPEC,
            labels=(),
            exit_code=0 if final else None,
            created_at=self.began,
            started_at=self.began,
            ended_at=self.began if final else None,
            run_seconds=None,
            manifest=None,
            saved_files=None,
            saved_bytes=None,
            log=log if final else None,
        )


def unavailable():
    raise UnavailableError("unavailable", "rolled a one")


def scheduler_app(runs):
    async def shown(request):
        run = runs[int(request.match_info["id"])]
        return unavailable() if run.fails() else json_response(run.view())

    async def transitions(request):
        run = runs[int(request.match_info["id"])]
        run.looks += 1
        return unavailable() if run.fails() and run.breaks_at is None else json_response(run.transitions())

    app = web.Application(middlewares=[errors_to_answers])
    app.router.add_get("/runs/{id}", shown)
    app.router.add_get("/runs/{id}/transitions", transitions)
    return app


def storage_app(runs):
    async def journal(request):
        run = runs[int(request.match_info["id"])]
        if run.fails():
            unavailable()
        data = run.journal[int(request.query["offset"]) : run.stored]
        response = web.StreamResponse()
        await response.prepare(request)
        cut = run.dice.randrange(len(data) + 1) if data and run.fails() else None
        if data and run.breaks_at is not None:
            cut, run.failing = run.breaks_at, 1.0
        await response.write(data[:cut])
        if cut is not None:
            # As if killed, somewhere in the middle of a record, after what was sent has been read.
            await asyncio.sleep(run.dice.choice((0, 0.02)))
            request.transport.abort()
        return response

    app = web.Application(middlewares=[errors_to_answers])
    app.router.add_get("/journals/{id}/1/bytes", journal)
    return app


class World:
    """The gateway's handlers over flaky services."""

    def __init__(self):
        self.live = Live()
        self.runs = {}
        self.token = new_token()

    async def open(self, opened):
        directory = opened.enter_context(stack.short_directory())
        scheduler_url, storage_url = f"unix://{directory}/s.sock", f"unix://{directory}/t.sock"
        await opened.enter_async_context(serve(scheduler_app(self.runs), scheduler_url))
        await opened.enter_async_context(serve(storage_app(self.runs), storage_url))
        scheduler = Scheduler(await opened.enter_async_context(Caller(scheduler_url)))
        storage = Storage(await opened.enter_async_context(Caller(storage_url)))

        async def ada(_digest):
            return ADA

        api = FollowApi(Sources(Runs(scheduler, storage), scheduler, storage, self.live))
        app = public_app(api.routes(), Authenticator(ada))
        port = await opened.enter_async_context(serve(app, "http://127.0.0.1:0"))
        self.session = await opened.enter_async_context(
            aiohttp.ClientSession(
                f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {self.token}"}
            )
        )

    async def publish(self, run, start, end):
        await self.live._on_log(
            SimpleNamespace(
                subject=f"spell.logs.m1.{run.id}",
                headers={"Spell-Offset": str(start)},
                data=run.journal[start:end],
            )
        )

    async def ask_to_stop(self, run):
        run.moves, run.stop_asked = 3, True
        await self._tell(b'{"run_id":%d,"owner_id":1,"kind":"intent"}' % run.id)

    async def finish(self, run):
        run.moves, run.stored = len(PATH), len(run.journal)
        await self._tell(b'{"run_id":%d,"owner_id":1,"after":"complete","kind":"moved"}' % run.id)

    async def _tell(self, data):
        await self.live._on_event(SimpleNamespace(subject="x", data=data))


@pytest.fixture
async def world():
    async with AsyncExitStack() as opened:
        made = World()
        await made.open(opened)
        yield made


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
    # As with a bus that works: looks that nobody asked for are seconds apart.
    world.live._bus = SimpleNamespace(connected=True)
    world.live._subscribed.set()
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


async def test_a_slow_reader_holds_nobody_and_loses_nothing(world):
    run = FlakyRun(1, 1, 0)
    run.journal = b"".join(encode(RecordKind.STDOUT, n, bytes([n]) * 1_000_000) for n in range(12))
    world.runs[1] = run
    async with world.session.get("/api/runs/1/follow") as response:
        await asyncio.sleep(0.05)
        for start in range(0, len(run.journal), 1_000_013):
            await world.publish(run, start, start + 1_000_013)
        held = max(listener.splice._held for listener in world.live._runs[1])
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
