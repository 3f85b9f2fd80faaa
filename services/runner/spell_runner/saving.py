"""Brings what a run has made into storage: digests, then the blobs that are missing, then the manifest (shell)."""

import asyncio
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import aiohttp
from pydantic import TypeAdapter

from spell_proto import logs
from spell_proto.errors import FullError, RefusedError, UnavailableError
from spell_proto.events import OutputsSaved
from spell_proto.http import Caller
from spell_proto.shapes import Shape
from spell_proto.state import Reason
from spell_proto.views import MANIFEST_BYTES_MAX, Manifest, ManifestEntry, ManifestStored
from spell_runner import sending
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes, shortened
from spell_runner.outputs import Changes, Found, manifest_bytes, resource_paths
from spell_runner.sending import Blob
from spell_runner.workspace import Abort, open_readable

log = logs.get()

LINES_MAX = 1_000
#: As many files are brought to storage together, fewer if they have more bytes than this.
BATCH_FILES_MAX = 1_000
BATCH_BYTES = 256 << 20
UPLOADS_AT_ONCE = 4
#: Files that are read at the same time for their digests.
READERS = 2
_READ_BYTES = 256 << 10
RETRY_SECONDS_MAX = 5.0
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
    blobs = await _brought(storage, owner_id, placed, abort)
    manifest = Manifest(
        entries=tuple(_entry(path, blobs[path]) for path in sorted(placed)), deleted=tuple(sorted(deleted))
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


async def _brought(
    storage: Caller, owner_id: int, placed: Mapping[str, Found], abort: Abort
) -> dict[str, Blob]:
    """All files, once their contents are in storage. While some are on their way, digests are taken of the next."""
    blobs: dict[str, Blob] = {}
    read: asyncio.Queue[dict[str, Blob] | None] = asyncio.Queue(maxsize=1)

    async def reading() -> None:
        for wanted in batches(placed):
            await read.put(await _read_all(wanted, abort))
        await read.put(None)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(reading())
            while (batch := await read.get()) is not None:
                await _upload(storage, owner_id, batch, abort)
                blobs.update(batch)
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return blobs


def batches(placed: Mapping[str, Found]) -> Iterator[dict[str, Found]]:
    """Files by path, some at a time, in the order of their paths (pure)."""
    batch: dict[str, Found] = {}
    size = 0
    for path in sorted(placed):
        batch[path] = placed[path]
        size += placed[path].size
        if len(batch) == BATCH_FILES_MAX or size >= BATCH_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


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
                await sending.put(storage, owner_id, batch[path])
            except (sending.ChangedError, RefusedError) as error:
                if isinstance(error, UnavailableError | FullError):
                    raise
                log.info("a file changed while it was saved", problem=repr(error))
                batch[path] = await sending.put_copy(storage, owner_id, batch[path].found, abort)

    async def together(pack: list[str]) -> None:
        try:
            async with limit:
                await sending.put_pack(storage, owner_id, [batch[path] for path in pack])
        except (sending.ChangedError, RefusedError) as error:
            if isinstance(error, UnavailableError | FullError):
                raise
            # One of them is another by now: each by itself shows which.
            for path in pack:
                await one(path)

    packs, alone = sending.packed({path: batch[path] for path in paths})
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


async def _read_all(files: dict[str, Found], abort: Abort) -> dict[str, Blob]:
    """Digests are taken of several files at a time."""
    left = iter(files.items())

    def some() -> dict[str, Blob]:
        # Who is done with a file takes the next one: they may be of any size.
        return {path: _read(found, abort) for path, found in left}

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
    with os.fdopen(open_readable(found.source), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise OSError(f"{found.path} is no file any more")
        size = 0
        while chunk := file.read(_READ_BYTES):
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
