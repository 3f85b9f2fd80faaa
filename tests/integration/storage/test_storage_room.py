"""What an owner may have saved holds while several of his runs save at once, and costs others nothing."""

import asyncio

import pytest

from integration.storage.files_room import DAY, a_files_room, in_directory, manifest_of, sha256
from spell_storage.blobs import Blobs
from spell_storage.quotas import QuotaError, Quotas

pytestmark = pytest.mark.integration


@pytest.fixture
async def room(cluster, tmp_path):
    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as made:
        made.archived = set()
        yield made


def limited(room, bytes_max):
    async def in_use(owner_id, digests):
        return {digest for digest in digests if (owner_id, digest) in room.named}

    async def let_go(owner_id, digests):
        return {digest for digest in digests if (owner_id, digest) in room.archived}

    return Blobs(room.pool, room.objects, DAY, Quotas(room.pool, 0, bytes_max, in_use, let_go), 0.0)


async def save(blobs, number):
    """What a runner does before it reports."""
    data = bytes([number]) * 900
    await blobs.put(1, sha256(data), data)
    return (await blobs.put_manifest(1, manifest_of({"a": data}))).digest


async def test_what_is_saved_and_not_reported_yet_counts(room):
    blobs = limited(room, 1_000)
    await save(blobs, 0)
    await room.pass_once()

    for number in range(1, 4):
        with pytest.raises(QuotaError):
            await save(blobs, number)

    assert (await blobs.quotas.use(1)).bytes == 900


async def test_what_was_archived_or_has_never_been_reported_makes_room(room):
    blobs = limited(room, 1_000)
    first = await save(blobs, 0)
    room.archived.add((1, first))
    second = await save(blobs, 1)
    with pytest.raises(QuotaError):
        await save(blobs, 2)
    await room.age(3_600)

    await save(blobs, 2)

    assert first != second
    assert (await blobs.quotas.use(1)).bytes == 900


async def test_contents_are_added_up_once_however_often_they_are_saved(room):
    blobs = limited(room, 10_000)
    for names in ("a", "ab", "bc", "a", "abc"):
        files = {name: name.encode() * 900 for name in names}
        for data in files.values():
            await blobs.put(1, sha256(data), data)
        room.named.add((1, (await blobs.put_manifest(1, manifest_of(files))).digest))
    kept = await blobs.quotas.use(1)
    await room.pool.execute("DELETE FROM owner_use")

    assert kept == await blobs.quotas.use(1)
    assert (kept.files, kept.bytes) == (3, 2_700)


async def test_what_is_named_no_more_or_again_is_added_up_anew(room):
    blobs = limited(room, 10_000)
    room.garbage._blobs = blobs
    digest = await save(blobs, 0)
    await save(blobs, 1)
    await room.age(3_600)
    room.named.add((1, digest))
    used = [(await blobs.quotas.use(1)).bytes]

    for named in ({(1, digest)}, set(), {(1, digest)}):
        room.named = named
        await room.pass_once()
        used.append((await blobs.quotas.use(1)).bytes)

    assert used == [1_800, 900, 0, 900]


async def test_saves_of_one_owner_that_wait_keep_no_connections_from_others(room):
    blobs = limited(room, 10_000)
    size = room.pool.get_max_size()
    for number in range(size + 1):
        await blobs.put(1, sha256(b"%d" % number), b"%d" % number)

    async with asyncio.TaskGroup() as tasks, room.pool.acquire() as connection, connection.transaction():
        await blobs.quotas.lock(connection, 1)
        for number in range(size + 1):
            tasks.create_task(blobs.put_manifest(1, manifest_of({"a": b"%d" % number})))
        async with asyncio.timeout(10):
            while not await waits(room):
                await asyncio.sleep(0.01)
            while room.pool.get_idle_size() == 0 and room.pool.get_size() == size:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(1):
            assert await room.pool.fetchval("SELECT 1") == 1

    assert (await blobs.quotas.use(1)).files == size + 1


async def waits(room):
    """Whether anybody waits for a lock."""
    return await room.pool.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
