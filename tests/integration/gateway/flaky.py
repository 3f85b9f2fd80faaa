"""A gateway over a scheduler and a storage that fail or hang on demand, as real ones cannot be made to.

They are small applications that speak the contract and fail by the roll of dice.
"""

import asyncio
import hashlib
import random
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import aiohttp
from aiohttp import web

from spell_gateway.accounts import new_token
from spell_gateway.app import public_app
from spell_gateway.auth import Authenticator
from spell_gateway.buckets import Buckets
from spell_gateway.builder import Builder
from spell_gateway.code import Code
from spell_gateway.files import Files
from spell_gateway.follow import Sources
from spell_gateway.follow_api import FollowApi
from spell_gateway.live import Live
from spell_gateway.mounting import Mounts
from spell_gateway.registries import Registries
from spell_gateway.resolving import Resolver
from spell_gateway.room import Room
from spell_gateway.runs import Runs
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import User
from spell_gateway.storage import Storage
from spell_proto.errors import UnavailableError
from spell_proto.http import Caller, errors_to_answers, json_response, serve
from spell_proto.journal import OUTPUT, Decoder, RecordKind, encode
from spell_proto.state import Intent, RunState
from spell_proto.views import Commit, LogView, RunView, TransitionList, TransitionView, Verdict
from support import stack
from support.specs import a_run

ADA = User(id=1, name="ada", created_at=datetime(2026, 1, 1, tzinfo=UTC))
PATH = [
    RunState.REQUESTED,
    RunState.BUILDING,
    RunState.RUNNING,
    RunState.SAVING,
    RunState.PUSHING,
    RunState.COMPLETE,
]
SPEC = a_run()


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
        self.committed = True
        self.breaks_at = None
        self.looks = 0
        self.failing = 0.0
        self.answering = asyncio.Event()
        self.answering.set()
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
        cursors = tuple(str(row.version) for row in rows)
        return TransitionList(transitions=tuple(rows), cursors=cursors, cursor="1", run=run, machine_id="m1")

    def view(self):
        final = self.moves == len(PATH)
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
            log=self.totals() if final else None,
        )

    def totals(self):
        output = [record.payload for record in Decoder().feed(self.journal) if record.kind in OUTPUT]
        return LogView(
            journal_bytes=len(self.journal),
            stdout_bytes=sum(map(len, output)),
            stderr_bytes=0,
            dropped_bytes=0,
            sha256=hashlib.sha256(b"".join(output)).hexdigest(),
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

    async def all_transitions(request):
        shown = [row for run in runs.values() for row in run.transitions().transitions if run.committed]
        begin, end = int(request.query.get("after") or 0), len(shown)
        cursors = tuple(str(place) for place in range(begin + 1, end + 1))
        rows = tuple(shown[begin:])
        return json_response(TransitionList(transitions=rows, cursors=cursors, cursor=str(end), run=None))

    app = web.Application(middlewares=[errors_to_answers])
    app.router.add_get("/transitions", all_transitions)
    app.router.add_get("/runs/{id}", shown)
    app.router.add_get("/runs/{id}/transitions", transitions)
    return app


def storage_app(world):
    async def commit(request):
        name = request.match_info["sha"]
        return json_response(Commit(repository_id=1, repository=world.repository, commit=name, tree=name))

    async def verify(request):
        await asyncio.sleep(0.3)
        return json_response(Verdict(checks=()))

    async def journal(request):
        run = world.runs[int(request.match_info["id"])]
        await run.answering.wait()
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
    app.router.add_get("/code/1/commits/{sha}", commit)
    app.router.add_get("/verify", verify)
    return app


class World:
    """The gateway's handlers over flaky services."""

    def __init__(self):
        self.live = Live()
        self.runs = {}
        self.repository = "repo"
        self.token = new_token()

    async def open(self, opened):
        directory = opened.enter_context(stack.short_directory())
        scheduler_url, storage_url = f"unix://{directory}/s.sock", f"unix://{directory}/t.sock"
        await opened.enter_async_context(serve(scheduler_app(self.runs), scheduler_url))
        await opened.enter_async_context(serve(storage_app(self), storage_url))
        self.storage_url = storage_url
        scheduler = Scheduler(await opened.enter_async_context(Caller(scheduler_url)))
        storage = self.storage = Storage(await opened.enter_async_context(Caller(storage_url)))

        async def ada(_digest):
            return ADA

        self.code = Code(storage)
        nobody = Builder(await opened.enter_async_context(Caller(storage_url)))
        resolver = Resolver(scheduler, storage)
        buckets = Buckets(await opened.enter_async_context(Caller(storage_url)))
        mounts = Mounts(resolver, Files(scheduler, storage, resolver), buckets)
        self.made_of = Runs(scheduler, self.code, nobody, Registries(storage), mounts, Room(storage))
        api = FollowApi(Sources(self.made_of, scheduler, storage, self.live))
        app = public_app(api.routes(), Authenticator(ada))
        port = await opened.enter_async_context(serve(app, "http://127.0.0.1:0"))
        self.session = await opened.enter_async_context(
            aiohttp.ClientSession(
                f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {self.token}"}
            )
        )

    async def publish(self, run, start, end, machine="m1"):
        await self.live._on_log(
            SimpleNamespace(
                subject=f"spell.logs.{machine}.{run.id}",
                headers={"Spell-Offset": str(start)},
                data=run.journal[start:end],
            )
        )

    async def ask_to_stop(self, run):
        run.moves, run.stop_asked = 3, True
        await self.tell(b'{"run_id":%d,"owner_id":1,"kind":"intent"}' % run.id)

    async def finish(self, run):
        run.moves, run.stored = len(PATH), len(run.journal)
        await self.tell(b'{"run_id":%d,"owner_id":1,"after":"complete","kind":"moved"}' % run.id)

    async def tell(self, data):
        await self.live._on_event(SimpleNamespace(subject="x", data=data))

    def trust_the_bus(self):
        """As with a bus that works: looks that nobody asked for are seconds apart."""
        self.live._bus = SimpleNamespace(connected=True)
        self.live._subscribed.set()


@asynccontextmanager
async def flaky_world():
    """A world whose runs a test adds."""
    async with AsyncExitStack() as opened:
        made = World()
        await made.open(opened)
        yield made
