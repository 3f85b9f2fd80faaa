"""Bytes that are damaged, and stores that are only away: no good bytes are ever lost over the one or the other."""

import errno
import os

import pytest
from obstore.store import S3Store

from integration.storage.files_room import DAY, a_files_room, in_bucket, in_directory, manifest_of, sha256
from spell_proto.errors import GoneError, InvalidError, UnavailableError
from spell_proto.views import Manifest
from spell_storage.blobs import Blobs
from spell_storage.scrub import Scrub
from support import buckets

pytestmark = pytest.mark.integration


@pytest.fixture
async def room(cluster, tmp_path):
    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as made:
        made.directory = tmp_path / "blobs"
        yield made


async def scrubbed(room):
    return [line async for line in Scrub(room.pool, room.objects, room.blobs, DAY).lines()][-1]


async def condemned(room):
    return await room.pool.fetchval("SELECT count(*) FROM objects WHERE key IS NULL")


def failing(objects, times, error):
    """So many of the next reads fail."""
    real, left = objects.stream, [times]

    async def stream(key, start, length):
        if left[0]:
            left[0] -= 1
            raise error
        async for piece in real(key, start, length):
            yield piece

    objects.stream = stream


async def test_a_disk_that_is_away_for_a_while_has_lost_nothing(room):
    files = {str(number): b"content %d" % number for number in range(20)}
    digest = await room.save(1, files)
    away = room.directory.with_name("away")
    room.directory.rename(away)
    room.directory.mkdir()

    for asked in (
        room.blobs.missing(1, [sha256(data) for data in files.values()]),
        room.blobs.read(1, sha256(files["0"])),
        room.pass_once(),
        scrubbed(room),
    ):
        with pytest.raises(UnavailableError, match="object store is not there"):
            await asked
    room.blobs.sentinel._seen_at = float("-inf")
    with pytest.raises(UnavailableError, match="object store is not there"):
        await room.blobs.put(1, sha256(b"new"), b"new")
    nothing = list(room.directory.rglob("*"))
    room.directory.rmdir()
    away.rename(room.directory)
    await room.clear()

    assert nothing == []
    assert await condemned(room) == 0
    assert await room.read(1, digest) == files


async def test_a_bucket_of_another_name_condemns_nothing(cluster, clouds):
    async with a_files_room(cluster.url("storage"), in_bucket("s3", clouds)) as room:
        digest = await room.save(1, {"a": b"one"})
        real = room.objects._store
        room.objects._store = S3Store(
            "nosuchbucket",
            endpoint=clouds.amazon.url,
            access_key_id="a",
            secret_access_key="b",
            region=buckets.REGION,
            client_options={"allow_http": True},
        )

        for asked in (scrubbed(room), room.pass_once(), room.blobs.read(1, sha256(b"one"))):
            with pytest.raises(UnavailableError):
                await asked
        room.objects._store = real

        assert await condemned(room) == 0
        assert await room.read(1, digest) == {"a": b"one"}


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), FileNotFoundError("gone")])
async def test_what_fails_once_is_read_again(room, error):
    data = os.urandom(3_000_000)
    await room.save(1, {"a": data})
    failing(room.objects, 1, error)

    assert await room.blobs.read(1, sha256(data)) == data
    assert await condemned(room) == 0


async def test_what_seemed_damaged_is_read_again_before_it_goes_and_put_back(room):
    data = os.urandom(3_000_000)
    digest = await room.save(1, {"a": data})
    failing(room.objects, 2, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(GoneError):
        await room.blobs.read(1, sha256(data))
    lacking = await room.blobs.missing(1, [sha256(data)])

    await room.clear()

    assert lacking == [sha256(data)]
    assert await room.read(1, digest) == {"a": data}
    assert await room.pool.fetchval("SELECT count(*) FROM loose") == 0


async def test_a_check_puts_back_what_is_whole_after_all(room):
    data = b"whole"
    await room.save(1, {"a": data})
    await room.blobs.contents.condemn(await room.blobs.find(1, sha256(data)), "a test says so")

    assert (await scrubbed(room)).damaged == 0
    assert await room.blobs.read(1, sha256(data)) == data


async def test_what_cannot_be_read_stays_until_it_is_sent_again(room):
    data = b"comes and goes" * 100
    await room.save(1, {"a": data})
    path = room.directory / (await room.objects_by_digest())[sha256(data)]
    aside = path.rename(room.directory.with_name("aside"))
    with pytest.raises(GoneError):
        await room.blobs.read(1, sha256(data))

    await room.clear()
    aside.rename(path)
    await room.pass_once()

    assert await room.blobs.read(1, sha256(data)) == data


async def test_bytes_that_are_others_for_good_go(room):
    data = os.urandom(2_000_000)
    await room.save(1, {"a": data})
    path = room.directory / (await room.objects_by_digest())[sha256(data)]
    await room.rot(data)
    with pytest.raises(GoneError):
        await room.blobs.read(1, sha256(data))
    await room.pass_once()
    soon = path.exists()

    await room.clear()

    assert (soon, path.exists()) == (True, False)
    assert await condemned(room) == 1


async def test_a_store_from_before_it_had_a_name_is_known_by_what_lies_there(room):
    await room.save(1, {"a": b"one"})
    await room.pool.execute("TRUNCATE store")
    away = room.directory.with_name("away")
    room.directory.rename(away)
    room.directory.mkdir()
    blobs = Blobs(room.pool, room.objects, again_seconds=0.0)

    with pytest.raises(UnavailableError, match="object store is not there"):
        await blobs.sentinel.check()
    room.directory.rmdir()
    away.rename(room.directory)

    await blobs.sentinel.check()


async def test_bytes_of_another_database_in_the_same_store_are_no_strays(room):
    await room.save(1, {"a": b"one"})
    other = "blobs/ab/" + "ab" * 32 + ".0123456789abcdef"
    await room.objects.put(other, b"x")
    os.utime(room.directory / other, (1e9, 1e9))
    await room.objects.put("store/other", b"other")

    assert (await scrubbed(room)).strays == 0


async def test_what_is_found_damaged_before_a_manifest_is_stored_is_sent_again(room):
    data = b"x" * 100
    await room.blobs.put(1, sha256(data), data)
    flush = room.objects.flush

    async def flush_late(keys):
        await flush(keys)
        await room.blobs.contents.condemn(await room.blobs.find(1, sha256(data)), "a check found it")

    room.objects.flush = flush_late
    with pytest.raises(UnavailableError, match="send them again"):
        await room.blobs.put_manifest(1, manifest_of({"a": data}))
    room.objects.flush = flush

    assert await room.blobs.missing(1, [sha256(data)]) == [sha256(data)]
    assert await room.pool.fetchval("SELECT count(*) FROM manifests") == 0


async def test_a_file_has_the_size_of_its_bytes(room):
    await room.blobs.put(1, sha256(b"x"), b"x")
    [entry] = manifest_of({"dir/a": b"x"}).entries

    with pytest.raises(InvalidError, match=r"dir/a.* has 1 bytes, not 1000000000") as refused:
        await room.blobs.put_manifest(
            1, Manifest(entries=(entry.model_copy(update={"size": 1_000_000_000}),))
        )

    assert refused.value.code == "manifest_invalid"
