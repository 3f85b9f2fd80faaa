"""Blobs that are files of storage's own machine, through the real service: read where they are, trusted no more for it."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest
from pydantic import TypeAdapter

from spell_proto import blob_packs
from spell_proto.errors import InvalidError, UnavailableError
from spell_runner.sending import Taken
from spell_runner.taking import New

pytestmark = pytest.mark.integration

OWNER = {"owner_id": 82_000}
TAKEN = TypeAdapter(Taken)
NEW = TypeAdapter(New)
SIZES = [0, 1, (256 << 10) - 1, (1 << 20) + 17, 70_000_000]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


async def name(api, file, digest, size=None, **more):
    """Say which open file it is."""
    status = os.fstat(file.fileno())
    params = {
        "file": file.fileno(),
        "identity": blob_packs.identity(status),
        "size": status.st_size if size is None else size,
        **OWNER,
        **more,
    }
    async with api.open("POST", f"/blobs/{digest}/file", params=params) as response:
        assert response.status == 201


async def get(api, digest):
    async with api.open("GET", f"/blobs/{digest}", params=OWNER, stream=True) as response:
        return await response.read()


def left(storage):
    """Files that are no object: neither whole nor to be."""
    return [path for path in (storage.data / "blobs").rglob("*#*") if path.is_file()]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_that_its_caller_has_open_comes_back_as_it_is(api, storage, tmp_path, size):
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)

    with path.open("rb") as file:
        # It has no name any more, and whoever has it open has read from it.
        path.unlink()
        file.read(10)
        await name(api, file, sha256(data))

    assert await get(api, sha256(data)) == data
    assert left(storage) == []


async def test_what_is_here_already_is_read_and_not_written_again(api, storage, tmp_path):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        await name(api, file, sha256(data))
        await name(api, file, sha256(data), owner_id=82_001)

    assert len(list((storage.data / "blobs").rglob(f"{sha256(data)}.*"))) == 1
    async with api.open("GET", f"/blobs/{sha256(data)}", params={"owner_id": 82_001}) as response:
        assert sha256(await response.read()) == sha256(data)


@pytest.mark.parametrize("known", [False, True])
async def test_a_file_with_another_digest_is_refused_and_leaves_nothing(api, storage, tmp_path, known):
    data, wanted = os.urandom(2_000_000), os.urandom(2_000_000)
    path = tmp_path / "file"
    if known:
        path.write_bytes(wanted)
        with path.open("rb") as file:
            await name(api, file, sha256(wanted), owner_id=82_001)
    path.write_bytes(data)

    with path.open("rb") as file, pytest.raises(InvalidError) as refused:
        await name(api, file, sha256(wanted))
    with pytest.raises(Exception, match="no blob"):
        await get(api, sha256(wanted))

    assert refused.value.code == "digest_mismatch"
    assert left(storage) == []


async def test_a_file_that_became_shorter_is_refused(api, tmp_path):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data[:-1])

    with path.open("rb") as file, pytest.raises(InvalidError) as refused:
        await name(api, file, sha256(data), size=len(data))

    assert refused.value.code == "digest_mismatch"


async def test_what_was_added_to_a_file_since_is_no_harm(api, tmp_path):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data + b"more")

    with path.open("rb") as file:
        await name(api, file, sha256(data), size=len(data))

    assert await get(api, sha256(data)) == data


@pytest.mark.parametrize("what", ["another", "directory", "pipe", "closed", "none"])
async def test_what_is_not_the_file_that_is_meant_is_not_opened(api, tmp_path, what):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    (tmp_path / "other").write_bytes(b"x" * 10)
    reading, writing = os.pipe()
    numbers = {
        "another": os.open(tmp_path / "other", os.O_RDONLY),
        "directory": os.open(tmp_path, os.O_RDONLY),
        "pipe": reading,
    }
    number = numbers.get(what, 999_999)
    identity = blob_packs.identity(path.stat() if what == "another" else os.fstat(numbers.get(what, reading)))
    params = {"file": number, "size": 10, **({"identity": identity} if what != "none" else {})}

    with pytest.raises(InvalidError) as refused:
        async with api.open("POST", f"/blobs/{sha256(b'x' * 10)}/file", params={**OWNER, **params}):
            pass
    for each in (*numbers.values(), writing):
        os.close(each)

    assert refused.value.code == blob_packs.FILE_UNREACHABLE


async def take(api, file, version=None, **more):
    """The digest that storage finds in an open file."""
    status = os.fstat(file.fileno())
    params = {
        "file": file.fileno(),
        "identity": blob_packs.identity(status),
        "version": version or blob_packs.version(status),
        **OWNER,
        **more,
    }
    return (await api.call("POST", "/blobs/file", TAKEN, params=params)).sha256


@pytest.mark.parametrize("size", SIZES)
async def test_storage_finds_the_digest_of_a_file_while_it_reads_it(api, storage, tmp_path, size):
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)

    with path.open("rb") as file:
        digest = await take(api, file)

    assert digest == sha256(data)
    assert await get(api, digest) == data
    assert left(storage) == []


async def test_of_what_is_here_already_nothing_is_kept_twice(api, storage, postgres, tmp_path):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        async with asyncio.TaskGroup() as group:
            for owner_id in (82_000, 82_001, 82_001):
                group.create_task(take(api, file, owner_id=owner_id))
        await take(api, file, owner_id=82_002)

    assert len(list((storage.data / "blobs").rglob(f"{sha256(data)}.*"))) == 1
    assert left(storage) == []
    for owner_id in (82_000, 82_001, 82_002):
        async with api.open("GET", f"/blobs/{sha256(data)}", params={"owner_id": owner_id}) as response:
            assert sha256(await response.read()) == sha256(data)
    connection = await asyncpg.connect(postgres.url("storage"))
    loose = await connection.fetch("SELECT key FROM loose WHERE at > '-infinity' AND NOT key LIKE '%.%'")
    await connection.close()
    assert loose == []


async def test_a_file_that_is_another_version_is_refused_and_leaves_nothing(api, storage, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2_000_000))
    before = blob_packs.version(path.stat())
    data = os.urandom(2_000_001)
    path.write_bytes(data)

    with path.open("rb") as file, pytest.raises(InvalidError) as refused:
        await take(api, file, before)
    with pytest.raises(Exception, match="no blob"):
        await get(api, sha256(data))

    assert refused.value.code == blob_packs.FILE_CHANGED
    assert left(storage) == []


async def test_a_file_that_is_written_to_while_it_is_read_is_refused(api, storage, tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with path.open("rb") as file:
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(refusal(take(api, file)))
            while not left(storage):
                assert not taking.done()
                await asyncio.sleep(0.001)
            with path.open("r+b") as other:
                other.write(b"x")

    assert taking.result() == blob_packs.FILE_CHANGED
    assert left(storage) == []


async def test_what_a_killed_storage_leaves_of_a_file_is_on_record_to_be_removed(own_storage, tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with path.open("rb") as file:
        async with own_storage.client() as api, asyncio.TaskGroup() as group:
            taking = group.create_task(broken(take(api, file)))
            while not left(own_storage):
                assert not taking.done()
                await asyncio.sleep(0.001)
            await asyncio.to_thread(own_storage.stop, signal.SIGKILL)

    [unfinished] = left(own_storage)
    key = str(unfinished.relative_to(own_storage.data / "blobs")).removesuffix("#1")
    connection = await asyncpg.connect(own_storage.environment["SPELL_DATABASE_URL"])
    found = await connection.fetchval("SELECT count(*) FROM loose WHERE key = $1", key)
    await connection.close()
    unfinished.unlink()
    assert found == 1


async def broken(asking):
    with pytest.raises(UnavailableError):
        await asking


async def refusal(asking):
    with pytest.raises(InvalidError) as refused:
        await asking
    return refused.value.code


async def is_new(api, data, **more):
    """Whether storage says that its owner cannot have a file."""
    size = len(data)
    pieces = [data[at << 20 : (at + 1) << 20] for at in blob_packs.looked_at(size)]
    body = {"files": [blob_packs.look(size, pieces)]}
    return (await api.call("POST", "/blobs/new", NEW, params={**OWNER, **more}, body=body)).new[0]


@pytest.mark.parametrize("size", [8 << 20, (9 << 20) + 1, (10 << 20) - 1])
async def test_a_file_is_new_that_its_owner_cannot_have_and_nothing_is_told_of_others(api, tmp_path, size):
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert await is_new(api, data)
    with path.open("rb") as file:
        await take(api, file)

    assert not await is_new(api, data)
    assert await is_new(api, data, owner_id=82_003)
    for at in (0, blob_packs.looked_at(size)[1] << 20, size - 1):
        assert await is_new(api, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert await is_new(api, data + b"x")
    assert not await is_new(api, os.urandom((8 << 20) - 1))


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_WRONLY])
async def test_who_may_not_read_what_he_has_open_has_nothing_read_for_him(api, tmp_path, flags):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    number = os.open(path, flags)
    status = path.stat()
    params = {"file": number, "identity": blob_packs.identity(status), "size": len(data), **OWNER}

    with pytest.raises(InvalidError) as refused:
        async with api.open("POST", f"/blobs/{sha256(data)}/file", params=params):
            pass
    os.close(number)

    assert refused.value.code == blob_packs.FILE_UNREACHABLE


ANOTHER = """
import asyncio, os, sys
from spell_proto.http import Caller
from spell_proto.errors import InvalidError
from spell_proto.blob_packs import identity

async def main():
    number = os.open("file", os.O_RDONLY)
    params = {"owner_id": 82_000, "file": number, "identity": identity(os.fstat(number)), "size": 10}
    if sys.argv[1] == "another":
        os.setegid(65534)
        os.seteuid(65534)
    async with Caller("unix://s.sock") as api:
        try:
            async with api.open("POST", f"/blobs/{'0' * 64}/file", params=params):
                pass
        except InvalidError as error:
            print(error.code)

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("user", "code"), [("same", "digest_mismatch"), ("another", blob_packs.FILE_UNREACHABLE)]
)
async def test_nothing_is_read_for_another_user_of_the_machine(own_storage, tmp_path, user, code):
    socket = own_storage.directory / "storage.sock"
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        # A way to the socket for everybody, past directories that are root's.
        Path(place).chmod(0o755)
        (Path(place) / "s.sock").hardlink_to(socket)
        socket.chmod(0o666)
        (Path(place) / "file").write_bytes(b"x" * 10)
        said = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", ANOTHER, user],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    assert (said.stdout, said.stderr) == (f"{code}\n", "")
