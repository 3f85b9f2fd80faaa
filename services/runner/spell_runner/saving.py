"""Brings what a run has made into storage: digests, then the blobs that are missing, then the manifest (shell)."""

import asyncio
import hashlib
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import FileIO
from typing import IO

import aiohttp
from pydantic import TypeAdapter

from spell_proto import blob_packs, logs
from spell_proto.errors import FullError, RefusedError, UnavailableError
from spell_proto.events import OutputsSaved
from spell_proto.http import Caller
from spell_proto.shapes import Shape
from spell_proto.state import Reason
from spell_proto.views import MANIFEST_BYTES_MAX, Manifest, ManifestEntry, ManifestStored
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes, shortened
from spell_runner.outputs import Changes, Found, manifest_bytes, resource_paths
from spell_runner.workspace import Abort, open_readable

log = logs.get()

LINES_MAX = 1_000
MISSING_BATCH = 1_000
UPLOADS_AT_ONCE = 4
#: Files that are read at the same time for their digests.
READERS = 2
#: The bytes of the files in a pack, with room for what stands around them.
_PACK_BYTES = blob_packs.PACK_BYTES_MAX - blob_packs.PACK_BLOBS_MAX * 64
CHUNK_BYTES = 1 << 20
RETRY_SECONDS_MAX = 5.0
#: A storage that takes longer for a file hangs: it is asked again.
PUT_SECONDS_MAX = 30.0
PUT_BYTES_PER_SECOND_MIN = 1 << 20
MANIFEST_SECONDS_MAX = 600.0
SAY_AFTER_SECONDS = 3.0
#: How long a full disk of storage is waited for: other runs end meanwhile, and what they took becomes free.
FULL_SECONDS_MAX = 20.0
FULL_AGAIN_SECONDS = 1.0
#: Its owner has as many saved files as he may.
QUOTA_EXCEEDED = "quota_exceeded"
#: Storage does not have a file that a manifest names.
BLOB_MISSING = "blob_missing"
NOTHING = "No modified or new files found"
SCANNING = "Scanning for modified or new files from the run"


class Missing(Shape):
    missing: tuple[str, ...]


_MISSING: TypeAdapter[Missing] = TypeAdapter(Missing)
_STORED: TypeAdapter[ManifestStored] = TypeAdapter(ManifestStored)


@dataclass(frozen=True, slots=True)
class Blob:
    """The content of a found file, as it was when it was read: again, if it `changed` meanwhile."""

    found: Found
    sha256: str
    size: int
    changed: bool = False


class ChangedError(Exception):
    """A file is not what it was when its digest was taken."""


def nothing(left_out: Sequence[str] = ()) -> OutputsSaved:
    """What is reported when there is nothing to save."""
    return OutputsSaved(at=datetime.now(UTC), manifest=None, files=0, bytes=0, notes=shortened(left_out))


def _outcome(stored: ManifestStored, left_out: Sequence[str], changed: Sequence[str]) -> OutputsSaved:
    return OutputsSaved(
        at=datetime.now(UTC),
        manifest=stored.digest,
        files=stored.files,
        bytes=stored.bytes,
        changed=len(changed),
        notes=shortened(left_out) + shortened(changed),
    )


async def save(
    storage: Caller,
    owner_id: int,
    root_directory: str | None,
    changes: Changes,
    notes: Notes,
    abort: Abort,
    *,
    last: bool,
) -> OutputsSaved:
    """Save everything that was found; waits for as long as storage is away. The `last` save of a run is kept also where its
    owner has more than he may then: what was worked for is not thrown away, he begins nothing new.

    Raises:
        AttemptError: something cannot be saved, and trying again will not help.
    """
    # What is left out is said where nobody can miss it.
    notes.lines(changes.notes[:LINES_MAX], important=True)
    if not changes.found:
        if not changes.notes:
            notes.line(NOTHING)
        return nothing(changes.notes)
    lines = [f"Saving '/spell/{found.path}'" for found in changes.found[:LINES_MAX]]
    if len(changes.found) > LINES_MAX:
        lines.append(f"Saving {len(changes.found) - LINES_MAX} more files")
    notes.lines(lines)
    pause, waited, full = 0.2, 0.0, 0.0
    while True:
        try:
            stored, changed = await _store(storage, owner_id, root_directory, changes, abort, last=last)
        except (UnavailableError, aiohttp.ClientError, TimeoutError) as error:
            log.info("storage does not answer", problem=repr(error))
            if waited < SAY_AFTER_SECONDS <= waited + pause:
                notes.line("Storage does not answer; waiting for it")
            waited += pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)
        except FullError as error:
            if full == 0.0:
                notes.line("The disk of storage is full; waiting for room", level="error", important=True)
            if full >= FULL_SECONDS_MAX:
                raise AttemptError(Reason.SAVE_FAILED, f"the files could not be saved: {error}") from error
            full += FULL_AGAIN_SECONDS
            await asyncio.sleep(FULL_AGAIN_SECONDS)
        except (RefusedError, OSError) as error:
            over = isinstance(error, RefusedError) and error.code == QUOTA_EXCEEDED
            reason = Reason.DISK_QUOTA if over else Reason.SAVE_FAILED
            raise AttemptError(reason, f"the files could not be saved: {error}") from error
        else:
            if last and stored.full is not None:
                notes.line(f"Saved; nothing new can begin: {stored.full}", important=True)
            said = [f"'/spell/{path}' changed during save" for path in changed]
            notes.lines(said[:LINES_MAX], important=True)
            return _outcome(stored, changes.notes, said)


async def _store(
    storage: Caller,
    owner_id: int,
    root_directory: str | None,
    changes: Changes,
    abort: Abort,
    *,
    last: bool,
) -> tuple[ManifestStored, list[str]]:
    """What is stored, and which files of the workspace changed meanwhile."""
    placed, deleted = resource_paths(changes, root_directory)
    if manifest_bytes(placed, deleted) > MANIFEST_BYTES_MAX:
        # It would be refused when all of them are there.
        text = (
            f"there are {len(placed):,} of them, and {MANIFEST_BYTES_MAX:,} bytes hold no list of so many; "
        )
        text += "leave some out with .spellignore or --no-save, or pack them into fewer"
        raise AttemptError(Reason.SAVE_FAILED, f"the files could not be saved: {text}")
    blobs: dict[str, Blob] = {}
    paths = sorted(placed)
    for start in range(0, len(paths), MISSING_BATCH):
        wanted = paths[start : start + MISSING_BATCH]
        batch = await _read_all({path: placed[path] for path in wanted}, abort)
        await _upload(storage, owner_id, batch, abort)
        blobs.update(batch)
    manifest = Manifest(
        entries=tuple(_entry(path, blobs[path]) for path in paths), deleted=tuple(sorted(deleted))
    )
    owner = {"owner_id": owner_id, "beyond": int(last)}
    # Storage answers when everything is on disk, which may take a while after a large upload.
    try:
        stored = await storage.call(
            "PUT", "/manifests", _STORED, params=owner, body=manifest, seconds=MANIFEST_SECONDS_MAX
        )
    except RefusedError as error:
        if error.code == BLOB_MISSING:
            # It has lost what it had, as a database does that ends hard. Here it still is, and is sent again.
            raise UnavailableError(error.code, error.message) from error
        raise
    return stored, [blob.found.path for blob in blobs.values() if blob.changed]


async def _upload(storage: Caller, owner_id: int, batch: dict[str, Blob], abort: Abort) -> None:
    """Bring the missing content of a batch to storage; `batch` is corrected where a file has changed meanwhile."""
    of_owner = {"owner_id": owner_id}
    body = {"digests": sorted({blob.sha256 for blob in batch.values()})}
    answer = await storage.call("POST", "/blobs/missing", _MISSING, params=of_owner, body=body)
    todo = {blob.sha256: path for path, blob in batch.items()}
    paths = [todo[digest] for digest in answer.missing]
    limit = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def one(path: str) -> None:
        async with limit:
            try:
                await _put(storage, owner_id, batch[path])
            except (ChangedError, RefusedError) as error:
                if isinstance(error, UnavailableError | FullError):
                    raise
                log.info("a file changed while it was saved", problem=repr(error))
                batch[path] = await _put_copy(storage, owner_id, batch[path].found, abort)

    async def together(pack: list[str]) -> None:
        try:
            async with limit:
                await _put_pack(storage, owner_id, [batch[path] for path in pack])
        except (ChangedError, RefusedError) as error:
            if isinstance(error, UnavailableError | FullError):
                raise
            # One of them is another by now: each by itself shows which.
            for path in pack:
                await one(path)

    packs, alone = _packed({path: batch[path] for path in paths})
    try:
        async with asyncio.TaskGroup() as group:
            for pack in packs:
                group.create_task(together(pack))
            for path in alone:
                group.create_task(one(path))
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    # What one of several of the same content was is not stored if that one has changed: the others bring it.
    lost = {digest for digest in answer.missing if batch[todo[digest]].sha256 != digest}
    for path in [path for path, blob in batch.items() if blob.sha256 in lost]:
        await one(path)


async def _put(storage: Caller, owner_id: int, blob: Blob) -> None:
    if blob.found.link is not None:
        await _send(storage, owner_id, blob, os.fsencode(blob.found.link))
    elif blob.size <= CHUNK_BYTES:
        await _send(storage, owner_id, blob, _small(blob))
    else:
        # Closed here: a request that was refused half-way would hold the file, and its room on the disk, for long.
        with os.fdopen(open_readable(blob.found.source), "rb", buffering=0) as file:
            await _send(storage, owner_id, blob, _chunks(file, blob.size))


def _packed(blobs: dict[str, Blob]) -> tuple[list[list[str]], list[str]]:
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


async def _put_pack(storage: Caller, owner_id: int, blobs: list[Blob]) -> None:
    data = await asyncio.to_thread(lambda: blob_packs.pack((blob.sha256, _small(blob)) for blob in blobs))
    headers = {"Content-Type": "application/octet-stream"}
    params = {"owner_id": owner_id}
    async with (
        asyncio.timeout(PUT_SECONDS_MAX + len(data) / PUT_BYTES_PER_SECOND_MIN),
        storage.open("POST", "/blobs/pack", params=params, data=data, headers=headers, stream=True),
    ):
        pass


async def _put_copy(storage: Caller, owner_id: int, found: Found, abort: Abort) -> Blob:
    """Read a file once more, into a copy of our own: whoever goes on to change it changes that no more."""
    # Beside it: there it takes room of the run's, and there is no name by which a run could find it.
    with tempfile.TemporaryFile(dir=os.path.dirname(found.source)) as copy:  # noqa: PTH120 -- plain strings
        blob = await asyncio.to_thread(_copy, found, copy, abort)
        copy.seek(0)
        with os.fdopen(os.dup(copy.fileno()), "rb", buffering=0) as file:
            await _send(storage, owner_id, blob, _chunks(file, blob.size))
    return blob


def _copy(found: Found, to: IO[bytes], abort: Abort) -> Blob:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(open_readable(found.source), "rb", buffering=0) as file:
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
    with os.fdopen(open_readable(blob.found.source), "rb") as file:
        data = file.read(blob.size)
    if len(data) != blob.size:
        raise ChangedError
    return data


async def _chunks(file: FileIO, left: int) -> AsyncIterator[bytes]:
    while left:
        chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
        if not chunk:
            raise ChangedError
        left -= len(chunk)
        yield chunk


async def _read_all(files: dict[str, Found], abort: Abort) -> dict[str, Blob]:
    """Digests are taken of several files at a time."""
    left = iter(files.items())

    def some() -> dict[str, Blob]:
        try:
            # Who is done with a file takes the next one: they may be of any size.
            return {path: _read(found, abort) for path, found in left}
        except BaseException:
            # The others end with the file that they have in hand.
            for _ in left:
                pass
            raise

    try:
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(asyncio.to_thread(some)) for _ in range(READERS)]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
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
    with os.fdopen(open_readable(found.source), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise OSError(f"{found.path} is no file any more")
        size = 0
        while chunk := file.read(CHUNK_BYTES):
            abort.check()
            digest.update(chunk)
            size += len(chunk)
        after = os.fstat(file.fileno())
    steady = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return Blob(found, digest.hexdigest(), size), steady


def _entry(path: str, blob: Blob) -> ManifestEntry:
    return ManifestEntry(
        path=path,
        size=blob.size,
        sha256=blob.sha256,
        mode=blob.found.mode,
        modified_at=datetime.fromtimestamp(blob.found.mtime_ns / 1e9, UTC),
        link=blob.found.link,
        changed=blob.changed,
    )
