"""Files on their way into an upload, in a directory and in buckets: killed at any line, they go on and are whole."""

import asyncio
import io
import os
import tarfile
from datetime import UTC, datetime, timedelta

import pytest

from integration.storage.files_room import (
    DAY,
    CrashError,
    FusedObjects,
    Statements,
    a_files_room,
    in_directory,
    manifest_of,
    sha256,
)
from spell_proto.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from spell_proto.uploads import ARCHIVE, UploadRequest
from spell_storage.incoming import PART_BYTES_MAX, Incoming
from spell_storage.objects import Objects
from spell_storage.quotas import QuotaError, Quotas
from spell_storage.unpacker import Unpacker
from spell_storage.uploads import Uploads

pytestmark = pytest.mark.integration
OWNER = 1
FILE = os.urandom(2 * PART_BYTES_MAX + 1000)


class Copy:
    """A copy of the service: what it holds in memory is gone with it."""

    def __init__(self, room):
        pool = Statements(room.pool, room.fuse)
        self.incoming = Incoming(pool, room.objects, room.blobs)
        self.uploads = Uploads(room.pool, room.blobs, self.incoming, Unpacker(self.incoming, room.blobs))

    async def send(self, upload_id, content, announced):
        """What a client does: ask how far it is, and send the rest."""
        file = await self.incoming.create(OWNER, upload_id, "f", len(content), announced)
        if not file.whole:
            await self.incoming.append(OWNER, file, file.received, pieces(content[file.received :]))


async def pieces(data, size=PART_BYTES_MAX):
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def part_keys(room):
    return {key async for page in room.objects.listed("parts/") for key, _ in page}


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_that_is_cut_off_at_any_line_goes_on_and_is_whole(room, announced):
    digest = sha256(FILE) if announced else None
    crashes = 0

    async def crash():
        nonlocal crashes
        crashes += 1
        raise CrashError

    at = 0
    while True:
        before = crashes
        begun, _ = await Copy(room).uploads.begin(OWNER, UploadRequest(name=f"u{at}"))
        room.fuse.set(at, crash)
        try:
            await Copy(room).send(begun.id, FILE, digest)
        except CrashError:
            pass
        finally:
            room.fuse.set(0, None)
        again = Copy(room)
        received = (await again.incoming.create(OWNER, begun.id, "f", len(FILE), digest)).received
        await again.send(begun.id, FILE, digest)
        done = await again.uploads.complete(OWNER, begun.id, manifest_of({"x": FILE}))

        assert received in {0, PART_BYTES_MAX, 2 * PART_BYTES_MAX, len(FILE)}
        assert (done.files, done.bytes) == (1, len(FILE))
        assert await room.read(OWNER, done.manifest) == {"x": FILE}
        assert not {key for key in await part_keys(room) if key.startswith(f"parts/{begun.id}/")}
        await room.pool.execute(
            "TRUNCATE objects, loose, blobs, manifests, manifest_objects, uploads CASCADE"
        )
        if crashes == before:
            break
        at += 1 if room.objects.local else 5

    assert crashes >= (15 if room.objects.local else 3)


async def test_parts_that_are_lost_are_asked_for_again(room):
    copy = Copy(room)
    begun, _ = await copy.uploads.begin(OWNER, UploadRequest(name="lost"))
    file = await copy.incoming.create(OWNER, begun.id, "f", len(FILE), None)
    await copy.incoming.append(OWNER, file, 0, pieces(FILE[:PART_BYTES_MAX]))
    for key in await part_keys(room):
        await Objects.remove(room.objects, key)
    with pytest.raises(ConflictError, match="has to be sent again"):
        await copy.send(begun.id, FILE, None)
    await copy.send(begun.id, FILE, None)
    done = await copy.uploads.complete(OWNER, begun.id, None)

    assert await room.read(OWNER, done.manifest) == {"f": FILE}


async def test_what_was_begun_and_left_is_removed_with_its_parts(room):
    """A part that a crash left behind goes too; what goes on stays."""
    copy = Copy(room)
    begun = {}
    for name in ("left", "goes on"):
        begun[name], _ = await copy.uploads.begin(OWNER, UploadRequest(name=name))
        file = await copy.incoming.create(OWNER, begun[name].id, "x", 10, None)
        await copy.incoming.append(OWNER, file, 0, pieces(b"12345"))
    stray = f"parts/{begun['goes on'].id}/1/0-stray"
    await room.objects.put(stray, b"x")
    await room.pool.execute(
        "UPDATE uploads SET used_at = now() - interval '2 days' WHERE id = $1", begun["left"].id
    )
    now = datetime.now(UTC)

    await copy.incoming.sweep(now, DAY)
    soon = await part_keys(room)
    await copy.incoming.sweep(now + timedelta(hours=2), DAY)
    later = await part_keys(room)

    assert len(soon) == 3, "what is young may have a record on its way"
    assert len(later) == 1
    assert stray not in later
    with pytest.raises(NotFoundError):
        await copy.uploads.one(OWNER, begun["left"].id)
    assert (await copy.incoming.all(OWNER, begun["goes on"].id))[0].received == 5


class SlowIncoming(Incoming):
    """Over a line that never rests, but is slow."""

    async def pieces(self, file):
        async for piece in super().pieces(file):
            for at in range(0, len(piece), 256 << 10):
                await asyncio.sleep(0.15)
                yield piece[at : at + (256 << 10)]


def packed(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(f"upload/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


async def sent_archive(copy, files):
    begun, _ = await copy.uploads.begin(OWNER, UploadRequest(name="packed", compressed=True))
    data = packed(files)
    file = await copy.incoming.create(OWNER, begun.id, ARCHIVE, len(data), sha256(data))
    return await copy.incoming.append(OWNER, file, 0, pieces(data))


async def test_an_archive_may_take_any_time_while_its_bytes_arrive(room):
    """Nothing is said of its one large file for twice as long as nothing may move."""
    files = {"large": os.urandom(2 << 20)}
    file = await sent_archive(Copy(room), files)
    incoming = SlowIncoming(room.pool, room.objects, room.blobs)
    manifest = await Unpacker(incoming, room.blobs, silent_seconds=0.7).manifest(OWNER, file)

    assert [(entry.path, entry.sha256) for entry in manifest.entries] == [("large", sha256(files["large"]))]


async def test_an_archive_that_stands_still_is_to_be_tried_again(room):
    file = await sent_archive(Copy(room), {"large": os.urandom(1 << 20)})
    incoming = SlowIncoming(room.pool, room.objects, room.blobs)

    with pytest.raises(UnavailableError, match="try again"):
        await Unpacker(incoming, room.blobs, silent_seconds=0.1).manifest(OWNER, file)


async def test_nothing_is_stored_of_an_archive_that_has_no_room(room):
    """It unfolds to more than its owner may have, though it is small itself."""
    file = await sent_archive(Copy(room), {"a": bytes(2 << 20), "b": b"1"})
    before = await room.keys()
    room.blobs.quotas = Quotas(room.pool, 0, 1 << 20, None)

    with pytest.raises(QuotaError):
        await Unpacker(Copy(room).incoming, room.blobs).manifest(OWNER, file)
    assert await room.keys() == before


async def test_nothing_is_stored_of_an_archive_that_no_directory_could_hold(room):
    file = await sent_archive(Copy(room), {"a": b"1", "a/b": b"2"})
    before = await room.keys()

    with pytest.raises(InvalidError, match="'a/b' is below 'a'"):
        await Unpacker(Copy(room).incoming, room.blobs).manifest(OWNER, file)
    assert await room.keys() == before


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_whose_blob_was_lost_is_sent_again(room, announced):
    digest = sha256(FILE) if announced else None
    copy = Copy(room)
    begun, _ = await copy.uploads.begin(OWNER, UploadRequest(name="lost blob"))
    await copy.send(begun.id, FILE, digest)
    await room.lose(FILE)
    await room.pool.execute("UPDATE objects SET key = NULL")

    with pytest.raises(ConflictError) as refused:
        await copy.uploads.complete(OWNER, begun.id, None)
    file = await copy.incoming.create(OWNER, begun.id, "f", len(FILE), digest)
    received = (await copy.incoming.find(OWNER, begun.id, file.id)).received
    await copy.send(begun.id, FILE, digest)
    done = await copy.uploads.complete(OWNER, begun.id, None)

    assert refused.value.code == "upload_incomplete"
    assert (file.received, received) == (0, 0)
    assert await room.read(OWNER, done.manifest) == {"f": FILE}


async def test_the_manifest_of_a_file_whose_blob_was_lost_is_taken_when_it_was_sent_again(room):
    copy, empty = Copy(room), b""
    begun, _ = await copy.uploads.begin(OWNER, UploadRequest(name="lost small"))
    for data in (b"small", empty):
        await copy.incoming.bring(OWNER, begun.id, f"f{len(data)}", sha256(data), data)
    files = manifest_of({"a": b"small", "b": empty})
    await room.lose(b"small")
    await room.lose(empty)
    await room.pool.execute("UPDATE objects SET key = NULL")

    with pytest.raises(InvalidError) as refused:
        await copy.uploads.complete(OWNER, begun.id, files)
    for data in (b"small", empty):
        await copy.incoming.bring(OWNER, begun.id, f"f{len(data)}", sha256(data), data)
    done = await copy.uploads.complete(OWNER, begun.id, files)

    assert refused.value.code == "blob_missing"
    assert await room.read(OWNER, done.manifest) == {"a": b"small", "b": empty}


async def test_parts_are_removed_only_when_the_file_they_make_is_durable(cluster, tmp_path):
    class Settling(FusedObjects):
        parts_then = None

        async def settle(self):
            await super().settle()
            self.parts_then = [key async for page in self.listed("parts/") for key, _ in page]

    async with a_files_room(cluster.url("storage"), Settling.open("", tmp_path / "blobs")) as room:
        copy = Copy(room)
        begun, _ = await copy.uploads.begin(OWNER, UploadRequest(name="durable"))
        await copy.send(begun.id, FILE, sha256(FILE))

        assert len(room.objects.parts_then or ()) == 3
        assert await part_keys(room) == set()


async def test_completing_waits_for_a_file_that_is_just_being_made_whole(cluster, tmp_path):
    """Its last part has arrived, and all of its bytes are read once more: that takes long for a large one."""

    class Slow(FusedObjects):
        at_it, go_on = asyncio.Event(), asyncio.Event()

        async def put_stream(self, key, pieces):
            self.at_it.set()
            await self.go_on.wait()
            await super().put_stream(key, pieces)

    async with a_files_room(cluster.url("storage"), Slow.open("", tmp_path / "blobs")) as room:
        copy = Copy(room)
        begun, _ = await copy.uploads.begin(OWNER, UploadRequest(name="slow"))
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(copy.send(begun.id, FILE, sha256(FILE)))
            await room.objects.at_it.wait()
            completing = [
                tasks.create_task(copy.uploads.complete(OWNER, begun.id, wanted))
                for wanted in (None, manifest_of({"f": FILE}))
            ]
            done, _ = await asyncio.wait(completing, timeout=0.2)
            room.objects.go_on.set()

        assert not done
        assert [each.result().files for each in completing] == [1, 1]


async def test_so_many_uploads_are_on_their_way_and_no_more(room):
    copy = Copy(room)
    few = Uploads(room.pool, room.blobs, copy.incoming, Unpacker(copy.incoming, room.blobs), open_max=2)
    for name in ("a", "b"):
        await few.begin(OWNER, UploadRequest(name=name))

    with pytest.raises(QuotaError, match="2 uploads of yours are not complete"):
        await few.begin(OWNER, UploadRequest(name="c"))
    assert not (await few.begin(OWNER, UploadRequest(name="a")))[1], "it is gone on with"
    await few.remove(OWNER, "b")
    assert (await few.begin(OWNER, UploadRequest(name="c")))[1]


async def test_what_was_begun_is_not_added_up_anew_for_each_file(cluster, tmp_path):
    """And yet there is room for just as many as may be."""

    class Counting:
        sums = 0

        def __init__(self, pool):
            self._pool = pool

        def __getattr__(self, name):
            return getattr(self._pool, name)

        async def fetchrow(self, query, *values):
            self.sums += "sum(" in query
            return await self._pool.fetchrow(query, *values)

    async with a_files_room(cluster.url("storage"), in_directory(tmp_path / "blobs")) as room:
        copy, counting = Copy(room), Counting(room.pool)
        incoming = Incoming(counting, room.objects, room.blobs)
        room.blobs.quotas = Quotas(room.pool, 30, 0, None)
        begun, _ = await copy.uploads.begin(OWNER, UploadRequest(name="many"))
        for number in range(30):
            await incoming.create(OWNER, begun.id, f"f{number}", 10, None)
        few = counting.sums
        with pytest.raises(QuotaError):
            await incoming.create(OWNER, begun.id, "one more", 10, None)
        again = [await incoming.create(OWNER, begun.id, f"f{number}", 10, None) for number in range(30)]

    assert few == 1
    assert len(again) == 30
