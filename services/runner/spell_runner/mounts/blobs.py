"""Keeps the files of mounted resources, each once: fetched side by side, verified as they come, never written to again.

<root>/blobs/<2 letters>/<name>   a file, whole; who it belongs to, its mode and its time are those that runs see
<root>/new/                       files that are being fetched
<root>/unverified/                files of before a reboot: none of them was synced to the disk, so each is read again first
"""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spell_proto import logs
from spell_proto.errors import RefusedError
from spell_proto.state import Reason
from spell_runner import workspace
from spell_runner.errors import AttemptError
from spell_runner.mounts import together
from spell_runner.mounts.content import Item, amount
from spell_runner.mounts.sources import Source
from spell_runner.mounts.together import AWAY
from spell_runner.shim.linux import FULL
from spell_runner.tasks import in_thread

log = logs.get()

FETCHES_AT_ONCE = 16
PACKS_AT_ONCE = 4
#: What is written and hashed in one go; less than `INLINE_BYTES` is not worth a thread.
PIECE_BYTES = 1 << 20
INLINE_BYTES = 1 << 16
FIRST_PAUSE_SECONDS = 0.1
RETRY_SECONDS_MAX = 5.0
#: What came damaged is asked for so often in all.
TRIES = 2


@dataclass(slots=True)
class Progress:
    """How much of a resource is on this machine."""

    bytes: int
    done: int = 0

    def add(self, size: int) -> None:
        self.done += size

    def __str__(self) -> str:
        return f"{amount(self.done)} of {amount(self.bytes)}"


@dataclass(slots=True)
class _Begun:
    """A file of which a part is here: when a source breaks off, the rest is asked for."""

    path: str
    fd: int
    hashing: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    size: int = 0

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self.fd, left) :]
        self.hashing.update(data)
        self.size += len(data)


class Blobs:
    """The files below `root`. One for each `owner`, user and group, to whom they belong; None: to us."""

    def __init__(self, root: Path, owner: tuple[int, int] | None) -> None:
        self._blobs = root / "blobs"
        self._new = root / "new"
        self._unverified = root / "unverified"
        self._owner = owner
        self._fetching: dict[str, asyncio.Future[None]] = {}
        #: how much room they take, once they were counted; and what came since that began
        self.bytes: int | None = None
        self._came = 0
        #: names and sizes of what room is kept for
        self._expected: list[dict[str, int]] = []
        self._prepare()

    def _prepare(self) -> None:
        for path in (self._new, self._unverified):
            path.mkdir(mode=0o700, exist_ok=True)
        self._blobs.mkdir(mode=0o755, exist_ok=True)

    def sweep(self) -> None:
        """Remove what an earlier runner has left half fetched."""
        workspace.remove(self._new)
        self._prepare()

    def doubt(self) -> None:
        """Believe none of them any more: after a power cut, a file may have its name but not its bytes."""
        for directory in self._blobs.iterdir():
            aside = self._unverified / directory.name
            if not aside.exists():
                directory.rename(aside)
                continue
            for path in directory.iterdir():
                path.rename(aside / path.name)

    def path(self, item: Item) -> str:
        name = item.name
        return f"{self._blobs}/{name[:2]}/{name}"

    def missing(self, items: Sequence[Item]) -> list[Item]:
        """Those of the files that are not here, each content once."""
        found = {}
        for item in items:
            if item.link is None and item.name not in found and not os.access(self.path(item), os.F_OK):
                found[item.name] = item
        return list(found.values())

    def to_come(self, missing: Sequence[Item]) -> dict[str, int]:
        """The names and sizes of those of the missing files for which there has to be room: not of what is here already, and
        only to be read again.
        """
        return {item.name: item.size for item in missing if not self._is_aside(item)}

    @property
    def bytes_to_come(self) -> int:
        """What is still to come of what room is kept for."""
        return sum(sum(expected.values()) for expected in self._expected)

    def expect(self, to_come: dict[str, int]) -> None:
        """Keep room for files. Whoever says so has them fetched next."""
        self._expected.append(to_come)

    async def fetch(
        self,
        source: Source,
        items: Sequence[Item],
        progress: Progress,
        waits: Callable[[], None],
        expected: dict[str, int],
    ) -> None:
        """Have these files here; waits for as long as their source is away. `waits` is called when that keeps us waiting.
        From what is `expected` is removed what has come.

        Raises:
            AttemptError: that is not possible.
        """
        packs, alone = together.packed(source, items, self._is_aside)
        waiting, packs_waiting = iter(alone), iter(packs)

        async def one(item: Item) -> None:
            await self._once(item.name, partial(self._fetch, source, item, progress, waits))
            expected.pop(item.name, None)

        async def some(items: list[Item]) -> list[Item]:
            came = await self._fetch_together(source, items, progress)
            for item in came:
                expected.pop(item.name, None)
            return came

        async def work() -> None:
            for item in waiting:
                await one(item)

        async def work_together() -> None:
            for pack in packs_waiting:
                await together.fetch(pack, some, one)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(PACKS_AT_ONCE, len(packs))):
                    group.create_task(work_together())
                for _ in range(min(FETCHES_AT_ONCE, len(alone))):
                    group.create_task(work())
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            self._expected = [one for one in self._expected if one is not expected]

    async def _once(self, name: str, fetch: Callable[[], Awaitable[None]]) -> None:
        """Let one of those who want a file fetch it; the others look again when that is over."""
        while not os.access(f"{self._blobs}/{name[:2]}/{name}", os.F_OK):
            fetching = self._fetching.get(name)
            if fetching is not None:
                await asyncio.wait({fetching})
                continue
            self._fetching[name] = fetching = asyncio.get_running_loop().create_future()
            try:
                await fetch()
            finally:
                del self._fetching[name]
                fetching.set_result(None)

    async def _fetch_together(self, source: Source, items: Sequence[Item], progress: Progress) -> list[Item]:
        """Have those of the files here that come in one go, and that nobody else fetches; which ones came."""
        mine = [
            item
            for item in items
            if item.name not in self._fetching and not os.access(self.path(item), os.F_OK)
        ]
        if len(mine) < 2:
            return []
        over = asyncio.get_running_loop().create_future()
        self._fetching.update((item.name, over) for item in mine)
        came: list[Item] = []
        try:
            await together.take(source, mine, self._keep_small, came, progress.add)
        finally:
            self._count(sum(item.size for item in came))
            for item in mine:
                del self._fetching[item.name]
            over.set_result(None)
        return came

    def _keep_small(self, item: Item, content: bytes) -> None:
        begun = self._begin(item)
        try:
            begun.write(content)
            self._keep(item, begun)
        except OSError as error:
            Path(begun.path).unlink(missing_ok=True)
            raise _unwritten(error, item) from error
        finally:
            os.close(begun.fd)

    async def _fetch(self, source: Source, item: Item, progress: Progress, waits: Callable[[], None]) -> None:
        if await self._proven(item):
            progress.done += item.size
            return
        for _ in range(TRIES):
            begun = self._begin(item)
            try:
                if await _filled(source, item, begun, progress, waits):
                    self._keep(item, begun)
                    self._count(begun.size)
                    return
                log.warning("a file came damaged", file=item.path, identity=item.identity)
                progress.done -= begun.size
            except OSError as error:
                raise _unwritten(error, item) from error
            finally:
                os.close(begun.fd)
                Path(begun.path).unlink(missing_ok=True)
        raise AttemptError(Reason.MOUNT_FAILED, f"its file {item.path!r} is damaged where it is kept")

    async def _proven(self, item: Item) -> bool:
        """Whether a file of before a reboot is still what it should be; then it is one of ours again."""
        aside = self._aside(item.name)
        try:
            if item.sha256 is None or await in_thread(partial(_digest, aside)) != item.sha256:
                size = aside.lstat().st_size
                aside.unlink()
                self._count(-size)
                return False
            if self._owner is not None:
                os.chown(aside, *self._owner)
            # Its name says these, but a power cut may have lost them as well.
            aside.chmod(_mode(item))
            os.utime(aside, ns=(item.mtime_ns, item.mtime_ns))
            place = Path(self.path(item))
            place.parent.mkdir(mode=0o755, exist_ok=True)
            aside.rename(place)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unwritten(error, item) from error
        return True

    def _begin(self, item: Item) -> _Begun:
        path = f"{self._new}/{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return _Begun(path, os.open(path, flags, 0o600))
        except OSError as error:
            raise _unwritten(error, item) from error

    def _keep(self, item: Item, begun: _Begun) -> None:
        """Make it a file of ours: all at once, in its final shape."""
        if self._owner is not None:
            os.fchown(begun.fd, *self._owner)
        os.fchmod(begun.fd, _mode(item))
        os.utime(begun.fd, ns=(item.mtime_ns, item.mtime_ns))
        place = self.path(item)
        try:
            os.rename(begun.path, place)  # noqa: PTH104 -- plain strings, of tens of thousands of files
        except FileNotFoundError:
            Path(place).parent.mkdir(mode=0o755, exist_ok=True)
            Path(begun.path).rename(place)

    def _is_aside(self, item: Item) -> bool:
        """Whether it is here from before a reboot."""
        name = item.name
        return os.access(f"{self._unverified}/{name[:2]}/{name}", os.F_OK)

    def _aside(self, name: str) -> Path:
        return self._unverified / name[:2] / name

    # ---- making room -----------------------------------------------------------------------------------------

    async def count(self) -> int:
        """How much room they take."""
        if self.bytes is None:
            self._came = 0
            found = await in_thread(lambda: sum(status.st_size for _, status in self._all()))
            # Some of what came meanwhile may be counted twice: rather that than not at all.
            self.bytes = found + self._came
        return self.bytes

    def _count(self, size: int) -> None:
        self._came += size
        if self.bytes is not None:
            self.bytes += size

    async def remove_unused(self, wanted: Iterable[str], excess: int) -> int:
        """Remove files that are in no tree, bar those of the names `wanted`, until there is `excess` more room: first what
        was laid out or taken out of a tree longest ago. How much was freed.
        """
        freed = await in_thread(partial(self._removed, set(wanted), excess))
        self._count(-freed)
        return freed

    def _removed(self, kept: set[str], excess: int) -> int:
        unused = [
            (status.st_ctime_ns, path, status.st_size)
            for path, status in self._all()
            if status.st_nlink == 1 and os.path.basename(path) not in kept  # noqa: PTH119 -- plain strings
        ]
        freed = 0
        for _, path, size in sorted(unused):
            if freed >= excess:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 -- plain strings
                freed += size
        return freed

    def _all(self) -> Iterator[tuple[str, os.stat_result]]:
        for top in (self._unverified, self._blobs):
            for directory in os.scandir(top):
                for entry in os.scandir(directory.path):
                    with suppress(FileNotFoundError):
                        yield entry.path, entry.stat(follow_symlinks=False)


async def _filled(
    source: Source, item: Item, begun: _Begun, progress: Progress, waits: Callable[[], None]
) -> bool:
    """Whether all came, and is what it should be. When its source breaks off, the rest is asked for."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        before = begun.size
        try:
            async with source.read(item, begun.size) as pieces:
                await _take(pieces, item, begun, progress)
        except AWAY as error:
            log.info("a source does not answer", file=item.path, problem=repr(error))
            if begun.size == before:
                if pause > RETRY_SECONDS_MAX / 4:
                    waits()
                await asyncio.sleep(pause)
            pause = FIRST_PAUSE_SECONDS if begun.size > before else min(2 * pause, RETRY_SECONDS_MAX)
        except RefusedError as error:
            raise AttemptError(Reason.MOUNT_FAILED, error.message) from error
        else:
            whole = begun.size == item.size
            return whole and item.sha256 in {None, begun.hashing.hexdigest()}


async def _take(pieces: AsyncIterator[bytes], item: Item, begun: _Begun, progress: Progress) -> None:
    gathered: list[bytes] = []
    size = 0
    try:
        async for piece in pieces:
            gathered.append(piece)
            size += len(piece)
            if begun.size + size > item.size:
                # It is not what was listed; how much more there is does not matter.
                break
            if size >= PIECE_BYTES:
                await _write(begun, gathered, progress)
                gathered, size = [], 0
    except AWAY:
        await _write(begun, gathered, progress)
        raise
    await _write(begun, gathered, progress)


async def _write(begun: _Begun, pieces: list[bytes], progress: Progress) -> None:
    data = b"".join(pieces)
    if len(data) > INLINE_BYTES:
        await in_thread(partial(begun.write, data))
    else:
        begun.write(data)
    progress.done += len(data)


def _mode(item: Item) -> int:
    return item.mode & 0o777 | 0o400


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwritten(error: OSError, item: Item) -> AttemptError:
    if error.errno in FULL:
        return AttemptError(Reason.MOUNT_FAILED, "there is no room for it on the disk of the machine")
    return AttemptError(Reason.MOUNT_FAILED, f"its file {item.path!r} cannot be kept: {error.strerror}")
