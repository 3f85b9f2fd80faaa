"""The object store behind one interface: the same behaviour on a local disk and where objects are remote."""

import asyncio
import os

import pytest

from integration.storage.files_room import in_bucket
from spell_proto.errors import SettingsError
from spell_storage.objects import PIECE_BYTES, Objects

pytestmark = pytest.mark.integration


@pytest.fixture(params=["directory", "file-url", "remote", "s3", "gcs"])
def objects(request, clouds, tmp_path):
    if request.param in {"s3", "gcs"}:
        made = in_bucket(request.param, clouds)
        return Objects(made._store, None)
    # `memory:` takes every path that S3 takes here, short of the network.
    url = {"directory": "", "file-url": f"file://{tmp_path}/elsewhere", "remote": "memory:///"}[request.param]
    return Objects.open(url, tmp_path / "blobs")


async def read(objects, key, start, length):
    return b"".join([piece async for piece in objects.stream(key, start, length)])


async def test_an_object_is_read_back_whole_and_in_ranges(objects):
    data = os.urandom(2 * PIECE_BYTES + 17)

    await objects.put("a/b", data, synced=True)
    await objects.settle()

    assert await objects.get("a/b") == data
    assert await objects.size("a/b") == len(data)
    assert await read(objects, "a/b", 0, len(data)) == data
    assert await read(objects, "a/b", 5, PIECE_BYTES + 1) == data[5 : PIECE_BYTES + 6]
    assert await read(objects, "a/b", 7, 0) == b""


async def test_what_is_not_there_is_said_to_be_missing(objects):
    assert await objects.size("no/such") is None
    with pytest.raises(FileNotFoundError):
        await objects.get("no/such")
    with pytest.raises(FileNotFoundError):
        await read(objects, "no/such", 0, 1)


async def test_a_stream_of_pieces_becomes_one_object(objects):
    pieces = [os.urandom(3_000_000) for _ in range(7)]

    async def sent():
        for piece in pieces:
            yield piece

    await objects.put_stream("streamed", sent())

    assert await objects.get("streamed") == b"".join(pieces)


async def test_objects_are_listed_by_what_their_keys_begin_with_and_removed(objects):
    for key in ("a/1", "a/b/2", "c/3"):
        await objects.put(key, b"x")

    listed = {key async for page in objects.listed("a/") for key, _ in page}
    for _ in range(2):
        await objects.remove("a/b/2")
    left = {key async for page in objects.listed("a/") for key, _ in page}

    assert listed == {"a/1", "a/b/2"}
    assert left == {"a/1"}


async def test_a_stream_that_breaks_leaves_nothing(objects, tmp_path):
    async def sent():
        yield os.urandom(9_000_000)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await objects.put_stream("broken", sent())

    assert await objects.size("broken") is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_stream_that_is_given_up_leaves_nothing(objects, tmp_path):
    started = asyncio.Event()

    async def sent():
        yield os.urandom(9_000_000)
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(objects.put_stream("stuck", sent()))
    await started.wait()
    task.cancel()
    await asyncio.wait([task])

    assert await objects.size("stuck") is None
    async with asyncio.timeout(5):
        while [path for path in tmp_path.rglob("*") if path.is_file()]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("url", ["nonsense", "ftp://x/y", "s3://"])
def test_a_url_that_names_no_store_is_refused_by_name(url, tmp_path):
    with pytest.raises(SettingsError, match="SPELL_BLOB_STORE"):
        Objects.open(url, tmp_path)
