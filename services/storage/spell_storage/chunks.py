"""Decides which bytes of a request continue which journal, and cuts them into chunks (pure).

Theory of operation
-------------------
A journal is a byte string that only grows; its attempt's machine holds the original. A *part* is a copy of
some range of it, made of whole records, and may arrive twice, late, overlapping or with a gap before it.
A *chunk* is a range that is stored. Two steps keep chunks contiguous whatever arrives:

1. `cut` takes the end that the journal is believed to have and makes chunks of what the parts hold from there
   on, stopping at the first gap, torn record or end marker. It may be slow, so it runs before any lock is held.
2. `accept` takes the state that the journal really has, under a lock, and keeps only chunks that begin exactly
   at its end. What does not fit is cut again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from spell_proto import checks
from spell_proto.errors import InvalidError
from spell_proto.journal import HEADER, PAYLOAD_BYTES_MAX, RecordKind
from spell_proto.views import JournalPart

#: Up to here a chunk is a row; above, an object with a row that names it.
INLINE_BYTES_MAX = 64 * 1024
#: A reader holds one chunk in memory, and looks at each record of the chunk where a tail begins. A record that
#: is longer by its header is a chunk of its own.
CHUNK_BYTES_MAX = 1 << 20

_HEADER_BYTES_MAX = 4096
_INT_MAX = 2**31 - 1
_OFFSET_MAX = 2**62
# Plain numbers: this is the inner loop of every append.
_STDOUT, _STDERR, _END = RecordKind.STDOUT.value, RecordKind.STDERR.value, RecordKind.END.value
_STORED_KINDS = frozenset(kind.value for kind in RecordKind if kind < RecordKind.STATE)
_PART: TypeAdapter[JournalPart] = TypeAdapter(JournalPart)


class JournalId(NamedTuple):
    """Which journal. Locks are taken in the order of these."""

    run_id: int
    attempt: int


class Part(NamedTuple):
    """A piece of a journal inside a request's body: `length` bytes from `begin`, whose place is `offset`."""

    journal: JournalId
    fence: int
    offset: int
    body: bytes
    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole records that stand together, and what they add to the journal's counts."""

    start: int
    data: bytes
    stdout_bytes: int
    stderr_bytes: int
    newlines: int
    seals: bool
    object_key: str | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True)
class JournalState:
    """A journal's row."""

    fence: int
    end: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    newlines: int = 0
    sealed: bool = False
    small_from: int = 0
    small_chunks: int = 0
    small_bytes: int = 0

    def with_chunk(self, chunk: Chunk) -> "JournalState":
        inline = chunk.object_key is None
        return replace(
            self,
            end=chunk.end,
            stdout_bytes=self.stdout_bytes + chunk.stdout_bytes,
            stderr_bytes=self.stderr_bytes + chunk.stderr_bytes,
            newlines=self.newlines + chunk.newlines,
            sealed=chunk.seals,
            small_chunks=self.small_chunks + inline,
            small_bytes=self.small_bytes + (len(chunk.data) if inline else 0),
        )


def read_parts(body: bytes) -> dict[JournalId, list[Part]]:
    """The parts of a request by journal, in the order of the request.

    Raises:
        InvalidError: the body is not a sequence of headers, each followed by its bytes.
    """
    parts: dict[JournalId, list[Part]] = {}
    position = 0
    while position < len(body):
        size = int.from_bytes(body[position : position + 4], "big")
        begin = position + 4 + size
        if size > _HEADER_BYTES_MAX or begin > len(body):
            raise _malformed(f"a header of {size} bytes at {position}")
        try:
            header = _PART.validate_json(body[position + 4 : begin])
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise _malformed(f"the header at {position}: {first['loc']}: {first['msg']}") from None
        position = begin + header.length
        if position > len(body) or not _sensible(header):
            raise _malformed(f"the part of run {header.run_id} at {header.offset} with {header.length} bytes")
        journal = JournalId(header.run_id, header.attempt)
        parts.setdefault(journal, []).append(
            Part(journal, header.fence, header.offset, body, begin, header.length)
        )
    return parts


def _malformed(what: str) -> InvalidError:
    return InvalidError("journal_request_invalid", f"body: {what} cannot be", field="body")


def _sensible(header: JournalPart) -> bool:
    return (
        1 <= header.run_id <= checks.RUN_ID_MAX
        and 0 <= header.attempt <= _INT_MAX
        and 0 <= header.fence <= _OFFSET_MAX
        and 0 <= header.offset <= _OFFSET_MAX
        and header.length >= 0
    )


@dataclass(slots=True)
class _Growing:
    """A chunk that more records may join."""

    start: int
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    newlines: int = 0

    def finished(self, *, seals: bool) -> Chunk:
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        return Chunk(self.start, data, self.stdout_bytes, self.stderr_bytes, self.newlines, seals)


class Cut(NamedTuple):
    """The chunks that continue a journal; `broken` is the offset of bytes that are no record, if some are."""

    chunks: list[Chunk]
    broken: int | None


def cut(parts: Iterable[Part], end: int) -> Cut:
    """Chunks of what `parts` hold of a journal from `end` on."""
    chunks: list[Chunk] = []
    growing = _Growing(end)
    for part in parts:
        skip = growing.start + growing.size - part.offset
        if not 0 <= skip < part.length:
            continue  # a gap before it, or nothing new in it
        growing, stop, broken = _take(part, part.begin + skip, growing, chunks)
        if stop:
            return Cut(chunks, broken)
    if growing.size:
        chunks.append(growing.finished(seals=False))
    return Cut(chunks, None)


def _take(
    part: Part, position: int, growing: _Growing, chunks: list[Chunk]
) -> tuple[_Growing, bool, int | None]:
    """Add the whole records of a part from `position` on. Says whether nothing may follow them."""
    body, limit = part.body, part.begin + part.length
    kept = position
    broken = None
    ended = False
    while not ended and position + HEADER.size <= limit:
        length, kind, _ = HEADER.unpack_from(body, position)
        payload = position + HEADER.size
        following = payload + length
        if kind not in _STORED_KINDS or length > PAYLOAD_BYTES_MAX:
            broken = part.offset + position - part.begin
            break
        if following > limit:
            break  # torn: the rest comes with a later request
        if growing.size + following - kept > CHUNK_BYTES_MAX and (growing.size or position > kept):
            _keep(growing, body[kept:position])
            chunks.append(growing.finished(seals=False))
            growing, kept = _Growing(growing.start + growing.size), position
        if kind == _STDOUT:
            growing.stdout_bytes += length
            growing.newlines += body.count(b"\n", payload, following)
        elif kind == _STDERR:
            growing.stderr_bytes += length
            growing.newlines += body.count(b"\n", payload, following)
        position = following
        ended = kind == _END
    _keep(growing, body[kept:position])
    stop = ended or broken is not None
    if stop and growing.size:
        chunks.append(growing.finished(seals=ended))
    return growing, stop, broken


def _keep(growing: _Growing, piece: bytes) -> None:
    if piece:
        growing.pieces.append(piece)
        growing.size += len(piece)


class Accepted(NamedTuple):
    """A journal's state after some chunks, and those chunks with the state before each."""

    state: JournalState
    stored: list[tuple[JournalState, Chunk]]


def accept(state: JournalState, fence: int, chunks: Sequence[Chunk]) -> Accepted:
    """Which of `chunks` continue a journal in `state`: none for a lower fence, none after an end marker."""
    stored: list[tuple[JournalState, Chunk]] = []
    if fence < state.fence:
        return Accepted(state, stored)
    for chunk in chunks:
        if state.sealed or chunk.start != state.end:
            break
        stored.append((state, chunk))
        state = state.with_chunk(chunk)
    return Accepted(state, stored)
