"""Journals in the database: commit chunks, find them, read them back (shell; the rules are in `chunks`)."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from spell_proto import database
from spell_proto.errors import SpellError
from spell_proto.journal import HEADER, OUTPUT, RecordKind
from spell_storage.chunks import Accepted, Chunk, JournalId, JournalState, accept
from spell_storage.objects import Objects

_SQL = database.queries("spell_storage", "journals.sql")
#: Rows of one read; the inline ones among them hold at most 64 KiB each.
_ROWS_AT_ONCE = 64
#: Bounds the wait for a connection when the database is busy or away.
_ACQUIRE_SECONDS_MAX = 10.0

Stream = Literal["stdout", "stderr", "all"]
# Plain numbers: telling them apart is the inner loop of reading output.
_KINDS: dict[Stream, frozenset[int]] = {
    "stdout": frozenset({RecordKind.STDOUT.value}),
    "stderr": frozenset({RecordKind.STDERR.value}),
    "all": frozenset(kind.value for kind in OUTPUT),
}


@dataclass(frozen=True, slots=True)
class Write:
    """What one request wants to add to one journal."""

    journal: JournalId
    fence: int
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it stands in the database; `data` is None when the bytes are an object."""

    start: int
    length: int
    stdout_before: int
    stderr_before: int
    newlines_before: int
    stdout_bytes: int
    stderr_bytes: int
    data: bytes | None
    object_key: str | None

    def output_before(self, stream: Stream) -> int:
        """How many bytes of a stream stand in front of this chunk."""
        if stream == "all":
            return self.stdout_before + self.stderr_before
        return self.stdout_before if stream == "stdout" else self.stderr_before


class BrokenJournalError(SpellError):
    """A journal lacks bytes that it once had."""


class Journals:
    """The tables `journals` and `chunks`."""

    def __init__(self, pool: asyncpg.Pool, objects: Objects) -> None:
        self.pool = pool
        self.objects = objects

    async def commit(self, writes: Sequence[Write]) -> dict[JournalId, JournalState]:
        """Add to journals, all in one transaction, and say what state each is in now."""
        fences: dict[JournalId, int] = {}
        for write in writes:
            fences[write.journal] = max(write.fence, fences.get(write.journal, 0))
        async with self.pool.acquire(timeout=_ACQUIRE_SECONDS_MAX) as connection, connection.transaction():
            rows = await connection.fetch(
                _SQL["lock_journals"],
                [journal.run_id for journal in fences],
                [journal.attempt for journal in fences],
                list(fences.values()),
            )
            states = {JournalId(row[0], row[1]): JournalState(*row[2:]) for row in map(tuple, rows)}
            accepted: list[tuple[JournalId, Accepted]] = []
            for write in writes:
                outcome = accept(states[write.journal], write.fence, write.chunks)
                states[write.journal] = outcome.state
                accepted.append((write.journal, outcome))
            if any(outcome.stored for _, outcome in accepted):
                await connection.execute(_SQL["store_chunks"], *_columns(accepted, states))
        return states

    async def find(self, journal: JournalId) -> JournalState | None:
        row = await self.pool.fetchrow(_SQL["find_journal"], *journal, timeout=_ACQUIRE_SECONDS_MAX)
        return JournalState(*row) if row else None

    async def chunks_from(
        self, journal: JournalId, offset: int, stream: Stream | None = None
    ) -> AsyncIterator[StoredChunk]:
        """Chunks from the one that holds `offset` on; with `stream`, those with output of it."""
        while True:
            rows = await self.pool.fetch(_SQL["chunks_from"], *journal, offset, stream or "", _ROWS_AT_ONCE)
            for row in rows:
                chunk = StoredChunk(*row)
                yield chunk
                offset = chunk.start + chunk.length
            if len(rows) < _ROWS_AT_ONCE:
                return

    async def bytes_of(self, chunk: StoredChunk) -> bytes:
        """The bytes of a chunk, wherever they lie."""
        if chunk.data is not None:
            return chunk.data
        assert chunk.object_key is not None
        return await self.objects.get(chunk.object_key)

    async def bytes_from(self, journal: JournalId, offset: int, limit: int) -> AsyncGenerator[bytes, None]:
        """The journal's bytes from `offset` to its end, at most `limit`, a chunk at a time.

        Raises:
            BrokenJournalError: bytes are missing in between.
        """
        async for chunk in self.chunks_from(journal, offset):
            if chunk.start > offset:
                raise BrokenJournalError(f"{journal} lacks the bytes from {offset} to {chunk.start}")
            data = await self.bytes_of(chunk)
            skip = max(0, offset - chunk.start)
            piece = data[skip : skip + limit]
            offset += len(piece)
            limit -= len(piece)
            yield piece
            if limit <= 0:
                return

    async def output(
        self, journal: JournalId, stream: Stream, first: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        """The output bytes `first` to `first + length` of a stream, which the journal is known to have."""
        start = await self.pool.fetchval(_SQL["chunk_of_output"], *journal, first, stream)
        if start is None:
            return
        async for chunk in self.chunks_from(journal, start, stream):
            if length <= 0:
                return
            data = await self.bytes_of(chunk)
            skip = max(0, first - chunk.output_before(stream))
            piece = payloads(data, _KINDS[stream])[skip : skip + length]
            first += len(piece)
            length -= len(piece)
            yield piece

    async def tail(self, journal: JournalId, lines: int) -> int:
        """The offset of a record from which at least the last `lines` lines of output follow."""
        state = await self.find(journal)
        if state is None or state.newlines <= lines:
            return 0
        # Whatever stands behind this newline is wanted: `lines` whole lines, and one more that is not ended.
        newline = state.newlines - lines
        start = await self.pool.fetchval(_SQL["chunk_of_newline"], *journal, newline)
        async for chunk in self.chunks_from(journal, start):
            return chunk.start + behind_newline(await self.bytes_of(chunk), newline - chunk.newlines_before)
        raise AssertionError(f"the newline {newline} of {journal} was counted and is in no chunk")


def payloads(data: bytes, kinds: frozenset[int]) -> bytes:
    """The payloads of a chunk's records of some kinds, joined."""
    found: list[bytes] = []
    position = 0
    size = len(data)
    while position < size:
        length, kind, _ = HEADER.unpack_from(data, position)
        begin = position + HEADER.size
        position = begin + length
        if kind in kinds:
            found.append(data[begin:position])
    return b"".join(found)


def behind_newline(data: bytes, number: int) -> int:
    """Where in a chunk the record begins that holds what follows the newline `number` (from 1) of its output."""
    kinds = _KINDS["all"]
    position = 0
    while position < len(data):
        length, kind, _ = HEADER.unpack_from(data, position)
        begin, end = position + HEADER.size, position + HEADER.size + length
        if kind in kinds:
            number -= data.count(b"\n", begin, end)
            if number <= 0:
                # Nothing of the line before it is shown when the record ends with exactly this newline.
                return end if number == 0 and data[end - 1] == 0x0A else position
        position = end
    return position


def _columns(
    accepted: Sequence[tuple[JournalId, Accepted]], states: dict[JournalId, JournalState]
) -> list[list[Any]]:
    """The parameters of `store_chunks`: a column of chunks each, then a column of journals each."""
    chunks = [
        (
            journal.run_id,
            journal.attempt,
            chunk.start,
            len(chunk.data),
            before.stdout_bytes,
            before.stderr_bytes,
            before.newlines,
            chunk.stdout_bytes,
            chunk.stderr_bytes,
            chunk.data if chunk.object_key is None else None,
            chunk.object_key,
        )
        for journal, outcome in accepted
        for before, chunk in outcome.stored
    ]
    changed = dict.fromkeys(journal for journal, outcome in accepted if outcome.stored)
    journals = [
        (
            *journal,
            state.end,
            state.stdout_bytes,
            state.stderr_bytes,
            state.newlines,
            state.sealed,
            state.small_chunks,
            state.small_bytes,
        )
        for journal in changed
        for state in (states[journal],)
    ]
    return [list(column) for column in (*zip(*chunks, strict=True), *zip(*journals, strict=True))]
