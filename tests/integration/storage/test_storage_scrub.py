"""A check of the whole store: what is damaged or lost is found and named, and nothing else is."""

import itertools
import os
from collections import Counter

import pytest

from integration.storage.files_room import DAY, a_files_room, in_bucket, in_directory, manifest_of, sha256
from spell_proto.errors import ConflictError, GoneError, UnavailableError
from spell_proto.spec import canonical_json
from spell_storage import naming, scrub
from spell_storage.scrub import Scrub

pytestmark = pytest.mark.integration


async def checked(room, kept_seconds=DAY):
    """The last line, and what was found."""
    lines = [line async for line in Scrub(room.pool, room.objects, room.blobs, kept_seconds).lines()]
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    return lines[-1], [file for line in lines for file in line.found]


async def test_whole_files_are_whole(room):
    await room.save(1, {"a": b"one", "b": os.urandom(3_000_000)})

    last, found = await checked(room)

    assert found == []
    assert (last.files, last.damaged, last.strays) == (3, 0, 0)
    assert last.bytes == last.bytes_of_all > 3_000_000


async def test_a_flipped_bit_and_a_lost_file_are_named_and_put_right(room):
    rotten, lost = os.urandom(2_500_000), b"lost"
    run = await room.save(1, {"model": rotten, "copy/of/model": rotten, "x": b"fine"})
    upload = await room.save(2, {"data/lost": lost})
    await room.pool.execute(
        "INSERT INTO uploads (owner_id, name, compressed, manifest, completed_at) VALUES (2, 'u', false, $1, now())",
        upload,
    )
    await room.rot(rotten)
    await room.lose(lost)

    last, found = await checked(room)
    again, _ = await checked(room)
    missing = await room.blobs.missing(1, [sha256(rotten)]), await room.blobs.missing(2, [sha256(lost)])
    await room.blobs.put(1, sha256(rotten), rotten)
    await room.blobs.put(2, sha256(lost), lost)
    healed, _ = await checked(room)

    assert last.damaged == again.damaged == 2
    assert {(file.manifest, file.path, file.name) for file in found} == {
        (run, "model", None),
        (run, "copy/of/model", None),
        (upload, "data/lost", "uploads/u/data/lost"),
    }
    assert missing == ([sha256(rotten)], [sha256(lost)])
    assert healed.damaged == 0


async def test_a_damaged_manifest_is_named_as_the_whole(room):
    digest = await room.save(1, {"a": b"one"})
    await room.rot(canonical_json(manifest_of({"a": b"one"}).model_dump()))

    _, found = await checked(room)

    assert [(file.manifest, file.path) for file in found] == [(digest, "")]


async def test_bytes_on_no_record_go_when_they_are_old(room):
    await room.save(1, {"a": b"one"})
    stray = "blobs/ab/" + "ab" * 32 + ".0123456789abcdef"
    await room.objects.put(stray, b"x")

    young, _ = await checked(room)
    old, _ = await checked(room, kept_seconds=-DAY)
    await room.pass_once()

    assert (young.strays, old.strays) == (0, 1)
    assert await room.keys() == set((await room.objects_by_digest()).values())


async def test_what_a_killed_put_was_writing_to_goes_when_it_is_old(cluster, tmp_path):
    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as room:
        await room.save(1, {"a": b"one"})
        old, young = (tmp_path / "blobs/blobs/ab" / (two * 32 + ".0123#1") for two in ("ab", "cd"))
        old.parent.mkdir(parents=True)
        for path in (old, young):
            path.write_bytes(b"half of it")
        os.utime(old, (1e9, 1e9))

        last, _ = await checked(room)

        assert (last.strays, old.exists(), young.exists()) == (1, False, True)


async def test_one_check_goes_on_at_a_time_and_one_that_is_given_up_makes_way(room):
    check = Scrub(room.pool, room.objects, room.blobs, DAY)
    first = check.lines()
    await anext(first)

    with pytest.raises(ConflictError):
        await anext(check.lines())
    await first.aclose()

    assert (await checked(room))[0].done


async def test_files_that_go_while_they_are_read_are_not_lost(room):
    for number in range(5):
        digest = await room.save(1, {"a": b"%d" % number})
        room.named.remove((1, digest))
    lines = Scrub(room.pool, room.objects, room.blobs, DAY).lines()
    await anext(lines)
    await room.pass_once()
    await room.clear()

    assert [line.damaged async for line in lines][-1] == 0


async def test_what_is_not_given_out_is_told_and_hides_nothing(cluster, tmp_path):
    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as room:
        await room.save(1, {f"f{number}": b"content %d" % number for number in range(10)})
        # A directory in the place of a file stands for whatever a store may say but that it is not there.
        path = tmp_path / "blobs" / (await room.objects_by_digest())[sha256(b"content 3")]
        path.unlink()
        path.mkdir()
        await room.rot(b"content 7")

        last, found = await checked(room)
        path.rmdir()
        path.write_bytes(b"content 3")
        again, _ = await checked(room)

        assert (last.files, last.damaged, last.unreadable) == (11, 1, 1)
        assert {(file.path, file.unreadable) for file in found} == {("f3", True), ("f7", False)}
        assert (again.damaged, again.unreadable) == (1, 0)


async def test_what_is_not_given_out_for_a_moment_is_read_again(room):
    digest = await room.save(1, {"a": b"one", "b": b"two"})
    stream, said = room.objects.stream, []

    async def slow(key, start, length):
        said.append(key)
        if len(said) in {1, 3}:
            raise UnavailableError("unavailable", "slow down")
        async for piece in stream(key, start, length):
            yield piece

    room.objects.stream = slow
    last, found = await checked(room)

    assert (last.files, last.damaged, last.unreadable, found) == (3, 0, 0, [])
    assert await room.read(1, digest) == {"a": b"one", "b": b"two"}


async def test_a_check_that_broke_off_goes_on_where_it_was(room, monkeypatch):
    monkeypatch.setattr(scrub, "PORTION", 3)
    contents = {f"f{number}": b"content %d" % number for number in range(9)}
    await room.save(1, contents)
    await room.lose(b"content 0")
    lines = Scrub(room.pool, room.objects, room.blobs, DAY).lines()
    async for line in lines:
        if line.files >= 6:
            break
    await lines.aclose()
    stream, read = room.objects.stream, []

    def counted(key, start, length):
        read.append(key)
        return stream(key, start, length)

    room.objects.stream = counted
    last, found = await checked(room)
    anew, _ = await checked(room)

    assert last.files == anew.files == 10
    assert last.bytes == anew.bytes + len(b"content 0") == last.bytes_of_all
    assert [file.path for file in found] == ["f0"]
    assert len(read) < 10 + 9


async def test_a_manifest_is_read_once_however_much_of_it_is_lost(room):
    lost = {f"f{number}": b"content %d" % number for number in range(50)}
    for owner_id in (1, 2):
        await room.save(owner_id, lost)
    for data in lost.values():
        await room.lose(data)
    manifest, read = room.blobs.manifest, []

    def counted(owner_id, digest):
        read.append(owner_id)
        return manifest(owner_id, digest)

    room.blobs.manifest = counted
    last, found = await checked(room)

    assert last.damaged == 50
    assert {(file.owner_id, file.path) for file in found} == set(itertools.product((1, 2), lost))
    assert sorted(read) == [1, 2]


async def test_of_very_many_names_some_are_told(room, monkeypatch):
    monkeypatch.setattr(naming, "NAMED_MAX", 3)
    monkeypatch.setattr(naming, "NAMED_OF_ALL_MAX", 5)
    await room.save(
        1, {**{f"copy{number}": b"one" for number in range(10)}, **{str(n): b"two" for n in range(10)}}
    )
    await room.lose(b"one")
    await room.lose(b"two")

    last, found = await checked(room)

    assert last.damaged == 2
    assert sorted(Counter(file.sha256 for file in found).values()) == [2, 3]


async def test_an_object_that_was_cut_short_is_damaged_wherever_it_is_read(cluster, clouds):
    async with a_files_room(cluster.url("storage"), in_bucket("s3", clouds)) as room:
        data = os.urandom(3_000_000)
        await room.save(1, {"a": data})
        key = (await room.objects_by_digest())[sha256(data)]
        await room.objects.put(key, data[:1_000_000])

        with pytest.raises(GoneError):
            await read_part(room, data, 2_500_000)


async def read_part(room, data, first):
    blob = await room.blobs.find(1, sha256(data))
    return [piece async for piece in room.blobs.stream(blob, first, 1_000)]
