"""How large files come to storage: it reads them where they are, or they are sent where it only seems to be on this machine."""

import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

import pytest
from pydantic import TypeAdapter

from spell_proto.http import Caller, until_listening
from spell_proto.views import Manifest
from spell_runner import saving
from spell_runner.outputs import Changes, Found
from spell_runner.workspace import Abort

pytestmark = pytest.mark.asyncio(loop_scope="session")
MANIFEST = TypeAdapter(Manifest)
OWNER = 83_000
LARGE = 3_000_000
#: Worth a look at whether it is new.
HUGE = 9_000_000
RELAY = """
import asyncio, sys

async def passed(reader, writer):
    while data := await reader.read(1 << 20):
        writer.write(data)
        await writer.drain()
    writer.close()

async def met(reader, writer):
    there, back = await asyncio.open_unix_connection(sys.argv[1])
    await asyncio.gather(passed(reader, back), passed(there, writer))

async def main():
    await (await asyncio.start_unix_server(met, sys.argv[2])).serve_forever()

asyncio.run(main())
"""


class Log:
    """The log of a run, for what is said in it."""

    def __init__(self):
        self.said = []

    def line(self, text, **_):
        self.said.append(text)

    def lines(self, texts, **_):
        self.said += texts


class Watched(Caller):
    """Remembers what is asked, and lets something happen before it is."""

    def __init__(self, address, before=None):
        super().__init__(address)
        self.asked = []
        self._before = before or (lambda _: None)

    @asynccontextmanager
    async def open(self, method, path, **more):
        self.asked.append(f"{method} {path}")
        self._before(self.asked[-1])
        async with super().open(method, path, **more) as response:
            yield response


def made(directory, **files):
    """What a run has written."""
    found = []
    for name, data in files.items():
        path = directory / name
        path.write_bytes(data)
        found.append(Found(name, str(path), 0o644, len(data), path.stat().st_mtime_ns))
    return Changes(found=found)


async def saved(storage, changes):
    """The saved files, and whether each changed meanwhile."""
    done = await saving.save(storage, OWNER, None, changes, Log(), Abort(), last=True)
    manifest = await storage.call("GET", f"/manifests/{done.manifest}", MANIFEST, params={"owner_id": OWNER})
    files = {}
    for entry in manifest.entries:
        async with storage.open("GET", f"/blobs/{entry.sha256}", params={"owner_id": OWNER}) as answer:
            files[entry.path] = await answer.read(), entry.changed
    return files


def how(storage):
    """In which ways bytes came, one for each file or pack."""
    return sorted(
        "taken" if asked == "POST /blobs/file" else "file" if asked.endswith("/file") else asked.split()[0]
        for asked in storage.asked
        if asked.endswith(("/file", "/pack")) or asked.startswith("PUT /blobs/")
    )


async def test_large_files_are_read_where_they_are(services, tmp_path):
    files = {"a": os.urandom(LARGE), "b": os.urandom(LARGE), "small": os.urandom(10)}
    async with Watched(services.storage_url) as storage:
        found = await saved(storage, made(tmp_path, **files))

    assert found == {name: (data, False) for name, data in files.items()}
    assert how(storage) == ["POST", "file", "file"]


async def test_the_digest_of_what_is_new_is_taken_while_it_is_copied(services, tmp_path):
    files = {"a": os.urandom(HUGE), "b": os.urandom(HUGE), "small": os.urandom(10)}
    async with Watched(services.storage_url) as storage:
        found = await saved(storage, made(tmp_path, **files))

    assert found == {name: (data, False) for name, data in files.items()}
    assert how(storage) == ["POST", "taken", "taken"]


async def test_what_is_there_is_not_copied_again_and_what_only_looks_like_it_is(services, tmp_path):
    data = os.urandom(HUGE)
    other = data[: 2 << 20] + b"other" + data[(2 << 20) + 5 :]
    async with Watched(services.storage_url) as storage:
        await saved(storage, made(tmp_path, a=data))
        storage.asked.clear()
        again = await saved(storage, made(tmp_path, a=data))
        unchanged = how(storage)
        found = await saved(storage, made(tmp_path, a=other))

    assert (again, unchanged) == ({"a": (data, False)}, [])
    assert found == {"a": (other, False)}
    assert how(storage) == ["file"]


async def test_a_new_file_that_changes_before_it_is_copied_is_whole_and_said_to_have_changed(
    services, tmp_path
):
    changes = made(tmp_path, a=os.urandom(HUGE), b=os.urandom(10))
    after = os.urandom(HUGE + 1)

    def change(asked):
        if asked == "POST /blobs/file":
            (tmp_path / "a").write_bytes(after)

    async with Watched(services.storage_url, change) as storage:
        found = await saved(storage, changes)

    assert found["a"] == (after, True)
    assert how(storage) == ["POST", "file", "taken"]


async def test_a_new_file_that_is_gone_before_it_is_copied_costs_the_others_nothing(services, tmp_path):
    changes = made(tmp_path, a=os.urandom(HUGE), b=os.urandom(HUGE))

    def remove(asked):
        if asked == "POST /blobs/new":
            (tmp_path / "a").unlink()

    async with Watched(services.storage_url, remove) as storage:
        found = await saved(storage, changes)

    assert list(found) == ["b"]


@contextmanager
def relayed(behind, socket):
    """A process of its own passes on what is said."""
    relay = subprocess.Popen([sys.executable, "-c", RELAY, behind.removeprefix("unix://"), str(socket)])
    try:
        yield f"unix://{socket}"
    finally:
        relay.kill()
        relay.wait(10)


@pytest.mark.parametrize(("size", "ways"), [(LARGE, ["PUT", "file"]), (HUGE, ["PUT", "file", "taken"])])
async def test_where_somebody_stands_between_they_are_sent(services, tmp_path, size, ways):
    data, socket = os.urandom(size), tmp_path / "relay.sock"
    with relayed(services.storage_url, socket) as address:
        assert await until_listening(socket, 20)
        async with Watched(address) as storage:
            found = await saved(storage, made(tmp_path, a=data))

    assert found == {"a": (data, False)}
    assert how(storage) == ways


async def test_a_file_that_changes_before_it_is_read_there_is_whole_and_said_to_have_changed(
    services, tmp_path
):
    changes = made(tmp_path, a=os.urandom(LARGE))
    after = os.urandom(LARGE + 1)

    def change(asked):
        if asked.endswith("/file") and (tmp_path / "a").stat().st_size == LARGE:
            (tmp_path / "a").write_bytes(after)

    async with Watched(services.storage_url, change) as storage:
        found = await saved(storage, changes)

    assert found == {"a": (after, True)}
    assert how(storage) == ["file", "file"]
