"""A storage that hangs is asked again: it holds a run up, but not for ever."""

import asyncio

from aiohttp import web

from spell_proto import http
from spell_runner import saving
from spell_runner.directory import Directory
from spell_runner.notes import Notes
from spell_runner.outputs import Changes, Found
from spell_runner.workspace import Abort
from support.specs import an_attempt

DIGEST = "a" * 64


class Sleepy:
    """A storage that takes the first file and then says nothing, as a stopped process does."""

    def __init__(self):
        self.puts = 0

    async def missing(self, request):
        return web.json_response({"missing": (await request.json())["digests"]})

    async def put(self, request):
        self.puts += 1
        if self.puts == 1:
            await asyncio.Event().wait()
        return web.json_response({}, status=201)

    async def manifest(self, request):
        return web.json_response({"digest": DIGEST, "files": 1, "bytes": 1})

    def app(self):
        app = web.Application()
        app.router.add_post("/blobs/missing", self.missing)
        app.router.add_put("/blobs/{digest}", self.put)
        app.router.add_put("/manifests", self.manifest)
        return app


def notes(attempts):
    spec = an_attempt()
    directory = Directory.take_on(attempts, spec, spec.model_dump_json().encode(), "boot")
    return Notes(directory, lambda: None)


async def test_an_upload_that_hangs_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "PUT_SECONDS_MAX", 0.2)
    (tmp_path / "file").write_text("x")
    changes = Changes([Found("file", str(tmp_path / "file"), 0o644, 1, 0)])
    storage, socket = Sleepy(), f"unix://{tmp_path}/s.sock"

    async with http.serve(storage.app(), socket), http.Caller(socket) as caller, asyncio.timeout(10):
        saved = await saving.save(caller, 1, None, changes, notes(tmp_path), Abort())

    assert (saved.manifest, storage.puts) == (DIGEST, 2)
