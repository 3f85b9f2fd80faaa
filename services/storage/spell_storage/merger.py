"""Merges the small chunks of long journals into larger ones, so that reading stays as cheap as writing was."""

import asyncio
from collections.abc import Sequence

from spell_proto import database, logs
from spell_storage.chunks import CHUNK_BYTES_MAX, INLINE_BYTES_MAX, JournalId, JournalState
from spell_storage.journals import Journals, StoredChunk

log = logs.get()

#: A journal is merged when this many small chunks, or bytes of them, have come together.
SMALL_CHUNKS_MAX = 256
SMALL_BYTES_MAX = 1 << 20
#: Journals that wait. One that finds no room comes back with its next chunk.
_WAITING_MAX = 1024

_SQL = database.queries("spell_storage", "journals.sql")


class Merger:
    """Takes note of journals with many small chunks, and merges them in its own time. `run` must be running."""

    def __init__(self, journals: Journals) -> None:
        self._journals = journals
        self._waiting: asyncio.Queue[JournalId | None] = asyncio.Queue(_WAITING_MAX)
        self._noted: set[JournalId] = set()

    def consider(self, journal: JournalId, state: JournalState) -> None:
        """Take note of a journal that has grown."""
        if state.small_chunks < SMALL_CHUNKS_MAX and state.small_bytes < SMALL_BYTES_MAX:
            return
        if journal not in self._noted and not self._waiting.full():
            self._noted.add(journal)
            self._waiting.put_nowait(journal)

    async def run(self) -> None:
        """Merge what was noted, until `close`."""
        while (journal := await self._waiting.get()) is not None:
            self._noted.discard(journal)
            try:
                await self.merge(journal)
            except Exception as error:  # noqa: BLE001 -- the next chunk of this journal brings it back
                log.warning("chunks were not merged", **journal._asdict(), problem=repr(error))

    def close(self) -> None:
        """Let `run` end after the journal in hand."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def merge(self, journal: JournalId) -> None:
        """Replace runs of small chunks by one chunk each. What is read meanwhile stays the same bytes."""
        state = await self._journals.find(journal)
        if state is None:
            return
        small_from = state.small_from
        together: list[StoredChunk] = []
        size = 0
        async for chunk in self._journals.chunks_from(journal, small_from):
            if chunk.data is None or size + chunk.length > CHUNK_BYTES_MAX:
                if together and not await self._replace(journal, small_from, together):
                    return
                small_from = chunk.start if together else small_from
                together, size = [], 0
            if chunk.data is not None:
                together.append(chunk)
                size += chunk.length
        if together:
            await self._replace(journal, small_from, together)

    async def _replace(self, journal: JournalId, small_from: int, together: Sequence[StoredChunk]) -> bool:
        """Replace chunks that follow each other by one; False when somebody else has been here."""
        first, last = together[0], together[-1]
        end = last.start + last.length
        data = b"".join(chunk.data for chunk in together if chunk.data is not None)
        key = None
        if len(data) > INLINE_BYTES_MAX:
            key = f"journals/{journal.run_id}/{journal.attempt}/{first.start}-{end}"
            await self._journals.objects.put(key, data, synced=True)
        async with self._journals.pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(_SQL["lock_small_from"], *journal) != small_from:
                return False
            await connection.execute(_SQL["delete_chunks"], *journal, first.start, end)
            await connection.execute(
                _SQL["insert_merged"],
                *journal,
                first.start,
                len(data),
                first.stdout_before,
                first.stderr_before,
                first.newlines_before,
                sum(chunk.stdout_bytes for chunk in together),
                sum(chunk.stderr_bytes for chunk in together),
                data if key is None else None,
                key,
            )
            await connection.execute(_SQL["merged_until"], *journal, end, len(together), len(data))
        return True
