"""Checks what is stored against what was said of it: journals (I13) and saved files (I11)."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spell_proto import database
from spell_proto.errors import GoneError, NotFoundError
from spell_proto.journal import Decoder, Record, RecordKind
from spell_proto.views import Check, ManifestEntry
from spell_storage.blobs import Blobs
from spell_storage.chunks import JournalId
from spell_storage.journals import BrokenJournalError, Journals
from spell_storage.manifests import MANIFEST

_SQL = database.queries("spell_storage", "verify.sql")
#: Offenders that a check names.
_NAMED_MAX = 5


@dataclass(slots=True)
class _Replay:
    """What a journal's records add up to, told again from its bytes."""

    journal_bytes: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    gaps: int = 0
    end: dict[str, object] | None = None
    records: int = 0
    after_end: int = 0
    hashing: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, records: list[Record]) -> None:
        for record in records:
            self.records += 1
            self.after_end += self.end is not None
            match record.kind:
                case RecordKind.STDOUT:
                    self.stdout_bytes += len(record.payload)
                    self.hashing.update(record.payload)
                case RecordKind.STDERR:
                    self.stderr_bytes += len(record.payload)
                    self.hashing.update(record.payload)
                case RecordKind.GAP:
                    self.gaps += 1
                case RecordKind.END:
                    self.end = record.json()
                case _:
                    pass

    def found(self) -> dict[str, object]:
        return {
            "journal_bytes": self.journal_bytes,
            "stdout_bytes": self.stdout_bytes,
            "stderr_bytes": self.stderr_bytes,
            "sha256": self.hashing.hexdigest(),
        }


async def journal(journals: Journals, which: JournalId, expected: Mapping[str, object]) -> Check:
    """I13: chunks follow each other from 0 to the end, the journal is sealed, and its bytes add up to what its end
    marker and `expected` say.
    """
    problems: list[str] = []
    state = await journals.find(which)
    shape = await journals.pool.fetchrow(_SQL["journal_shape"], *which)
    assert shape is not None
    if state is None:
        problems.append("there is no journal")
    else:
        if not state.sealed:
            problems.append("it has no end marker")
        if shape["gaps"] or shape["covered"] != state.end:
            problems.append(
                f"its chunks leave {shape['gaps']} gaps and cover {shape['covered']} of {state.end} bytes"
            )
    replay = await _replay(journals, which, problems)
    found = replay.found()
    if state is not None:
        stored = {"stdout_bytes": state.stdout_bytes, "stderr_bytes": state.stderr_bytes}
        problems += _differences("the index", stored, found)
    if replay.end is not None:
        said = {name: replay.end.get(name) for name in ("stdout_bytes", "stderr_bytes", "sha256")}
        problems += _differences("the end marker", said, found)
        if bool(replay.end.get("dropped_bytes")) != bool(replay.gaps):
            problems.append(
                f"{replay.end.get('dropped_bytes')} bytes were dropped and {replay.gaps} gaps noted"
            )
    if replay.after_end:
        problems.append(f"{replay.after_end} records follow its end marker")
    if "dropped_bytes" in expected:
        found["dropped_bytes"] = (replay.end or {}).get("dropped_bytes")
    problems += _differences("the run", expected, found)
    return Check(
        id="I13",
        title="The log is whole: contiguous, sealed, and as long and with the hash that were recorded",
        ok=not problems,
        checked=replay.records,
        detail="; ".join(problems[:_NAMED_MAX]),
    )


async def _replay(journals: Journals, which: JournalId, problems: list[str]) -> _Replay:
    replay = _Replay()
    decoder = Decoder()
    try:
        async for piece in journals.bytes_from(which, 0, 2**62):
            replay.journal_bytes += len(piece)
            replay.add(await asyncio.to_thread(decoder.feed, piece))
    except (ValueError, FileNotFoundError, BrokenJournalError) as error:
        problems.append(f"its bytes cannot be read from {replay.journal_bytes} on: {error}")
    return replay


def _differences(who: str, said: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    return [
        f"{who} says {name} {value}, the bytes say {found[name]}"
        for name, value in said.items()
        if value != found[name]
    ]


async def manifests(blobs: Blobs, owner_id: int, digests: Sequence[str]) -> list[Check]:
    """I11 of each of some manifests. What several of them name is read once."""
    known: dict[tuple[str, int], str | None] = {}
    return [await _manifest(blobs, owner_id, digest, known) for digest in digests]


async def _manifest(
    blobs: Blobs, owner_id: int, digest: str, known: dict[tuple[str, int], str | None]
) -> Check:
    """I11: the manifest is there, and every blob it names is there with the content it names. What is `known` of blobs
    is not looked at again.
    """
    problems: list[str] = []
    files: list[ManifestEntry] = []
    try:
        data = await blobs.manifest(owner_id, digest)
        if hashlib.sha256(data).hexdigest() != digest:
            problems.append("the manifest is not what its digest says")
        files = [entry for entry in MANIFEST.validate_json(data).entries if entry.link is None]
    except (NotFoundError, GoneError, ValueError) as error:
        problems.append(f"the manifest cannot be read: {error}")
    for entry in files:
        blob = (entry.sha256, entry.size)
        if blob not in known:
            known[blob] = await _blob_problem(blobs, owner_id, entry)
        problem = known[blob]
        if problem:
            problems.append(f"{entry.path}: {problem}")
    more = len(problems) - _NAMED_MAX
    return Check(
        id="I11",
        title="The saved files are whole: the manifest and every blob in it have their digest",
        ok=not problems,
        checked=len(files),
        detail="; ".join(problems[:_NAMED_MAX]) + (f"; and {more} more" if more > 0 else ""),
    )


async def _blob_problem(blobs: Blobs, owner_id: int, entry: ManifestEntry) -> str | None:
    hashing = hashlib.sha256()
    try:
        blob = await blobs.find(owner_id, entry.sha256)
        if blob.size != entry.size:
            return f"the blob has {blob.size} bytes, the manifest says {entry.size}"
        async for piece in blobs.stream(blob, 0, blob.size):
            hashing.update(piece)
    except NotFoundError:
        return "the blob is missing"
    except GoneError:
        return "the blob is damaged or lost"
    return None if hashing.hexdigest() == entry.sha256 else "the blob has other content"
