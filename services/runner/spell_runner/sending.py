"""Sends the contents of files to storage: small ones together, large ones by themselves, or where they are (shell)."""

import asyncio
import hashlib
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from io import FileIO
from typing import IO

from pydantic import TypeAdapter

from spell_proto import blob_packs
from spell_proto.errors import RefusedError
from spell_proto.http import Caller
from spell_proto.shapes import Shape
from spell_runner.outputs import Found
from spell_runner.reading import Blob, ChangedError, LeftOutError, costing_itself, opened
from spell_runner.workspace import Abort

#: The bytes of the files in a pack, with room for what stands around them.
_PACK_BYTES = blob_packs.PACK_BYTES_MAX - blob_packs.PACK_BLOBS_MAX * 64
CHUNK_BYTES = 1 << 20
#: A storage that takes longer for a file hangs: it is asked again.
PUT_SECONDS_MAX = 30.0
PUT_BYTES_PER_SECOND_MIN = 1 << 20
_UNCOPIED = "it changed while it was saved, and cannot be copied"


class Taken(Shape):
    sha256: str


_TAKEN: TypeAdapter[Taken] = TypeAdapter(Taken)


async def put(storage: Caller, owner_id: int, blob: Blob, sent: Callable[[int], None]) -> None:
    """Send the content of one file; `sent` is told of bytes as they go."""
    if blob.found.link is not None:
        await _send(storage, owner_id, blob, os.fsencode(blob.found.link))
    elif blob.size <= CHUNK_BYTES:
        await _send(storage, owner_id, blob, _small(blob))
    else:
        # Closed here: a request that was refused half-way would hold the file, and its room on the disk, for long.
        with opened(blob.found) as file:
            await _send_file(storage, owner_id, blob, file, sent)
        return
    sent(blob.size)


def packed(blobs: dict[str, Blob]) -> tuple[list[list[str]], list[str]]:
    """Which of some files go together, and which by themselves."""
    packs: list[list[str]] = []
    alone: list[str] = []
    room = count = 0
    for path, blob in blobs.items():
        if blob.found.link is not None or blob.size > blob_packs.BLOB_BYTES_MAX:
            alone.append(path)
            continue
        if not packs or room < blob.size or count == blob_packs.PACK_BLOBS_MAX:
            packs.append([])
            room, count = _PACK_BYTES, 0
        packs[-1].append(path)
        room, count = room - blob.size, count + 1
    return packs, alone


async def put_pack(storage: Caller, owner_id: int, blobs: list[Blob]) -> None:
    data = await asyncio.to_thread(lambda: blob_packs.pack((blob.sha256, _small(blob)) for blob in blobs))
    headers = {"Content-Type": "application/octet-stream"}
    params = {"owner_id": owner_id}
    async with (
        asyncio.timeout(PUT_SECONDS_MAX + len(data) / PUT_BYTES_PER_SECOND_MIN),
        storage.open("POST", "/blobs/pack", params=params, data=data, headers=headers, stream=True),
    ):
        pass


async def put_new(storage: Caller, owner_id: int, found: Found) -> Blob | None:
    """Have storage take a large file from where it is, and its digest with it. None where it cannot; a file that changes
    meanwhile is refused.
    """
    with opened(found) as file:
        with costing_itself():
            status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise LeftOutError("it is no file any more")
        params = {
            "owner_id": owner_id,
            "file": file.fileno(),
            "identity": blob_packs.identity(status),
            "version": blob_packs.version(status),
        }
        seconds = PUT_SECONDS_MAX + status.st_size / PUT_BYTES_PER_SECOND_MIN
        try:
            taken = await storage.call("POST", "/blobs/file", _TAKEN, params=params, seconds=seconds)
        except RefusedError as error:
            if error.code == blob_packs.FILE_UNREACHABLE:
                return None
            raise
    return Blob(found, taken.sha256, status.st_size)


async def put_copy(storage: Caller, owner_id: int, found: Found, abort: Abort) -> Blob:
    """Read a file once more, into a copy of our own: whoever goes on to change it changes that no more."""
    # Where its files are: there it takes room of the run's, and there is no name by which a run could find it.
    with _room(found) as copy:
        blob = await asyncio.to_thread(_copy, found, copy, abort)
        copy.seek(0)
        with os.fdopen(os.dup(copy.fileno()), "rb", buffering=0) as file:
            await _send_file(storage, owner_id, blob, file, lambda _: None)
    return blob


async def _send_file(
    storage: Caller, owner_id: int, blob: Blob, file: FileIO, sent: Callable[[int], None]
) -> None:
    """The content of an open file, from its beginning."""
    if storage.near and await _named(storage, owner_id, blob, file):
        sent(blob.size)
    else:
        await _send(storage, owner_id, blob, _chunks(file, blob.size, sent))


async def _named(storage: Caller, owner_id: int, blob: Blob, file: FileIO) -> bool:
    """Say which file it is, for storage to read it where it is; whether storage could."""
    params = {
        "owner_id": owner_id,
        "file": file.fileno(),
        "identity": blob_packs.identity(os.fstat(file.fileno())),
        "size": blob.size,
    }
    seconds = PUT_SECONDS_MAX + blob.size / PUT_BYTES_PER_SECOND_MIN
    try:
        async with storage.open("POST", f"/blobs/{blob.sha256}/file", params=params, seconds=seconds):
            return True
    except RefusedError as error:
        if error.code == blob_packs.FILE_UNREACHABLE:
            return False
        raise


def _room(found: Found) -> IO[bytes]:
    with costing_itself(_UNCOPIED):
        return tempfile.TemporaryFile(dir=found.root)


def _copy(found: Found, to: IO[bytes], abort: Abort) -> Blob:
    digest, size = hashlib.sha256(), 0
    with costing_itself(_UNCOPIED), opened(found) as file:
        while chunk := file.read(CHUNK_BYTES):
            abort.check()
            digest.update(chunk)
            to.write(chunk)
            size += len(chunk)
        to.flush()
    return Blob(found, digest.hexdigest(), size, changed=True)


async def _send(storage: Caller, owner_id: int, blob: Blob, data: bytes | AsyncIterator[bytes]) -> None:
    headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
    params = {"owner_id": owner_id}
    async with (
        asyncio.timeout(PUT_SECONDS_MAX + blob.size / PUT_BYTES_PER_SECOND_MIN),
        storage.open("PUT", f"/blobs/{blob.sha256}", params=params, data=data, headers=headers, stream=True),
    ):
        pass


def _small(blob: Blob) -> bytes:
    # What was added since then is no harm: what was read is still there.
    with costing_itself(), opened(blob.found) as file:
        data = file.read(blob.size)
    if len(data) != blob.size:
        raise ChangedError
    return data


async def _chunks(file: FileIO, left: int, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
    while left:
        # Not as an error of the connection, after which it would be tried for ever.
        with costing_itself():
            chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
        if not chunk:
            raise ChangedError
        left -= len(chunk)
        yield chunk
        sent(len(chunk))
