"""Appends to journals: one transaction at a time, each with everything that has arrived since the last one.

Theory of operation
-------------------
A commit costs a disk flush and four round trips, whether it holds one journal or a hundred. So requests do not
commit themselves: they wait in a queue, and a single task takes all that wait into its next transaction. Nobody
waits for a timer: an idle queue means that the next request commits at once.

What is slow happens before that, in the request: cutting parts into chunks and putting large chunks into the
object store, both for the end that the journal is believed to have. When the lock shows another end (another
copy of the bytes was faster), the request cuts again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spell_proto import logs
from spell_proto.errors import UnavailableError
from spell_storage.chunks import INLINE_BYTES_MAX, Chunk, JournalId, JournalState, Part, cut
from spell_storage.journals import Journals, Write

log = logs.get()

#: Requests in one transaction, and requests that may wait for one.
BATCH_REQUESTS_MAX = 256
WAITING_REQUESTS_MAX = 2048
#: How often a request cuts again before it leaves the rest to the sender.
ROUNDS_MAX = 4
#: Journals whose end is remembered, so that resent large parts are not uploaded again.
_KNOWN_ENDS_MAX = 10_000
#: Bodies above this are cut in a thread: counting lines of megabytes would hold up everybody else.
_CUT_IN_LOOP_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Waiting:
    writes: Sequence[Write]
    done: asyncio.Future[dict[JournalId, JournalState]]


class Appender:
    """The way into journals. `run` must be running."""

    def __init__(
        self, journals: Journals, appended: Callable[[JournalId, JournalState], None] | None = None
    ) -> None:
        self._journals = journals
        self._appended = appended
        self._waiting: asyncio.Queue[_Waiting | None] = asyncio.Queue(WAITING_REQUESTS_MAX)
        self._ends: OrderedDict[JournalId, int] = OrderedDict()

    async def append(self, parts: dict[JournalId, list[Part]]) -> dict[JournalId, JournalState]:
        """Store what continues each journal; durable when this returns. Says what state each one is in.

        Raises:
            UnavailableError: too much waits to be stored already, or the object store does not answer.
        """
        states: dict[JournalId, JournalState] = {}
        left = {journal: _newest_fence(pieces) for journal, pieces in parts.items()}
        for _ in range(ROUNDS_MAX):
            writes = [await self._prepare(journal, pieces, states) for journal, pieces in left.items()]
            if states:
                writes = [write for write in writes if write.chunks]
            if not writes:
                break
            states |= await self._commit(writes)
            left = {write.journal: left[write.journal] for write in writes if _fell_short(write, states)}
        return states

    async def run(self) -> None:
        """Commit what waits, until `close`."""
        closing = False
        while not closing:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH_REQUESTS_MAX and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            closing = None in batch
            await self._commit_batch([item for item in batch if item is not None])

    async def close(self) -> None:
        """Let `run` end once everything that waits is stored."""
        await self._waiting.put(None)

    async def _prepare(
        self, journal: JournalId, parts: Sequence[Part], states: dict[JournalId, JournalState]
    ) -> Write:
        size = sum(part.length for part in parts)
        if journal in states:
            end = states[journal].end
        elif journal in self._ends:
            end = self._ends[journal]
        elif size > INLINE_BYTES_MAX and parts[0].offset > 0:
            state = await self._journals.find(journal)
            end = state.end if state else 0
        else:
            end = parts[0].offset
        if size > _CUT_IN_LOOP_BYTES_MAX:
            pieces = await asyncio.to_thread(cut, parts, end)
        else:
            pieces = cut(parts, end)
        if pieces.broken is not None:
            log.warning("a journal holds bytes that are no record", **journal._asdict(), offset=pieces.broken)
        fence = parts[0].fence
        if all(len(chunk.data) <= INLINE_BYTES_MAX for chunk in pieces.chunks):
            return Write(journal, fence, pieces.chunks)
        try:
            async with asyncio.TaskGroup() as tasks:
                placing = [tasks.create_task(self._placed(journal, fence, chunk)) for chunk in pieces.chunks]
        except* UnavailableError as errors:
            raise UnavailableError("unavailable", str(errors.exceptions[0])) from errors
        return Write(journal, fence, [task.result() for task in placing])

    async def _placed(self, journal: JournalId, fence: int, chunk: Chunk) -> Chunk:
        """The chunk with its bytes in the object store, if it is a large one."""
        if len(chunk.data) <= INLINE_BYTES_MAX:
            return chunk
        # One sender (one fence) has one text for one range: writing the same object twice changes nothing.
        key = f"journals/{journal.run_id}/{journal.attempt}/{chunk.start}-{chunk.end}-{fence}"
        await self._journals.objects.put(key, chunk.data, synced=True)
        return replace(chunk, object_key=key)

    async def _commit(self, writes: Sequence[Write]) -> dict[JournalId, JournalState]:
        waiting = _Waiting(writes, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(waiting)
        except asyncio.QueueFull:
            raise UnavailableError("unavailable", "too many journals wait to be stored; try again") from None
        return await waiting.done

    async def _commit_batch(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        try:
            states = await self._journals.commit([write for item in batch for write in item.writes])
        except Exception as error:  # noqa: BLE001 -- every request of the batch gets it, and answers for it
            for item in batch:
                if not item.done.done():
                    item.done.set_exception(error)
            return
        for item in batch:
            if not item.done.done():
                item.done.set_result({write.journal: states[write.journal] for write in item.writes})
        for journal, state in states.items():
            self._remember(journal, state)

    def _remember(self, journal: JournalId, state: JournalState) -> None:
        self._ends[journal] = state.end
        self._ends.move_to_end(journal)
        if len(self._ends) > _KNOWN_ENDS_MAX:
            self._ends.popitem(last=False)
        if self._appended is not None:
            self._appended(journal, state)


def _newest_fence(parts: Sequence[Part]) -> list[Part]:
    fence = max(part.fence for part in parts)
    return [part for part in parts if part.fence == fence]


def _fell_short(write: Write, states: dict[JournalId, JournalState]) -> bool:
    """Whether something that was cut is not stored although the journal would still take it."""
    state = states[write.journal]
    return bool(
        write.chunks and not state.sealed and write.fence >= state.fence and state.end < write.chunks[-1].end
    )
