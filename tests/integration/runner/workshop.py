"""A machine without its services: an engine with code from a shelf, and runs that are started on it one by one."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from integration.runner import shims
from integration.runner.room import Builder
from spell_proto import http
from spell_proto.journal import OUTPUT, Decoder
from spell_proto.spec import CodeLocation
from spell_runner import workspace
from spell_runner.copies import Copies
from spell_runner.directory import Directory
from spell_runner.engines.local import LocalEngine, Place
from spell_runner.engines.server import ShimServer
from spell_runner.engines.shimmed import used_code
from spell_runner.environments import Environments
from spell_runner.isolation import Isolation
from spell_runner.mounts.cache import Cache
from spell_runner.mounts.mounting import Mounting, used_trees
from spell_runner.notes import Notes
from spell_runner.outputs import Changes
from spell_runner.phases import Status
from spell_runner.settings import Machine
from spell_runner.shim.launch import JOURNAL
from spell_runner.trees import Trees
from spell_runner.workspace import Abort
from support.shelf import Shelf
from support.specs import an_attempt

DEADLINE_SECONDS = 20.0
_NUMBERS = itertools.count(1)


@dataclass
class Ran:
    """A run that is over."""

    exit_code: int
    output: bytes
    changes: Changes
    directory: Directory

    @property
    def lines(self) -> list[str]:
        return self.output.decode().splitlines()


class Storage:
    """A storage that has a shelf and nothing else; it can be made to break off."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.breaks_after: int | None = None

    async def pack(self, request: web.Request) -> web.StreamResponse:
        whole = await self.shelf.pack(await request.read())
        if whole is None:
            body = {"code": "commit_unknown", "field": None, "message": "no such commit", "hint": None}
            return web.json_response(body, status=404)
        if self.breaks_after is None:
            return web.Response(body=whole)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(whole[: self.breaks_after])
        self.breaks_after = None
        assert request.transport is not None
        request.transport.close()
        return response

    @asynccontextmanager
    async def open(self, socket: Path) -> AsyncIterator[http.Caller]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/code/{owner}/{repository}/pack", self.pack)
        async with http.serve(app, f"unix://{socket}"), http.Caller(f"unix://{socket}") as caller:
            yield caller


class Workshop:
    """One machine of one owner."""

    def __init__(
        self, data: Path, storage: Storage, caller: http.Caller, trees: Trees, engine: LocalEngine
    ) -> None:
        self.data = data
        self.caller = caller
        self.storage = storage
        self.shelf = storage.shelf
        self.trees = trees
        self.engine = engine

    async def run(self, command: str, code: dict[str, Any], **env: str) -> Ran:
        spec = an_attempt(next(_NUMBERS), command=command, env=env, code=CodeLocation(**code))
        attempts = self.data / "attempts"
        directory = Directory.take_on(attempts, spec, spec.model_dump_json().encode(), "boot")
        await self.engine.prepare(spec, directory, Notes(directory, lambda: None), Abort(), lambda: None)
        await self.engine.start(directory)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (look := self.engine.look(directory, alive=True)).status is not Status.EXITED:
                assert look.status is not Status.LOST
                await asyncio.sleep(0.005)
        assert look.exit is not None
        assert look.exit.error is None, look.exit.error
        records = Decoder().feed(Path(directory / JOURNAL).read_bytes())
        output = b"".join(record.payload for record in records if record.kind in OUTPUT)
        changes = self.engine.changes(directory, Abort())
        return Ran(look.exit.exit_code, output, changes, directory)


@asynccontextmanager
async def workshop(isolation: str = "none", *, overlay: bool = False) -> AsyncIterator[Workshop]:
    """A machine with this isolation. Its data is not below /tmp, which a sandbox replaces."""
    shims.need(isolation)
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    data = directory / "data"
    place = Place(data, (str(data),))
    for path in (data, place.empty, place.root, data / "attempts"):
        path.mkdir()
    builder = Builder(directory, directory / "b.sock")
    storage = Storage(Shelf(directory / "shelf.git"))
    # Nobody but the test itself knows these objects.
    machine = Machine("m", "boot", "CPU", 2, False, "nobody", str(directory / "home"), {})
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(builder.open())
        builds = await opened.enter_async_context(http.Caller(f"unix://{builder.socket}"))
        packs = await opened.enter_async_context(storage.open(directory / "s.sock"))
        trees = Trees(data, packs, lambda: used_code(data / "attempts"))
        engine = LocalEngine(
            machine,
            place,
            Isolation(isolation, overlay=overlay, bubblewrap=shims.BWRAP),
            ShimServer(data, 1.0),
            Environments(builds, Copies(data, builds, packs, lambda: used_code(data / "attempts"), 10**9)),
            trees,
            Mounting(Cache(data, lambda: used_trees(data / "attempts"), 10**9), packs),
            grace_seconds=1.0,
            log_bytes_max=1 << 20,
        )
        await engine.open()
        opened.push_async_callback(engine.close)
        try:
            yield Workshop(data, storage, packs, trees, engine)
        finally:
            workspace.remove(directory)
