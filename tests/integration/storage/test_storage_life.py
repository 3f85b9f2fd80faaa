"""The whole life of saved files, as nobody would think of it: never a live blob goes, and always a dead one."""

import asyncio
import contextlib

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from integration.storage.files_room import (
    DAY,
    CrashError,
    a_files_room,
    in_bucket,
    in_directory,
    manifest_of,
    sha256,
)
from spell_proto.errors import GoneError, NotFoundError, UnavailableError
from spell_proto.views import Manifest
from spell_storage.contents import Blob
from spell_storage.scrub import Scrub

pytestmark = pytest.mark.integration

CONTENTS = [f"content {number}".encode() for number in range(6)]
OWNERS = (1, 2)
#: More moments than any one thing that is done here has.
MOMENTS_MAX = 70


class LifeOfFiles(RuleBasedStateMachine):
    """Two owners who save, upload, archive and mount, bytes that rot, stores that are away, looks that deceive, time that
    passes, passes of removal, and crashes between any two things that can be seen from outside. The model knows who has
    named what, and nothing of rows, keys or locks.
    """

    def __init__(self, cluster, objects):
        super().__init__()
        self.runner = asyncio.Runner()
        self.opened = a_files_room(cluster.url("storage"), objects)
        self.room = self.runner.run(self.opened.__aenter__())
        self.saved = {}
        self.uploads = {}
        self.rotten = set()

    def teardown(self):
        self.runner.run(self._everything_else_goes())
        self.runner.run(self.opened.__aexit__(None, None, None))
        self.runner.close()

    @rule(
        owner_id=st.sampled_from(OWNERS),
        numbers=st.sets(st.sampled_from(range(6)), min_size=1, max_size=4),
        crash_at=st.none() | st.integers(0, MOMENTS_MAX),
    )
    def save(self, owner_id, numbers, crash_at):
        self.runner.run(self._or_crash(crash_at, self._save(owner_id, numbers)))

    @rule(data=st.data())
    def archive(self, data):
        if self.saved:
            which = data.draw(st.sampled_from(sorted(self.saved)))
            del self.saved[which]
            self.room.named.remove(which)

    @rule(
        owner_id=st.sampled_from(OWNERS), numbers=st.sets(st.sampled_from(range(6)), min_size=1, max_size=4)
    )
    def upload(self, owner_id, numbers):
        self.runner.run(self._upload(owner_id, {str(number): CONTENTS[number] for number in numbers}))

    @rule(data=st.data())
    def remove_an_upload(self, data):
        if self.uploads:
            owner_id, digest = data.draw(st.sampled_from(sorted(self.uploads)))
            del self.uploads[owner_id, digest]
            gone = "DELETE FROM uploads WHERE owner_id = $1 AND manifest = $2"
            self.runner.run(self.room.pool.execute(gone, owner_id, digest))

    @rule(crash_at=st.none() | st.integers(0, MOMENTS_MAX))
    def the_store_is_away(self, crash_at):
        self.runner.run(self._or_crash(crash_at, self._away()))

    @rule(data=st.data(), crash_at=st.none() | st.integers(0, MOMENTS_MAX), hours=st.sampled_from([0, 25]))
    def looks_deceive(self, data, crash_at, hours):
        """Twice, so that whole bytes are taken for damaged."""
        keys = self.runner.run(self.room.objects_by_digest())
        there = [content for content in CONTENTS if keys.get(sha256(content)) and content not in self.rotten]
        if there:
            content = data.draw(st.sampled_from(there))
            blob = Blob(sha256(content), len(content), keys[sha256(content)], None)
            self.runner.run(self.room.blobs.contents.condemn(blob, "it seems so"))
            self.runner.run(self.room.age(hours * 3600))
            self.runner.run(self._or_crash(crash_at, self.room.pass_once()))
            self.runner.run(self.room.pass_once())

    @rule(data=st.data(), lost=st.booleans())
    def bytes_rot(self, data, lost):
        keys = self.runner.run(self.room.objects_by_digest())
        whole = [content for content in CONTENTS if keys.get(sha256(content)) and content not in self.rotten]
        if whole:
            content = data.draw(st.sampled_from(whole))
            self.runner.run(self.room.lose(content) if lost else self.room.rot(content))
            self.rotten.add(content)

    @rule(data=st.data())
    def rotten_bytes_are_sent_again(self, data):
        if self.rotten:
            content = data.draw(st.sampled_from(sorted(self.rotten)))
            self.runner.run(self._heal(content))
            self.rotten.remove(content)

    @rule(hours=st.sampled_from([1, 13, 25]))
    def time_passes(self, hours):
        self.runner.run(self.room.age(hours * 3600))

    @rule(crash_at=st.none() | st.integers(0, MOMENTS_MAX))
    def remove(self, crash_at):
        self.runner.run(self._or_crash(crash_at, self.room.pass_once()))

    @rule(
        owner_id=st.sampled_from(OWNERS),
        numbers=st.sets(st.sampled_from(range(6)), min_size=1, max_size=3),
        at=st.integers(0, MOMENTS_MAX),
    )
    def save_in_the_middle_of_a_removal(self, owner_id, numbers, at):
        self.room.fuse.set(at, lambda: self._save_if_nothing_is_locked(owner_id, numbers))
        self.runner.run(self.room.pass_once())
        self.room.fuse.set(0, None)

    @rule(
        owner_id=st.sampled_from(OWNERS),
        numbers=st.sets(st.sampled_from(range(6)), min_size=1, max_size=3),
        at=st.integers(0, MOMENTS_MAX),
    )
    def remove_in_the_middle_of_a_save(self, owner_id, numbers, at):
        self.room.fuse.set(at, self.room.pass_once)
        self.runner.run(self._save(owner_id, numbers))
        self.room.fuse.set(0, None)

    @invariant()
    def all_that_is_named_is_whole(self):
        self.runner.run(self._all_is_whole())

    async def _or_crash(self, at, doing):
        async def crash():
            raise CrashError

        if at is not None:
            self.room.fuse.set(at, crash)
        with contextlib.suppress(CrashError, ExceptionGroup):
            await doing
        self.room.fuse.set(0, None)

    async def _save_if_nothing_is_locked(self, owner_id, numbers):
        """What a removal has locked right now is waited for, and it does not go on before this has come back."""
        with contextlib.suppress(asyncpg.LockNotAvailableError):
            await self._save(owner_id, numbers)

    async def _save(self, owner_id, numbers):
        files = {str(number): CONTENTS[number] for number in numbers}
        digest = await self.room.save(owner_id, files)
        self.saved[owner_id, digest] = files

    async def _upload(self, owner_id, files):
        for data in files.values():
            await self.room.blobs.put(owner_id, sha256(data), data)
        stored = await self.room.blobs.put_manifest(owner_id, manifest_of(files))
        await self.room.pool.execute(
            "INSERT INTO uploads (owner_id, name, compressed, manifest, completed_at) "
            "VALUES ($1, $2, false, $2, now()) ON CONFLICT DO NOTHING",
            owner_id,
            stored.digest,
        )
        self.uploads[owner_id, stored.digest] = files

    async def _away(self):
        self.room.objects.away = True
        try:
            for owner_id in OWNERS:
                for asked in (
                    self.room.blobs.missing(owner_id, [sha256(content) for content in CONTENTS]),
                    self.room.blobs.read(owner_id, sha256(CONTENTS[0])),
                    self.room.pass_once(),
                    self._checked(),
                ):
                    with contextlib.suppress(UnavailableError, NotFoundError, GoneError):
                        await asked
        finally:
            self.room.objects.away = False

    async def _checked(self):
        scrub = Scrub(self.room.pool, self.room.objects, self.room.blobs, DAY)
        async with contextlib.aclosing(scrub.lines()) as lines:
            async for _ in lines:
                pass

    async def _heal(self, content):
        digest = sha256(content)
        for owner_id in OWNERS:
            try:
                assert await self.room.blobs.read(owner_id, digest) == content
            except (NotFoundError, GoneError):
                assert await self.room.blobs.missing(owner_id, [digest]) == [digest]
        await self.room.blobs.put(OWNERS[0], digest, content)

    async def _all_is_whole(self):
        for (owner_id, digest), files in (self.saved | self.uploads).items():
            whole = {path: data for path, data in files.items() if data not in self.rotten}
            manifest = Manifest.model_validate_json(await self.room.blobs.manifest(owner_id, digest))
            assert {entry.path for entry in manifest.entries} == set(files)
            for data in whole.values():
                assert await self.room.blobs.read(owner_id, sha256(data)) == data
            assert await self.room.blobs.missing(owner_id, [sha256(data) for data in whole.values()]) == []

    async def _everything_else_goes(self):
        for content in self.rotten:
            await self._heal(content)
        self.rotten.clear()
        await self.room.clear()
        await self._all_is_whole()
        named = self.saved | self.uploads
        needed = {digest for _, digest in named}
        needed |= {sha256(data) for files in named.values() for data in files.values()}
        keys = await self.room.objects_by_digest()
        assert set(keys) == needed
        assert await self.room.keys() == set(keys.values())
        assert await self.room.pool.fetchval("SELECT count(*) FROM loose") == 0


@pytest.mark.parametrize(("kind", "examples"), [("directory", 25), ("s3", 6), ("gcs", 6)])
def test_never_a_live_blob_and_always_a_dead_one(cluster, clouds, tmp_path, kind, examples):
    objects = in_directory(tmp_path / "blobs") if kind == "directory" else in_bucket(kind, clouds)
    run_state_machine_as_test(
        lambda: LifeOfFiles(cluster, objects),
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
