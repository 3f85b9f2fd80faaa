"""Brings what a run has made into storage: digests, then the blobs that are missing, then the manifest (shell)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from spell_runner import reading, sending, taking
from spell_runner.errors import SHORT, AttemptError, problem
from spell_runner.notes import Notes, shortened
from spell_runner.outputs import Changes, Found, manifest_bytes, resource_paths, said_of_deleted
from spell_runner.reading import Blob, ChangedError, Course, LeftOutError
from spell_runner.workspace import Abort

log = logs.get()

LINES_MAX = 1_000
#: As many files are brought to storage together, fewer if they have more bytes than this.
BATCH_FILES_MAX = 1_000
BATCH_BYTES = 256 << 20
UPLOADS_AT_ONCE = 4
RETRY_SECONDS_MAX = 5.0
MANIFEST_SECONDS_MAX = 600.0
SAY_AFTER_SECONDS = 3.0
#: How often the log says how far a save is.
PROGRESS_SECONDS = 2.0
#: How long a full disk of storage is waited for: other runs end meanwhile, and what they took becomes free.
FULL_SECONDS_MAX = 20.0
FULL_AGAIN_SECONDS = 1.0
#: Its owner has as many saved files as he may.
QUOTA_EXCEEDED = "quota_exceeded"
#: Storage does not have a file that a manifest names.
BLOB_MISSING = "blob_missing"
#: What a time can be written down as: a run may give a file any other.
_TIME_MIN, _TIME_MAX = (
    datetime(1, 1, 1, tzinfo=UTC).timestamp(),
    datetime(9999, 12, 31, tzinfo=UTC).timestamp(),
)
NOTHING = "No modified or new files found"
SCANNING = "Scanning for modified or new files from the run"


class Missing(Shape):
    missing: tuple[str, ...]


_MISSING: TypeAdapter[Missing] = TypeAdapter(Missing)
_STORED: TypeAdapter[ManifestStored] = TypeAdapter(ManifestStored)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What came of everything that was found: lines for what was left out, and paths of what changed meanwhile. There is no
    manifest where all of it was left out.
    """

    manifest: ManifestStored | None
    left_out: list[str]
    changed: list[str]


def nothing(left_out: Sequence[str] = (), gone: Sequence[str] = ()) -> OutputsSaved:
    """What is reported when there is nothing to save."""
    notes = (*shortened(left_out), *gone)
    return OutputsSaved(at=datetime.now(UTC), manifest=None, files=0, bytes=0, notes=notes)


def _outcome(
    stored: ManifestStored, left_out: Sequence[str], gone: Sequence[str], changed: Sequence[str]
) -> OutputsSaved:
    return OutputsSaved(
        at=datetime.now(UTC),
        manifest=stored.digest,
        files=stored.files,
        bytes=stored.bytes,
        changed=len(changed),
        notes=(*shortened(left_out), *gone, *shortened(changed)),
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
    gone = said_of_deleted(changes, root_directory)
    notes.lines(gone)
    if not changes.found:
        if not changes.notes:
            notes.line(NOTHING)
        return nothing(changes.notes, gone)
    lines = [f"Saving '/spell/{found.path}'" for found in changes.found[:LINES_MAX]]
    if len(changes.found) > LINES_MAX:
        lines.append(f"Saving {len(changes.found) - LINES_MAX} more files")
    notes.lines(lines)
    course = Course(sum(found.size for found in changes.found))
    pause, waited, full = 0.2, 0.0, 0.0
    while True:
        try:
            async with _telling(course, notes):
                stored = await _store(storage, owner_id, root_directory, changes, course, abort, last=last)
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
        except RefusedError as error:
            reason = Reason.DISK_QUOTA if error.code == QUOTA_EXCEEDED else Reason.SAVE_FAILED
            raise AttemptError(reason, f"the files could not be saved: {error}") from error
        except OSError as error:
            raise failed(error, "saved") from error
        else:
            return _told(stored, changes, gone, notes, last=last)


@contextlib.asynccontextmanager
async def _telling(course: Course, notes: Notes) -> AsyncIterator[None]:
    """Say now and then how far it is."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            notes.line(f"Saving: {course}")

    telling = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        telling.cancel()


def failed(error: OSError, done: str) -> Exception:
    """What an error ends a save with that is about no file; one of those that pass has it tried again."""
    if error.errno in SHORT:
        return error
    return AttemptError(Reason.SAVE_FAILED, f"the files could not be {done}: {problem(error)}")


def _told(
    stored: _Stored, changes: Changes, gone: Sequence[str], notes: Notes, *, last: bool
) -> OutputsSaved:
    """Say what came of it."""
    notes.lines(stored.left_out[:LINES_MAX], important=True)
    left_out = [*changes.notes, *stored.left_out]
    if stored.manifest is None:
        return nothing(left_out, gone)
    if last and stored.manifest.full is not None:
        notes.line(f"Saved; nothing new can begin: {stored.manifest.full}", important=True)
    said = [f"'/spell/{path}' changed during save" for path in stored.changed]
    notes.lines(said[:LINES_MAX], important=True)
    return _outcome(stored.manifest, left_out, gone, said)


async def _store(
    storage: Caller,
    owner_id: int,
    root_directory: str | None,
    changes: Changes,
    course: Course,
    abort: Abort,
    *,
    last: bool,
) -> _Stored:
    placed, deleted = resource_paths(changes, root_directory)
    if manifest_bytes(placed, deleted) > MANIFEST_BYTES_MAX:
        # It would be refused when all of them are there.
        text = (
            f"there are {len(placed):,} of them, and {MANIFEST_BYTES_MAX:,} bytes hold no list of so many; "
        )
        text += "leave some out with .spellignore or --no-save, or pack them into fewer"
        raise AttemptError(Reason.SAVE_FAILED, f"the files could not be saved: {text}")
    course.begin()
    blobs = await _brought(storage, owner_id, placed, course, abort)
    left_out = sorted(course.left_out)
    if not blobs:
        return _Stored(None, left_out, [])
    entries = tuple(_entry(path, blobs[path]) for path in sorted(blobs))
    manifest = Manifest(entries=entries, deleted=tuple(sorted(deleted)))
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
    return _Stored(stored, left_out, [blob.found.path for blob in blobs.values() if blob.changed])


async def _brought(
    storage: Caller, owner_id: int, placed: Mapping[str, Found], course: Course, abort: Abort
) -> dict[str, Blob]:
    """All files that can be read, once their contents are in storage. While some are on their way, digests are taken of the
    next; storage itself takes those of large ones that are new to it.
    """
    blobs: dict[str, Blob] = {}
    new = await taking.new(storage, owner_id, placed)
    rest = {path: found for path, found in placed.items() if path not in new}
    read: asyncio.Queue[dict[str, Blob] | None] = asyncio.Queue(maxsize=1)

    async def read_them(task: asyncio.Task[dict[str, Blob | None]]) -> None:
        for wanted in batches(rest):
            await read.put(await reading.read_all(wanted, course, abort))
        taken = await task
        blobs.update({path: blob for path, blob in taken.items() if blob is not None})
        for wanted in batches({path: new[path] for path, blob in taken.items() if blob is None}):
            await read.put(await reading.read_all(wanted, course, abort))
        await read.put(None)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                read_them(group.create_task(taking.taken(storage, owner_id, new, course, abort)))
            )
            while (batch := await read.get()) is not None:
                await _upload(storage, owner_id, batch, course, abort)
                blobs.update(batch)
    except ExceptionGroup as several:
        raise _first(several) from None
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


async def _upload(
    storage: Caller, owner_id: int, batch: dict[str, Blob], course: Course, abort: Abort
) -> None:
    """Bring the missing content of a batch to storage; `batch` is corrected where a file has changed meanwhile, or cannot be
    read any more.
    """
    of_owner = {"owner_id": owner_id}
    body = {"digests": sorted({blob.sha256 for blob in batch.values()})}
    answer = await storage.call("POST", "/blobs/missing", _MISSING, params=of_owner, body=body)
    todo = {blob.sha256: path for path, blob in batch.items()}
    paths = [todo[digest] for digest in answer.missing]
    to_send = set(paths)
    course.sent(sum(blob.size for path, blob in batch.items() if path not in to_send))
    limit = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def one(path: str) -> None:
        async with limit:
            try:
                await sending.put(storage, owner_id, batch[path], course.sent)
            except (ChangedError, RefusedError) as error:
                if isinstance(error, UnavailableError | FullError):
                    raise
                log.info("a file changed while it was saved", problem=repr(error))
                await again(path)
            except LeftOutError as error:
                course.left_out.append(reading.line(batch.pop(path).found, error))

    async def again(path: str) -> None:
        try:
            batch[path] = await sending.put_copy(storage, owner_id, batch[path].found, abort)
        except LeftOutError as error:
            course.left_out.append(reading.line(batch.pop(path).found, error))

    async def together(pack: list[str]) -> None:
        try:
            async with limit:
                await sending.put_pack(storage, owner_id, [batch[path] for path in pack])
            course.sent(sum(batch[path].size for path in pack))
        except (ChangedError, LeftOutError, RefusedError) as error:
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
    come = {digest for digest in answer.missing if (at := batch.get(todo[digest])) and at.sha256 == digest}
    lost = set(answer.missing) - come
    for path in [path for path, blob in batch.items() if blob.sha256 in lost]:
        await one(path)


def _first(several: ExceptionGroup[Exception]) -> Exception:
    """One of what went wrong, groups in groups looked into."""
    first = several.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _entry(path: str, blob: Blob) -> ManifestEntry:
    return ManifestEntry(
        path=path,
        size=blob.size,
        sha256=blob.sha256,
        mode=blob.found.mode,
        modified_at=_time(blob.found.mtime_ns),
        link=blob.found.link,
        changed=blob.changed,
    )


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(min(max(ns / 1e9, _TIME_MIN), _TIME_MAX), UTC)
