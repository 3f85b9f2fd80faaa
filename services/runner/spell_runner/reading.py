"""Reads what a run has made, for digests and for storage: a file that cannot be read costs nothing but itself (shell)."""

import asyncio
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import FileIO

from spell_proto import blob_packs
from spell_runner.errors import SHORT, problem
from spell_runner.mounts.content import amount
from spell_runner.outputs import Found, not_saved
from spell_runner.workspace import Abort, open_below

#: Files that are read at the same time for their digests.
READERS = 2
_READ_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Blob:
    """The content of a found file, as it was when it was read: again, if it `changed` meanwhile."""

    found: Found
    sha256: str
    size: int
    changed: bool = False


@dataclass(slots=True)
class Course:
    """How far a save of so many bytes is: what was read, what storage has, and lines for what was left out."""

    bytes: int
    left_out: list[str] = field(default_factory=list)
    read: int = 0
    saved: int = 0

    def begin(self) -> None:
        self.left_out, self.read, self.saved = [], 0, 0

    def sent(self, count: int) -> None:
        self.saved += count

    def __str__(self) -> str:
        # What changes meanwhile comes more than once.
        done, total = min(self.saved or self.read, self.bytes), amount(self.bytes)
        return f"{amount(done)} of {total}" if self.saved else f"{amount(done)} of {total} read"


class ChangedError(Exception):
    """A file is not what it was when its digest was taken."""


class LeftOutError(Exception):
    """A file cannot be saved, and costs the others nothing; says why."""


async def read_all(files: dict[str, Found], course: Course, abort: Abort) -> dict[str, Blob]:
    """Digests are taken of several files at a time."""
    left = iter(files.items())

    def some() -> dict[str, Blob]:
        done = {}
        # Who is done with a file takes the next one: they may be of any size.
        for path, found in left:
            try:
                done[path] = _read(found, abort)
                course.read += done[path].size
            except LeftOutError as error:
                course.left_out.append(line(found, error))
        return done

    try:
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(asyncio.to_thread(some)) for _ in range(READERS)]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    finally:
        # Where one has failed, or nobody waits any more, the others end with the file that they have in hand.
        for _ in left:
            pass
    return {path: blob for task in reading for path, blob in task.result().items()}


def _read(found: Found, abort: Abort) -> Blob:
    """The digest and size of a file, read once more when it changes meanwhile."""
    if found.link is not None:
        target = os.fsencode(found.link)
        return Blob(found, hashlib.sha256(target).hexdigest(), len(target))
    blob, steady = _read_once(found, abort)
    return blob if steady else replace(_read_once(found, abort)[0], changed=True)


def _read_once(found: Found, abort: Abort) -> tuple[Blob, bool]:
    digest = hashlib.sha256()
    with costing_itself(), opened(found) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise LeftOutError("it is no file any more")
        size = 0
        while chunk := file.read(_READ_BYTES):
            abort.check()
            digest.update(chunk)
            size += len(chunk)
        after = os.fstat(file.fileno())
    steady = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return Blob(found, digest.hexdigest(), size), steady


def look(found: Found) -> dict[str, str | int] | None:
    """What storage is asked about a large file before all of it is read; None for what cannot be looked at."""
    try:
        with costing_itself(), opened(found) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            number, size = file.fileno(), status.st_size
            places = blob_packs.looked_at(size)
            pieces = [os.pread(number, blob_packs.LOOK_BYTES, at * blob_packs.LOOK_BYTES) for at in places]
            return blob_packs.look(size, pieces)
    except LeftOutError:
        # Whoever reads it says why.
        return None


def line(found: Found, error: LeftOutError) -> str:
    return not_saved(found.path, str(error))


def opened(found: Found) -> FileIO:
    """A found file, to be read."""
    with costing_itself():
        descriptor = open_below(found.root, found.source.removeprefix("/"))
        try:
            return FileIO(descriptor)
        except OSError:
            os.close(descriptor)
            raise


@contextlib.contextmanager
def costing_itself(what: str = "it cannot be read") -> Iterator[None]:
    """Whatever the system says about a file costs that file alone."""
    try:
        yield
    except OSError as error:
        if error.errno in SHORT:
            raise
        raise LeftOutError(f"{what}: {problem(error)}") from error
