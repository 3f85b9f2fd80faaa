"""The object store, the only module that knows where big bytes lie: a local directory, or S3, GCS or Azure."""

import asyncio
import ctypes
import os
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from spell_proto import logs
from spell_proto.errors import FullError, SettingsError, UnavailableError, shown
from spell_proto.http import says_full

log = logs.get()

#: One step of a streamed read or write.
PIECE_BYTES = 1 << 20
#: Measured: obstore writes a local file fastest in steps of this size; S3 wants at least 5 MiB per part.
_UPLOAD_PART_BYTES = 8 << 20
_UPLOAD_PARTS_AT_ONCE = 2
_LISTED_AT_ONCE = 1_000
#: How a store in a directory calls a file until its object is whole.
_UNFINISHED = re.compile(r"#[0-9]+\Z")


class Objects:
    """Immutable objects by key. An object is there whole or not at all, whatever is killed when."""

    def __init__(self, store: ObjectStore, directory: Path | None) -> None:
        self._store = store
        self._directory = directory

    @classmethod
    def open(cls, url: str, directory: Path) -> "Objects":
        """The store that `url` names, for instance `s3://bucket/prefix`, or `directory` when it is empty.

        Raises:
            SettingsError: no store can be made from `url`. Credentials come from the provider's own variables.
        """
        if url and not url.startswith("file://"):
            try:
                return cls(from_url(url), None)
            except (BaseError, ValueError) as error:
                why = str(error).splitlines()[0]
                raise SettingsError(
                    "the setting SPELL_BLOB_STORE must be a URL like s3://bucket/prefix, gs://bucket/prefix or "
                    f"file:///directory, not {shown(url)}: {why}"
                ) from error
        if url:
            directory = Path(url.removeprefix("file://"))
        return cls(LocalStore(directory, mkdir=True), directory)

    @property
    def local(self) -> bool:
        return self._directory is not None

    async def put(self, key: str, data: bytes, *, synced: bool = False) -> None:
        """Store an object. With `synced` it survives a power cut from here on, without it from `settle` on."""
        with _answering():
            await obstore.put_async(self._store, key, data, use_multipart=False)
        if synced and self._directory is not None:
            await asyncio.to_thread(_sync, self._directory / key)

    async def put_stream(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        """Store an object of any size. When `pieces` raises, nothing is stored and the error comes through."""
        with _answering():
            await obstore.put_async(
                self._store,
                key,
                pieces,
                chunk_size=_UPLOAD_PART_BYTES,
                max_concurrency=_UPLOAD_PARTS_AT_ONCE,
            )

    async def remove(self, key: str) -> None:
        """Remove an object, whether it is there or not."""
        with suppress(FileNotFoundError), _answering():
            await obstore.delete_async(self._store, key)
        if self._directory is not None:
            # What a store in a directory writes to until an object is whole; a crash leaves it.
            (self._directory / f"{key}#1").unlink(missing_ok=True)

    async def listed(self, prefix: str) -> AsyncGenerator[list[tuple[str, datetime]], None]:
        """Keys below a prefix, and when their objects were put, some at a time."""
        with _answering():
            async for page in obstore.list(self._store, prefix, chunk_size=_LISTED_AT_ONCE):
                yield [(meta["path"], meta["last_modified"]) for meta in page]

    async def clear_unfinished(self, before: datetime) -> int:
        """Remove what a directory keeps of puts that were killed before then; how many there were. Listings leave it out.
        Where objects are remote, the provider removes it.
        """
        if self._directory is None:
            return 0
        return await asyncio.to_thread(_clear_unfinished, self._directory, before.timestamp())

    async def settle(self) -> None:
        """Everything stored so far survives a power cut."""
        if self._directory is not None:
            await asyncio.to_thread(_sync_file_system, self._directory)

    async def get(self, key: str) -> bytes:
        """A whole object. Raises `FileNotFoundError` when it is not there."""
        with _answering():
            result = await obstore.get_async(self._store, key)
            return bytes(await result.bytes_async())

    async def stream(self, key: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """A range of an object, piece by piece. Raises `FileNotFoundError` when the object is not there."""
        if length == 0:
            return
        if self._directory is not None:
            # Reading a file needs no detour through another thread pool and its buffers: 3 times as fast.
            with (self._directory / key).open("rb", buffering=0) as file:
                file.seek(start)
                while length:
                    piece = await asyncio.to_thread(file.read, min(length, PIECE_BYTES))
                    if not piece:
                        raise FileNotFoundError(f"{key} is shorter than it was")
                    length -= len(piece)
                    yield piece
            return
        with _answering():
            result = await obstore.get_async(self._store, key, options={"range": (start, start + length)})
            async for piece in result.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    async def size(self, key: str) -> int | None:
        """How long an object is, or None when it is not there."""
        if self._directory is not None:
            return _file_size(self._directory / key)
        try:
            with _answering():
                return (await obstore.head_async(self._store, key))["size"]
        except FileNotFoundError:
            return None


def _clear_unfinished(directory: Path, before: float) -> int:
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


def _file_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError("unavailable", f"stored bytes cannot be found: {error.strerror}") from error


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except BaseError as error:
        if says_full(error):
            log.warning("the object store is full", problem=repr(error))
            raise FullError("disk_full", "the disk of storage is full") from error
        log.warning("the object store does not answer", problem=repr(error))
        raise UnavailableError("unavailable", "the object store does not answer; try again") from error


def _sync(path: Path) -> None:
    for place in (path, path.parent):
        number = os.open(place, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _sync_file_system(directory: Path) -> None:
    if sys.platform != "linux":
        os.sync()
        return
    number = os.open(directory, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(number) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(directory))
    finally:
        os.close(number)
