"""Objects as files of a directory: written beside their place, flushed, and renamed into it (shell)."""

import asyncio
import ctypes
import itertools
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from spell_proto import logs
from spell_proto.errors import FullError, UnavailableError
from spell_proto.http import says_full

log = logs.get()
P = ParamSpec("P")
T = TypeVar("T")

#: Measured: written in larger steps, a file costs four times the processor time, for pages that are not in its cache.
_WRITE_BYTES = 256 << 10
_LIBRARY = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE_WRITE = 2
#: How a file is called until its object is whole.
_UNFINISHED = re.compile(r"#[0-9]+\Z")


async def to_its_end(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """The result of `work` in a thread. It is over when this returns, however that comes about: what it works with may be
    closed then.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work, *given, **named))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({working})
        working.exception()
        raise


@asynccontextmanager
async def writing(path: Path) -> AsyncIterator[int]:
    """A descriptor to write a file by, which is there, and survives a power cut, once this ends without an error."""
    async with begun(path) as file:
        yield file.number
        await file.finish(path)


@dataclass(frozen=True, slots=True)
class Begun:
    """A file that is written beside its place."""

    place: Path
    number: int

    async def finish(self, path: Path) -> None:
        """It is there as `path`, and survives a power cut, when this returns."""
        await to_its_end(_finish, path, self.place, self.number)


@asynccontextmanager
async def begun(path: Path) -> AsyncIterator[Begun]:
    """A file to write, near `path`; whoever has written it says where it is to be, or it is gone once this ends."""
    place, number = await to_its_end(_begin, path)
    try:
        yield Begun(place, number)
    finally:
        os.close(number)
        place.unlink(missing_ok=True)


def write(number: int, data: bytes | memoryview) -> None:
    """Write all of some bytes. Raises FullError, UnavailableError."""
    view = memoryview(data)
    with _told():
        while view:
            view = view[os.write(number, view[:_WRITE_BYTES]) :]


def begin_to_flush(number: int) -> None:
    """Have the disk begin to write what a file has, without waiting for it, where the system knows how."""
    with suppress(AttributeError):
        # What goes wrong is seen by whoever flushes it.
        _LIBRARY.sync_file_range(
            number, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )


def write_all(files: Iterable[tuple[str, bytes]]) -> None:
    """Small files under names that nobody looks at before this returns: one that it was killed over may be there in part.
    `flush` makes them survive a power cut.
    """
    for path, data in files:
        number = _create(path)
        try:
            write(number, data)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
        finally:
            os.close(number)


def read_all(paths: Iterable[str]) -> list[bytes | None]:
    """What is in small files; None where one is not there or cannot be read."""
    found: list[bytes | None] = []
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- plain strings, of thousands of files
                found.append(file.readall())
        except OSError:
            found.append(None)
    return found


def flush(paths: Sequence[Path]) -> None:
    """Files, and that they are in their directories, survive a power cut. What is not there any more is left out."""
    above = dict.fromkeys(path.parent for path in paths)
    with _told():
        # The directories may be new as well.
        for place in dict.fromkeys([*paths, *above, *(directory.parent for directory in above)]):
            with suppress(FileNotFoundError):
                _flush(place)


def flush_all(directory: Path) -> None:
    """Everything that the file system of a directory holds survives a power cut."""
    if sys.platform != "linux":
        os.sync()
        return
    number = os.open(directory, os.O_RDONLY)
    try:
        if _LIBRARY.syncfs(number) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(directory))
    finally:
        os.close(number)


def clear_unfinished(directory: Path, before: float) -> int:
    """Remove what was not finished, and not written to since then; how many there were."""
    count = 0
    for place, _, names in os.walk(directory):
        for name in names:
            path = Path(place, name)
            # No key of ours has such a sign. What is being written to is younger.
            if _UNFINISHED.search(name):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()
                        count += 1
    return count


def size(path: Path) -> int | None:
    """How long a file is, or None when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError("unavailable", f"stored bytes cannot be found: {error.strerror}") from error


def _begin(path: Path) -> tuple[Path, int]:
    for suffix in itertools.count(1):
        place = path.with_name(f"{path.name}#{suffix}")
        # That it exists says that somebody else is at it, or was killed over it.
        with suppress(FileExistsError):
            return place, _create(str(place))
    raise AssertionError("there is always one more name")


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _told():
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o666)


def _finish(path: Path, place: Path, number: int) -> None:
    with _told():
        os.fsync(number)
        try:
            place.rename(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            place.rename(path)
    flush([path])


def _flush(place: Path) -> None:
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with a file of ours as whoever puts an object is told."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if says_full(error):
            log.warning("the object store is full", problem=repr(error))
            raise FullError("disk_full", "the disk of storage is full") from error
        log.warning("the object store does not answer", problem=repr(error))
        raise UnavailableError("unavailable", "the object store does not answer; try again") from error
