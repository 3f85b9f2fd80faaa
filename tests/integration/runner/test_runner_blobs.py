"""The files of resources, from a source of the test's own: broken off, cut short, changed, wanted by several at once."""

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from spell_proto import blob_packs
from spell_proto.errors import RefusedError, UnavailableError
from spell_runner.errors import AttemptError
from spell_runner.mounts.blobs import Blobs, Progress
from spell_runner.mounts.content import Item

CONTENT = os.urandom(3 << 20)


def item(content: bytes = CONTENT, **given) -> Item:
    digest = hashlib.sha256(content).hexdigest()
    plain = {
        "path": "a",
        "size": len(content),
        "mode": 0o640,
        "mtime_ns": 10**18,
        "identity": digest,
        "sha256": digest,
    }
    return Item(**plain | given)


class Source:
    """Gives `content`, breaking off after so many bytes the first times."""

    def __init__(self, content: bytes = CONTENT, breaks: tuple[int, ...] = ()):
        self.content = content
        self.breaks = list(breaks)
        self.starts: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def goes_together(self, _):
        return False

    @asynccontextmanager
    async def read(self, item, start):
        self.starts.append(start)
        await self.gate.wait()
        if self.breaks and self.breaks[0] < 0:
            self.breaks.pop(0)
            raise UnavailableError("unavailable", "not now")
        yield self.pieces(start)

    async def pieces(self, start):
        end = self.breaks.pop(0) if self.breaks else len(self.content)
        for at in range(start, end, 100_000):
            yield self.content[at : min(at + 100_000, end)]
        if end < len(self.content):
            raise aiohttp.ClientPayloadError("broke off")


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path, None)


async def fetch(blobs, source, *items):
    waited = []
    progress = Progress(sum(one.size for one in items))
    async with asyncio.timeout(20):
        await blobs.fetch(source, items, progress, lambda: waited.append(True), {})
    return progress


async def test_a_file_has_its_content_mode_and_time(blobs):
    await fetch(blobs, Source(), item())

    path = Path(blobs.path(item()))
    status = path.stat()
    assert path.read_bytes() == CONTENT
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 10**18)
    assert blobs.missing([item(), item()]) == []


async def test_what_breaks_off_is_asked_for_the_rest(blobs):
    source = Source(breaks=(1_000_000, -1, 2_500_000))

    progress = await fetch(blobs, source, item())

    assert source.starts == [0, 1_000_000, 1_000_000, 2_500_000]
    assert Path(blobs.path(item())).read_bytes() == CONTENT
    assert progress.done == len(CONTENT)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"y" + CONTENT[1:], b""])
async def test_what_is_not_as_it_should_be_is_not_kept(blobs, content):
    with pytest.raises(AttemptError, match="damaged"):
        await fetch(blobs, Source(content), item())

    assert blobs.missing([item()]) == [item()]
    assert list(blobs._new.iterdir()) == []


async def test_content_without_a_digest_has_its_length_at_least(blobs):
    await fetch(blobs, Source(), item(sha256=None))

    with pytest.raises(AttemptError):
        await fetch(blobs, Source(), item(sha256=None, identity="other", size=5))


async def test_two_who_want_a_file_fetch_it_once(blobs):
    source = Source()
    source.gate.clear()

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(fetch(blobs, source, item()))
        while not source.starts:
            await asyncio.sleep(0)
        source.gate.set()

    assert source.starts == [0]


async def test_when_the_one_who_fetches_gives_up_another_one_goes_on(blobs):
    source = Source()
    source.gate.clear()
    first = asyncio.ensure_future(fetch(blobs, source, item()))
    while not source.starts:
        await asyncio.sleep(0)
    second = asyncio.ensure_future(fetch(blobs, source, item()))
    await asyncio.sleep(0)

    first.cancel()
    source.gate.set()
    await second

    assert blobs.missing([item()]) == []
    assert list(blobs._new.iterdir()) == []


async def test_only_what_no_tree_holds_and_nobody_wants_makes_room(blobs, tmp_path):
    items = [item(bytes([number]) * 1000) for number in range(3)]
    for one, number in zip(items, range(3), strict=True):
        await fetch(blobs, Source(bytes([number]) * 1000), one)
    os.link(blobs.path(items[0]), tmp_path / "in a tree")

    freed = await blobs.remove_unused({items[1].name}, 10**9)

    assert (freed, await blobs.count()) == (1000, 2000)
    assert blobs.missing(items) == [items[2]]


async def test_after_a_reboot_files_are_believed_once_they_were_read_again(blobs, tmp_path):
    contents = [bytes([number]) * 1000 for number in range(4)]
    items = [item(content, path=str(number)) for number, content in enumerate(contents)]
    for one, content in zip(items, contents, strict=True):
        await fetch(blobs, Source(content), one)
    torn = Path(blobs.path(items[1]))
    torn.chmod(0o600)
    torn.write_bytes(bytes(1000))

    blobs.doubt()
    assert blobs.missing(items) == items
    sources = [Source(content) for content in contents]
    for one, source in zip(items[:2], sources, strict=False):
        await fetch(blobs, source, one)
    # Another one, before the rest was wanted.
    blobs.doubt()
    for one, source in zip(items[:3], sources, strict=False):
        await fetch(blobs, source, one)

    assert [source.starts for source in sources] == [[], [0], [], []]
    assert [Path(blobs.path(one)).read_bytes() for one in items[:3]] == contents[:3]
    assert await blobs.count() == 4000
    assert await blobs.remove_unused({items[0].name, items[1].name}, 10**9) == 2000


async def test_what_was_in_no_tree_for_longest_goes_first_and_no_more_than_has_to(blobs, tmp_path):
    (tmp_path / "tick").touch()
    items = []
    for number in range(4):
        content = bytes([number]) * 1000
        items.append(item(content))
        await fetch(blobs, Source(content), items[-1])
        # Clocks of file systems tick now and then.
        while (tmp_path / "tick").lstat().st_ctime_ns <= Path(blobs.path(items[-1])).stat().st_ctime_ns:
            (tmp_path / "tick").touch()

    freed = await blobs.remove_unused(set(), 1500)

    assert freed == 2000
    assert blobs.missing(items) == items[:2]


async def test_after_a_reboot_a_file_has_the_mode_and_time_that_it_should(blobs):
    await fetch(blobs, Source(), item())
    Path(blobs.path(item())).chmod(0o666)
    os.utime(blobs.path(item()), ns=(1, 1))

    blobs.doubt()
    await fetch(blobs, Source(), item())

    status = Path(blobs.path(item())).stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18)


async def test_after_a_reboot_what_has_no_digest_comes_again(blobs):
    source = Source()
    await fetch(blobs, source, item(sha256=None))

    blobs.doubt()
    await fetch(blobs, source, item(sha256=None))

    assert source.starts == [0, 0]


class Shelf:
    """Gives small files together; in place of the first packs what `packs` holds: other bytes, or an error."""

    def __init__(self, contents, packs=()):
        self.contents = {hashlib.sha256(data).hexdigest(): data for data in contents}
        self.packs = list(packs)
        self.asked: list[list[str]] = []
        self.alone: list[str] = []

    def goes_together(self, item):
        return item.size <= 1_000

    @asynccontextmanager
    async def together(self, digests):
        self.asked.append([self.contents[digest] for digest in digests])
        pack = blob_packs.pack((digest, self.contents[digest]) for digest in digests)
        spoiled = self.packs.pop(0) if self.packs else pack
        if isinstance(spoiled, Exception):
            raise spoiled
        yield self.pieces(pack, spoiled)

    async def pieces(self, pack, changed):
        for at in range(0, len(changed), 7):
            yield changed[at : at + 7]
        if len(changed) < len(pack):
            raise aiohttp.ClientPayloadError("broke off")

    @asynccontextmanager
    async def read(self, item, start):
        self.alone.append(self.contents[item.sha256])

        async def pieces():
            yield self.contents[item.sha256][start:]

        yield pieces()


SMALL = [b"%d of the small" % number for number in range(10)]


def small(content, **given):
    return item(content, path=content.decode(), **given)


def kept(blobs, *items):
    return [one.path for one in items if Path(blobs.path(one)).read_bytes() == one.path.encode()]


async def test_small_files_come_together_and_large_ones_by_themselves(blobs):
    large = b"x" * 1_001
    shelf = Shelf([*SMALL, large])
    items = [small(content) for content in SMALL]

    progress = await fetch(blobs, shelf, *items, small(large), small(SMALL[0], mode=0o755))

    assert (shelf.asked, shelf.alone) == ([SMALL], [large])
    assert kept(blobs, *items, small(large), small(SMALL[0], mode=0o755))
    assert progress.done == progress.bytes
    assert await blobs.count() == progress.bytes
    status = Path(blobs.path(items[0])).stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 10**18)


async def test_of_a_pack_that_breaks_off_what_has_come_is_not_asked_for_again(blobs):
    entry = 36 + len(SMALL[0])
    pack = blob_packs.pack((hashlib.sha256(data).hexdigest(), data) for data in SMALL)
    shelf = Shelf(SMALL, packs=[pack[: 4 * entry + 40]])
    items = [small(content) for content in SMALL]

    progress = await fetch(blobs, shelf, *items)

    assert shelf.asked == [SMALL, SMALL[5:]]
    assert shelf.alone == [SMALL[4]], "the one that broke off is waited for by itself"
    assert len(kept(blobs, *items)) == 10
    assert progress.done == progress.bytes


@pytest.mark.parametrize(
    "spoiled",
    [
        blob_packs.pack([("ab" * 32, b"nobody has asked for this")]),
        b"\xff" * 500,
        b"",
        UnavailableError("unavailable", "not now"),
        RefusedError("not_found", "no such route"),
    ],
)
async def test_a_pack_that_is_none_keeps_nobody_from_the_files(blobs, spoiled):
    shelf = Shelf(SMALL, packs=[spoiled])
    items = [small(content) for content in SMALL]

    await fetch(blobs, shelf, *items)

    assert (shelf.asked, shelf.alone) == ([SMALL, SMALL[1:]], [SMALL[0]])
    assert len(kept(blobs, *items)) == 10


async def test_a_file_that_is_damaged_in_every_pack_is_named_and_the_others_stay(blobs):
    shelf = Shelf(SMALL)
    items = [small(content) for content in SMALL]
    shelf.contents[items[3].sha256] = b"3 of the smalL"

    with pytest.raises(AttemptError, match="'3 of the small' is damaged"):
        await fetch(blobs, shelf, *items)

    assert blobs.missing(items) == [items[3]]
    assert list(blobs._new.iterdir()) == []


async def test_two_who_want_the_same_small_files_fetch_them_once(blobs):
    shelf = Shelf(SMALL)
    items = [small(content) for content in SMALL]

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(fetch(blobs, shelf, *items))

    assert (shelf.asked, shelf.alone) == ([SMALL], [])
