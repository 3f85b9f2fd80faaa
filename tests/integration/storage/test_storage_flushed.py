"""What storage flushes before it says that files are saved: what is new, and nothing else that a disk has to write."""

import pytest

from integration.storage.files_room import FusedObjects, a_files_room, sha256
from spell_storage.blobs import SMALL_BYTES_MAX

pytestmark = pytest.mark.integration

LARGE, SMALL = b"l" * (SMALL_BYTES_MAX + 1), b"small"


class Watched(FusedObjects):
    """Remembers what was flushed by itself, and how often everything was."""

    keys: list[str]
    settled: int

    async def flush(self, keys):
        self.keys += keys
        await super().flush(keys)

    async def settle(self):
        self.settled += 1
        await super().settle()


@pytest.fixture
async def room(cluster, tmp_path):
    async with a_files_room(cluster.url("storage"), Watched.open("", tmp_path / "blobs")) as made:
        made.objects.keys, made.objects.settled = [], 0
        yield made


async def put_large(room):
    async def pieces():
        yield LARGE

    await room.blobs.put_stream(1, sha256(LARGE), pieces())


async def flushed(room, work):
    """The digests of what is flushed meanwhile."""
    room.objects.keys.clear()
    done = await work
    return done, {
        key.rpartition("/")[2].partition(".")[0] for key in room.objects.keys if key.startswith("blobs/")
    }


async def test_a_large_file_is_on_the_disk_before_its_manifest_is_stored(room):
    await put_large(room)

    manifest, digests = await flushed(room, room.save(1, {"large": LARGE}))

    assert digests == {manifest}
    assert room.objects.settled == 0


async def test_a_small_file_is_flushed_with_the_first_manifest_that_needs_it(room):
    first, with_first = await flushed(room, room.save(1, {"a": SMALL}))
    again, with_again = await flushed(room, room.save(1, {"a": SMALL}))
    other, with_other = await flushed(room, room.save(2, {"b": SMALL}))

    assert with_first == {first, sha256(SMALL)}
    assert (again, with_again) == (first, set())
    assert with_other == {other}
    assert room.objects.settled == 0


async def test_many_small_files_are_flushed_at_once(room):
    await room.save(1, {str(number): b"%d" % number for number in range(100)})

    assert room.objects.settled == 1


async def test_what_is_put_right_is_flushed_though_manifests_need_it_already(room):
    await room.save(1, {"a": SMALL})
    await room.lose(SMALL)
    assert await room.blobs.missing(1, [sha256(SMALL)]) == [sha256(SMALL)]

    _, digests = await flushed(room, room.blobs.put(1, sha256(SMALL), SMALL))

    assert digests == {sha256(SMALL)}
