"""A check of the whole store: what is damaged or lost is found and named, and nothing else is."""

import os

import pytest

from integration.storage.files_room import DAY, manifest_of, sha256
from spell_proto.errors import ConflictError
from spell_proto.spec import canonical_json
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


async def test_one_check_goes_on_at_a_time_and_one_that_is_given_up_makes_way(room):
    scrub = Scrub(room.pool, room.objects, room.blobs, DAY)
    first = scrub.lines()
    await anext(first)

    with pytest.raises(ConflictError):
        await anext(scrub.lines())
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
