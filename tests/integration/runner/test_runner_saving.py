"""What a save leaves out, and that a storage that hangs is asked again: it holds a run up, but not for ever."""

import asyncio
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from integration.runner import shims
from spell_proto import blob_packs, http
from spell_proto.codec import encode
from spell_proto.errors import RefusedError
from spell_proto.state import Reason
from spell_proto.views import Manifest, ManifestEntry
from spell_runner import saving, sending
from spell_runner.directory import Directory
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes
from spell_runner.outputs import Changes, Found, manifest_bytes
from spell_runner.workspace import Abort
from support.specs import an_attempt

DIGEST = "a" * 64


class Sleepy:
    """A storage that takes the first file and then says nothing, as a stopped process does."""

    def __init__(self):
        self.puts = 0

    async def missing(self, request):
        return web.json_response({"missing": (await request.json())["digests"]})

    async def named(self, request):
        refused = RefusedError(blob_packs.FILE_UNREACHABLE, "it is on another machine")
        return web.json_response(refused.body(), status=409)

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
        app.router.add_post("/blobs/pack", self.put)
        app.router.add_put("/blobs/{digest}", self.put)
        app.router.add_post("/blobs/{digest}/file", self.named)
        app.router.add_put("/manifests", self.manifest)
        return app


def notes(attempts):
    spec = an_attempt()
    directory = Directory.take_on(attempts, spec, spec.model_dump_json().encode(), "boot")
    return Notes(directory, lambda: None)


async def test_an_upload_that_hangs_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "PUT_SECONDS_MAX", 0.2)
    (tmp_path / "file").write_text("x")
    changes = Changes([Found("file", str(tmp_path / "file"), 0o644, 1, 0)])
    storage, socket = Sleepy(), f"unix://{tmp_path}/s.sock"

    async with http.serve(storage.app(), socket), http.Caller(socket) as caller, asyncio.timeout(10):
        saved = await saving.save(caller, 1, None, changes, notes(tmp_path), Abort(), last=True)

    assert (saved.manifest, storage.puts) == (DIGEST, 2)


class Taking(Sleepy):
    """A storage that takes everything."""

    told = None

    async def put(self, request):
        self.puts += 1
        return web.json_response({}, status=201)

    async def manifest(self, request):
        self.told = await request.json()
        return await super().manifest(request)


class Meddler(Abort):
    """Writes to a file while it is looked at for the first time."""

    def __init__(self, path):
        super().__init__()
        self.left = [path]

    def check(self):
        while self.left:
            with self.left.pop().open("r+b") as file:
                file.write(b"Y")
        super().check()


async def test_a_file_that_changes_while_it_is_read_is_read_again_and_flagged(tmp_path):
    (tmp_path / "file").write_text("xx")
    os.utime(tmp_path / "file", (0, 0))
    changes = Changes(
        [Found("file", str(tmp_path / "file"), 0o644, 2, 0)], notes=[f"Not saved: {n}" for n in range(12)]
    )
    storage, socket = Taking(), f"unix://{tmp_path}/s.sock"
    abort = Meddler(tmp_path / "file")

    async with http.serve(storage.app(), socket), http.Caller(socket) as caller, asyncio.timeout(10):
        saved = await saving.save(caller, 1, None, changes, notes(tmp_path), abort, last=True)

    (entry,) = storage.told["entries"]
    assert (entry["changed"], entry["sha256"]) == (True, hashlib.sha256(b"Yx").hexdigest())
    assert saved.changed == 1
    # Of each kind there is something, however much there is of the other.
    assert saved.notes[-3:] == ("Not saved: 9", "and 2 more like that", "'/spell/file' changed during save")


class Waiting(Taking):
    """One that takes a file when the log says how far that is."""

    journal: Path

    async def put(self, request):
        async for _ in request.content.iter_any():
            pass
        while b"Saving: 3.1 MB of 3.1 MB" not in self.journal.read_bytes():
            await asyncio.sleep(0.01)
        return await super().put(request)


async def test_the_log_says_how_far_a_long_save_is(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "PROGRESS_SECONDS", 0.05)
    (tmp_path / "file").write_bytes(b"x" * (3 << 20))
    changes = Changes([Found("file", str(tmp_path / "file"), 0o644, 3 << 20, 0)])
    storage, socket, log = Waiting(), f"unix://{tmp_path}/s.sock", notes(tmp_path)
    (storage.journal,) = tmp_path.glob("*/journal")

    async with http.serve(storage.app(), socket), http.Caller(socket) as caller, asyncio.timeout(20):
        saved = await saving.save(caller, 1, None, changes, log, Abort(), last=True)

    assert saved.manifest == DIGEST


class Vanishing(Taking):
    """One in whose time a file vanishes, when its digest was taken."""

    path: Path

    async def missing(self, request):
        self.path.unlink(missing_ok=True)
        return await super().missing(request)


@pytest.mark.parametrize("size", [3, 3 << 20])
async def test_what_cannot_be_read_costs_nothing_but_itself(tmp_path, size):
    for name in ("a", "gone soon", "z"):
        (tmp_path / name).write_bytes(name[:1].encode() * size)
    (tmp_path / "link").symlink_to("a")
    names = ("a", "directory/x", "gone", "gone soon", "link", "z")
    # Nothing that is read follows a link, and a time may be any number.
    found = [Found(name, str(tmp_path / name), 0o644, size, 1 << 62) for name in names]
    (tmp_path / "directory").symlink_to(tmp_path)
    (tmp_path / "x").write_text("behind a link")
    storage, socket, log = Vanishing(), f"unix://{tmp_path}/s.sock", notes(tmp_path)
    storage.path = tmp_path / "gone soon"

    async with http.serve(storage.app(), socket), http.Caller(socket) as caller, asyncio.timeout(30):
        saved = await saving.save(caller, 1, None, Changes(found), log, Abort(), last=True)

    assert [entry["path"] for entry in storage.told["entries"]] == ["a", "z"]
    assert {note.partition(" (")[0] for note in saved.notes} == {
        f"Not saved: '/spell/{name}'" for name in ("directory/x", "gone", "gone soon", "link")
    }
    assert not [note for note in saved.notes if str(tmp_path) in note]


async def test_where_nothing_can_be_read_nothing_is_saved_and_that_is_said(tmp_path):
    changes = Changes([Found("gone", str(tmp_path / "gone"), 0o644, 1, 0)])
    storage, socket, log = Taking(), f"unix://{tmp_path}/s.sock", notes(tmp_path)

    async with http.serve(storage.app(), socket), http.Caller(socket) as caller, asyncio.timeout(30):
        saved = await saving.save(caller, 1, None, changes, log, Abort(), last=True)

    assert (saved.manifest, storage.told) == (None, None)
    assert saved.notes == ("Not saved: '/spell/gone' (it cannot be read: No such file or directory)",)


@pytest.mark.parametrize("files", [9, 11])
async def test_more_files_than_a_manifest_may_have_are_refused_before_they_are_sent(
    tmp_path, monkeypatch, files
):
    found = [Found(f"f{number:03}", str(tmp_path / f"f{number:03}"), 0o644, 3, 0) for number in range(files)]
    for one in found:
        Path(one.source).write_text(one.path[1:])
    storage, socket = Taking(), f"unix://{tmp_path}/s.sock"
    one_more = len(encode(Manifest(entries=tuple(entry_of(one) for one in [*found[:9], found[0]]))))
    monkeypatch.setattr(saving, "MANIFEST_BYTES_MAX", one_more)

    async with http.serve(storage.app(), socket), http.Caller(socket) as caller, asyncio.timeout(10):
        saving_all = saving.save(caller, 1, None, Changes(found), notes(tmp_path), Abort(), last=True)
        if files == 9:
            assert (await saving_all).manifest == DIGEST
            return
        with pytest.raises(AttemptError) as failed:
            await saving_all

    assert failed.value.reason is Reason.SAVE_FAILED
    assert "there are 11 of them" in failed.value.message
    assert "leave some out with .spellignore or --no-save" in failed.value.message
    assert (storage.puts, storage.told) == (0, None)


def entry_of(found):
    at = datetime.fromtimestamp(found.mtime_ns / 1e9, UTC)
    link = found.link
    return ManifestEntry(
        path=found.path, size=found.size, sha256=DIGEST, mode=found.mode, modified_at=at, link=link
    )


@pytest.mark.parametrize("link", [None, "to/ä"])
@pytest.mark.parametrize("at", [0, 1_700_000_000_123_456_789, 1_700_000_000_000_000_000])
def test_how_long_a_manifest_will_be_is_known_beforehand(link, at):
    found = {path: Found(path, "x", 0o755, 12_345, at, link) for path in ("a", "dir/ä" * 40, "x" * 255)}
    manifest = Manifest(entries=tuple(entry_of(one) for one in found.values()), deleted=("a", "b/c"))

    size = len(encode(manifest))

    assert size - len('{"entries":[],"deleted":[]}') <= manifest_bytes(found, manifest.deleted) <= size


class Full(Sleepy):
    """A storage that takes no more of this owner."""

    async def put(self, request):
        return web.json_response({}, status=201)

    async def manifest(self, request):
        refused = RefusedError("quota_exceeded", "your saved files would be 2 GB, 1 GB are allowed")
        return web.json_response(refused.body(), status=413)


class Fuller(Full):
    """One that takes the files of a run that is over all the same."""

    async def manifest(self, request):
        if request.query.get("beyond") != "1":
            return await super().manifest(request)
        stored = {
            "digest": DIGEST,
            "files": 1,
            "bytes": 1,
            "full": "your saved files are 2 GB, 1 GB are allowed",
        }
        return web.json_response(stored)


async def test_what_a_run_has_made_is_kept_though_its_owner_has_all_he_may(tmp_path):
    (tmp_path / "file").write_text("x")
    changes = Changes([Found("file", str(tmp_path / "file"), 0o644, 1, 0)])
    socket, log = f"unix://{tmp_path}/s.sock", notes(tmp_path)

    async with http.serve(Fuller().app(), socket), http.Caller(socket) as caller, asyncio.timeout(10):
        saved = await saving.save(caller, 1, None, changes, log, Abort(), last=True)

    (journal,) = tmp_path.glob("*/journal")
    assert saved.manifest == DIGEST
    assert (
        b"Saved; nothing new can begin: your saved files are 2 GB, 1 GB are allowed" in journal.read_bytes()
    )


async def test_a_snapshot_beyond_what_its_owner_may_have_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    changes = Changes([Found("file", str(tmp_path / "file"), 0o644, 1, 0)])
    socket = f"unix://{tmp_path}/s.sock"

    async with http.serve(Full().app(), socket), http.Caller(socket) as caller, asyncio.timeout(10):
        with pytest.raises(AttemptError) as failed:
            await saving.save(caller, 1, None, changes, notes(tmp_path), Abort(), last=False)

    assert failed.value.reason is Reason.DISK_QUOTA
    assert "your saved files would be 2 GB, 1 GB are allowed" in str(failed.value)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    "isolation",
    [
        "none",
        "docker",
        pytest.param(
            "bubblewrap", marks=pytest.mark.skipif(not shims.BWRAP, reason="bubblewrap is not installed")
        ),
    ],
)
async def test_what_patterns_leave_out_is_not_saved(rooms, isolation):
    here = await rooms(isolation)
    code = here.front.shelf.code({".spellignore": b"*.tmp\n/cache/\n", "old.tmp": b"old"})
    command = "mkdir -p cache sub/cache; touch a.tmp b.bin cache/x sub/cache/y best.tmp; echo new > old.tmp; rm .spellignore"

    run_id = await here.create(command, code=code, no_save=["*.bin", "!best.tmp"])
    view = await here.until_final(run_id)

    assert set(await here.files(view)) == {"best.tmp", "sub/cache/y"}
    assert "Not saved: 4 files (left out by .spellignore and --no-save)" in await here.lines(run_id)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_run_of_which_everything_is_left_out_has_no_files(rooms):
    here = await rooms("none")

    run_id = await here.create("touch a b", no_save=["*"])
    view = await here.until_final(run_id)

    assert (view.state, view.manifest) == ("complete", None)
    lines = await here.lines(run_id)
    assert "Not saved: 2 files (left out by --no-save)" in lines
    assert "No modified or new files found" not in lines
