"""Resources as they are kept on a machine, from sources of the test's own: deep, odd, and more than there is room for."""

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager

import pytest

from spell_proto.mounts import Mount
from spell_runner import workspace
from spell_runner.errors import AttemptError
from spell_runner.mounts import mounting
from spell_runner.mounts.cache import Cache
from spell_runner.mounts.content import Item, Look, key_of
from spell_runner.notes import Silent


class Source:
    """One file, at `path`."""

    away = "It does not answer"

    def __init__(self, content: bytes = b"x", path: str = "file"):
        self.bytes = content
        self.path = path
        self.asked = 0

    @property
    def look(self):
        return Look(key_of(self.path, hashlib.sha256(self.bytes).hexdigest()), is_file=False)

    async def content(self):
        digest = hashlib.sha256(self.bytes).hexdigest()
        return [Item(self.path, len(self.bytes), 0o644, 0, digest, digest)]

    def goes_together(self, _):
        return False

    @asynccontextmanager
    async def read(self, item, start):
        self.asked += 1

        async def pieces():
            yield self.bytes[start:]

        yield pieces()


async def get(cache, source):
    async with asyncio.timeout(20):
        return await cache.get("uploads/x", source.look, source, 1, Silent(None, lambda: None))


async def test_the_deepest_path_that_there_can_be_is_laid_out(tmp_path):
    room = os.pathconf("/", "PC_PATH_MAX") - len(str(tmp_path)) - 200
    path = "/".join(["d"] * (room // 2))

    try:
        found = await get(Cache(tmp_path, set, 10**9), Source(path=path))

        assert sum(1 for _ in workspace.walk(found)) == room // 2
    finally:
        # What removes the rest of it, also after a test that has failed, does so by recursion.
        workspace.remove(tmp_path / "mounts")


async def test_a_path_for_which_the_machine_has_no_room_is_named_as_the_resource_has_it(tmp_path):
    path = "/".join(["d" * 200] * 20)

    with pytest.raises(AttemptError) as refused:
        await get(Cache(tmp_path, set, 10**9), Source(path=path))

    assert refused.value.message.startswith("its file 'ddd")
    assert refused.value.message.endswith("cannot be laid out on the machine: File name too long")
    assert str(tmp_path) not in refused.value.message


async def test_what_nobody_expects_ends_a_mount_after_some_tries(monkeypatch):
    monkeypatch.setattr(mounting, "AGAIN_SECONDS", 0.0)
    tried = []

    async def stumble():
        tried.append(True)
        raise RecursionError

    with pytest.raises(AttemptError) as refused:
        await mounting.tried(Mount(resource="uploads/x", target="/mnt/x"), stumble)

    assert len(tried) == mounting.TRIES
    assert (
        refused.value.message == "uploads/x cannot be mounted: the machine stumbled over it (RecursionError)"
    )


def held(root):
    return sum(path.stat().st_size for path in (root / "mounts/blobs").rglob("*") if path.is_file())


def sources(count, size):
    return [Source(os.urandom(size)) for _ in range(count)]


async def test_many_mounts_at_once_have_no_more_room_than_one_after_the_other(tmp_path):
    cache = Cache(tmp_path, set, 1_000_000)
    several = sources(5, 400_000)

    async with asyncio.TaskGroup() as group:
        for source in several:
            group.create_task(get(cache, source))

    assert held(tmp_path) <= 1_000_000


async def test_files_that_came_before_a_fetch_failed_are_counted(tmp_path):
    class Broken(Source):
        async def content(self):
            return [*await super().content(), Item("missing", 1, 0o644, 0, "no", "no")]

    cache = Cache(tmp_path, set, 1_000_000)
    await get(cache, Source(b"counted from here on"))
    for source in [Broken(os.urandom(400_000)) for _ in range(5)]:
        with pytest.raises(AttemptError):
            await get(cache, source)

    assert held(tmp_path) <= 1_000_000


async def full_after_a_reboot(root):
    """A cache that is nearly full, whose files have to be read again, and what is in it."""
    several = sources(3, 300_000)
    cache = Cache(root, set, 1_000_000)
    for source in several:
        await get(cache, source)
    cache = Cache(root, set, 1_000_000)
    cache.forget()
    return cache, several


async def test_after_a_reboot_a_full_cache_is_read_again_and_not_emptied(tmp_path):
    cache, several = await full_after_a_reboot(tmp_path)

    cache.sweep()
    for source in several:
        await get(cache, source)

    assert [source.asked for source in several] == [1, 1, 1]


async def test_after_a_reboot_only_what_is_too_much_goes(tmp_path):
    cache, _ = await full_after_a_reboot(tmp_path)

    await get(cache, Source(os.urandom(200_000)))
    there = list((tmp_path / "mounts/unverified").rglob("*.*.*"))

    assert len(there) == 2
