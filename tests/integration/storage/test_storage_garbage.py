"""Saved files that nobody needs: they go after a while, and nothing that somebody needs ever does."""

import asyncio
import itertools
import os

import asyncpg
import pytest

from integration.storage.files_room import (
    CrashError,
    Statements,
    a_files_room,
    in_directory,
    manifest_of,
    sha256,
)
from spell_proto.errors import InvalidError, NotFoundError, UnavailableError
from spell_proto.spec import canonical_json
from spell_storage import garbage, passes
from spell_storage.garbage import Removed

pytestmark = pytest.mark.integration

CONTENTS = [f"content {number}".encode() for number in range(6)]
OWNERS = (1, 2)


async def test_files_go_when_nothing_has_named_them_for_a_while(room):
    kept = await room.save(1, {"a": b"both", "b": b"kept"})
    gone = await room.save(1, {"a": b"both", "c": b"gone" * 100})
    await room.age(3_600)
    room.named.remove((1, gone))

    soon = await room.pass_once()
    there = await room.read(1, gone)
    await room.age()
    late = await room.pass_once()

    assert soon == Removed()
    assert there == {"a": b"both", "c": b"gone" * 100}
    assert (late.manifests, late.blobs, late.objects) == (1, 2, 2)
    assert late.bytes > 400
    with pytest.raises(NotFoundError):
        await room.blobs.manifest(1, gone)
    assert await room.read(1, kept) == {"a": b"both", "b": b"kept"}
    assert await room.keys() == set((await room.objects_by_digest()).values())


async def test_the_time_counts_from_when_nothing_names_them_any_more(room):
    digest = await room.save(1, {"a": b"old"})
    await room.age(100 * 24 * 3600)
    await room.pass_once()
    room.named.clear()

    await room.pass_once()

    assert await room.read(1, digest) == {"a": b"old"}


async def test_what_another_owner_has_too_stays_for_him_alone(room):
    first = await room.save(1, {"a": b"shared"})
    second = await room.save(2, {"x": b"shared"})
    room.named.remove((1, first))

    await room.clear()

    assert await room.read(2, second) == {"x": b"shared"}
    assert await room.blobs.missing(1, [sha256(b"shared")]) == [sha256(b"shared")]
    with pytest.raises(NotFoundError):
        await room.blobs.find(1, sha256(b"shared"))


async def test_bytes_are_stored_once_whoever_sends_them(room):
    for owner_id in OWNERS:
        await room.blobs.put(owner_id, sha256(b"same"), b"same")
    await room.blobs.put(1, sha256(b"same"), b"same")

    assert len(await room.keys()) == 1


async def test_uploads_keep_their_files_and_those_on_their_way(room):
    digest = await room.save(1, {"a": b"upload"})
    room.named.clear()
    await room.blobs.put(1, sha256(b"arrived"), b"arrived")
    await room.pool.execute(
        "INSERT INTO uploads (owner_id, name, compressed, manifest, completed_at) VALUES (1, 'u', false, $1, now())",
        digest,
    )
    open_upload = await room.pool.fetchval(
        "INSERT INTO uploads (owner_id, name, compressed) VALUES (1, 'v', false) RETURNING id"
    )
    await room.pool.execute(
        "INSERT INTO upload_files (upload_id, path, length, sha256) VALUES ($1, 'f', 7, $2)",
        open_upload,
        sha256(b"arrived"),
    )

    await room.clear()
    there = await room.read(1, digest), await room.blobs.read(1, sha256(b"arrived"))
    await room.pool.execute("DELETE FROM uploads")
    await room.clear()

    assert there == ({"a": b"upload"}, b"arrived")
    assert await room.keys() == set()


async def test_nothing_goes_while_nobody_can_say_what_is_in_use(room):
    digest = await room.save(1, {"a": b"x"})

    async def away(_owner_id, _digests):
        raise UnavailableError("unavailable", "away")

    room.garbage._in_use = away
    await room.age()
    with pytest.raises(UnavailableError):
        await room.pass_once()

    assert await room.read(1, digest) == {"a": b"x"}


async def test_a_manifest_from_before_lists_were_kept_is_read_first(room):
    digest = await room.save(1, {"a": b"x", "b": b"y"})
    await room.pool.execute("UPDATE manifests SET listed = false")
    await room.pool.execute("DELETE FROM manifest_objects")
    await room.pool.execute("UPDATE objects SET sums = NULL")

    await room.clear()

    assert await room.read(1, digest) == {"a": b"x", "b": b"y"}


async def test_what_a_manifest_that_cannot_be_read_may_need_stays(room):
    await room.save(1, {"a": b"x"})
    await room.pool.execute("UPDATE manifests SET listed = false")
    await room.pool.execute("DELETE FROM manifest_objects")
    await room.rot(canonical_json(manifest_of({"a": b"x"}).model_dump()))

    await room.clear()

    assert await room.blobs.read(1, sha256(b"x")) == b"x"


async def test_a_save_that_lasts_is_not_disturbed(room):
    """Whoever was told that a blob is here has time to name it."""
    await room.blobs.put(1, sha256(b"early"), b"early")
    await room.age(20 * 3600)

    assert await room.blobs.missing(1, [sha256(b"early")]) == []
    await room.age(10 * 3600)
    await room.pass_once()

    assert await room.blobs.read(1, sha256(b"early")) == b"early"


async def test_a_put_that_was_given_up_leaves_nothing(room):
    async def crash():
        raise CrashError

    for at in itertools.count():
        room.fuse.set(at, crash)
        try:
            await room.blobs.put(1, sha256(b"put"), b"put")
        except CrashError:
            continue
        break
    room.fuse.set(0, None)

    await room.clear()

    assert at > 4
    assert await room.keys() == set()
    assert await room.pool.fetchval("SELECT count(*) FROM loose") == 0


async def test_a_put_that_lasts_too_long_is_refused_and_leaves_nothing(room):
    data = [os.urandom(1000), os.urandom(1000)]

    async def pieces():
        yield data[0]
        await room.age()
        await room.pass_once()
        yield data[1]

    with pytest.raises(UnavailableError):
        await room.blobs.put_stream(1, sha256(b"".join(data)), pieces())

    await room.clear()
    assert await room.keys() == set()


async def test_a_save_survives_that_all_but_what_it_holds_goes_at_any_moment_of_it(room):
    """Between any two things that it does, days pass and a removal runs: it is refused, or what it saved is whole."""

    async def days_pass():
        await room.age()
        await room.pass_once()

    refused = 0
    for at in range(40):
        files = {"a": b"shared", "b": b"%d" % at}
        room.fuse.set(at, days_pass)
        try:
            digest = await room.save(1, files)
        except (UnavailableError, InvalidError):
            refused += 1
        else:
            assert await room.read(1, digest) == files
            room.named.remove((1, digest))
        room.fuse.set(0, None)

    assert 0 < refused < 40


async def test_saves_go_on_while_everything_is_removed_as_soon_as_it_may_be(room):
    """Time flies: whatever is not held at this very moment is old enough to go."""
    done = asyncio.Event()
    saved = {}

    async def remove():
        while not done.is_set():
            await room.age()
            await room.pass_once()

    async def saver(owner_id):
        for number in range(15):
            files = {str(place): CONTENTS[(number + place * owner_id) % 6] for place in range(3)}
            async with asyncio.timeout(30):
                while True:
                    # What was removed between two steps is sent again, as a runner does for these two answers.
                    try:
                        digest = await room.save(owner_id, files)
                        break
                    except (UnavailableError, InvalidError) as error:
                        if error.code not in {"unavailable", "blob_missing"}:
                            raise
            if number % 3:
                room.named.remove((owner_id, digest))
                saved.pop((owner_id, digest), None)
            else:
                saved[owner_id, digest] = files

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(remove())
        async with asyncio.TaskGroup() as savers:
            for owner_id in OWNERS:
                savers.create_task(saver(owner_id))
        done.set()

    assert saved
    for (owner_id, digest), files in saved.items():
        assert await room.read(owner_id, digest) == files


async def test_what_cannot_be_removed_is_no_hindrance_to_the_rest(cluster, tmp_path):
    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as room:
        await room.save(1, {"a": b"one", "b": b"two"})
        room.named.clear()
        # A directory in the place of a file: it cannot be removed as one, whoever asks.
        bad = "blobs/00/" + "0" * 64 + ".bad"
        (tmp_path / "blobs" / bad / "x").mkdir(parents=True)
        await room.pool.execute("INSERT INTO loose (key, at) VALUES ($1, '-infinity')", bad)

        await room.clear()

        assert await room.keys() == set()
        assert await room.pool.fetch("SELECT key FROM loose") == [(bad,)]


async def test_the_scheduler_is_asked_owner_by_owner(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(garbage, "PORTION", 10)
    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as room:
        for number in range(4):
            for owner_id in range(1, 6):
                await room.save(owner_id, {"a": b"%d" % number})
        asked, in_use = [], room.garbage._in_use

        async def counted(owner_id, digests):
            asked.append(owner_id)
            return await in_use(owner_id, digests)

        room.garbage._in_use = counted
        await room.pass_once()

        assert set(asked) == {1, 2, 3, 4, 5}
        assert len(asked) <= 5 + 20 // 10


async def test_who_breaks_off_while_it_unlocks_holds_no_lock_for_good(cluster, tmp_path):
    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as room:
        lock = "SELECT pg_try_advisory_lock(7)", "SELECT pg_advisory_unlock(7)"

        async def crash():
            raise CrashError

        async def passed():
            async with passes.alone(Statements(room.pool, room.fuse), *lock) as alone:
                assert alone
                room.fuse.set(0, crash)

        with pytest.raises(CrashError):
            await passed()

        other = await asyncpg.connect(cluster.url("storage"))
        async with asyncio.timeout(10):
            while not await other.fetchval(lock[0]):
                await asyncio.sleep(0.01)
        await other.close()
