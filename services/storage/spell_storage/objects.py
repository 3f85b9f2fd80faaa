"""The object store, the only module that knows where big bytes lie: a local directory, or S3, GCS or Azure."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from spell_proto import logs
from spell_proto.errors import FullError, SettingsError, UnavailableError, shown
from spell_proto.http import says_full
from spell_storage import local_files

log = logs.get()
Named = Callable[[str], Awaitable[None]]

#: One step of a streamed read or write.
PIECE_BYTES = 1 << 20
#: S3 wants at least 5 MiB per part.
_UPLOAD_PART_BYTES = 8 << 20
_UPLOAD_PARTS_AT_ONCE = 2
_LISTED_AT_ONCE = 1_000
_PUTS_AT_ONCE = 16
_GETS_AT_ONCE = 16
#: More files than these are flushed with everything else that their file system holds.
_FLUSHED_ALONE_MAX = 32


class Objects:
    """Immutable objects by key. An object is there whole or not at all, whatever is killed when."""

    def __init__(self, store: ObjectStore, directory: Path | None) -> None:
        self._store = store
        self._directory = directory
        self._making = asyncio.Lock()

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
        """Store an object. With `synced` it survives a power cut from here on, without it from `settle` or `flush` on."""
        with _answering():
            await obstore.put_async(self._store, key, data, use_multipart=False)
        if synced:
            await self.flush([key])

    async def put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Store several small objects, under keys of which nobody knows yet; they survive a power cut from `settle` or
        `flush` on.
        """
        if self._directory is not None:
            files = [(f"{self._directory}/{key}", data) for key, data in objects]
            # Threads that make many files would only get into each other's way.
            async with self._making:
                await local_files.to_its_end(local_files.write_all, files)
            return
        limit = asyncio.Semaphore(_PUTS_AT_ONCE)

        async def put(key: str, data: bytes) -> None:
            async with limit:
                await self.put(key, data)

        try:
            async with asyncio.TaskGroup() as tasks:
                for key, data in objects:
                    tasks.create_task(put(key, data))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    @asynccontextmanager
    async def writing(self, key: str) -> AsyncIterator[int]:
        """A descriptor to write an object by, where the store is a directory: for who has its bytes in a file. It is there,
        and survives a power cut, once this ends without an error.
        """
        assert self._directory is not None, "only a store in a directory has files"
        async with local_files.writing(self._directory / key) as number:
            yield number

    @asynccontextmanager
    async def unnamed(self, key: str) -> AsyncIterator[tuple[int, Named]]:
        """A descriptor to write an object by whose key is not known yet, where the store is a directory, and what to call
        with that key: it is there then, and survives a power cut. Killed in between, it leaves what `remove` of the given
        key removes.
        """
        assert self._directory is not None, "only a store in a directory has files"
        directory = self._directory
        async with local_files.begun(directory / key) as file:
            yield file.number, lambda named: file.finish(directory / named)

    async def put_stream(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        """Store an object of any size, which survives a power cut from here on. When `pieces` raises, nothing is stored and
        the error comes through.
        """
        if self._directory is not None:
            async with self.writing(key) as number:
                async for piece in pieces:
                    await local_files.to_its_end(local_files.write, number, piece)
            return
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
        return await asyncio.to_thread(local_files.clear_unfinished, self._directory, before.timestamp())

    async def settle(self) -> None:
        """Everything stored so far survives a power cut."""
        if self._directory is not None:
            await asyncio.to_thread(local_files.flush_all, self._directory)

    async def flush(self, keys: Sequence[str]) -> None:
        """These objects survive a power cut."""
        if self._directory is None or not keys:
            return
        if len(keys) > _FLUSHED_ALONE_MAX:
            await self.settle()
            return
        paths = [self._directory / key for key in keys]
        await asyncio.to_thread(local_files.flush, paths)

    async def get(self, key: str) -> bytes:
        """A whole object. Raises `FileNotFoundError` when it is not there."""
        with _answering():
            result = await obstore.get_async(self._store, key)
            return bytes(await result.bytes_async())

    async def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several small objects; None for one that is not there or cannot be read."""
        if self._directory is not None:
            return await asyncio.to_thread(local_files.read_all, [f"{self._directory}/{key}" for key in keys])
        limit = asyncio.Semaphore(_GETS_AT_ONCE)

        async def get(key: str) -> bytes | None:
            async with limit:
                with suppress(FileNotFoundError):
                    return await self.get(key)
                return None

        try:
            async with asyncio.TaskGroup() as tasks:
                getting = [tasks.create_task(get(key)) for key in keys]
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in getting]

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
            return local_files.size(self._directory / key)
        try:
            with _answering():
                return (await obstore.head_async(self._store, key))["size"]
        except FileNotFoundError:
            return None


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
