"""Carries the journals of all attempts to followers (live, by the bus) and to storage (for good) (shell).

One forwarder serves the machine. Live bytes go out as soon as a shim rings; what the bus cannot take is not
kept for it, because storage has it a moment later. Storage gets the journals of all attempts in common requests,
one at a time: often enough while bytes arrive, at once when an attempt waits for its seal. Its answer says
where each journal ends there, and that is where the next request goes on.
"""

import asyncio
import contextlib
import os
import shutil
from collections import deque
from pathlib import Path
from typing import IO

import orjson
from pydantic import TypeAdapter

from spell_proto import bus as message_bus
from spell_proto import logs, subjects
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.journal import whole_records
from spell_proto.views import JournalEnd, JournalEnds
from spell_runner.errors import ForeignJournalError
from spell_runner.link import Link

log = logs.get()

LIVE_BYTES_MAX = 256 * 1024
SHIP_BYTES_MAX = 8 << 20
SHIP_EVERY_SECONDS = 0.1
TOGETHER_SECONDS = 0.003
RETRY_SECONDS_MAX = 5.0
#: Enough for the largest journal from a slow disk.
RESTORE_SECONDS_MAX = 600.0
#: A reader asks for this much at once; a record is never longer.
READ_BYTES = 2 << 20
_ENDS: TypeAdapter[JournalEnds] = TypeAdapter(JournalEnds)
_END: TypeAdapter[JournalEnd] = TypeAdapter(JournalEnd)


class Tail:
    """One journal on its way. All offsets stand between records, bar `size` of a file that is being written."""

    def __init__(self, run_id: int, attempt: int, fence: int, path: str) -> None:
        self.run_id, self.attempt, self.fence = run_id, attempt, fence
        self.path = path
        self.fd: int | None = None
        self.whole = 0  # up to here, records are known to be whole
        self.shipped = 0  # up to here, storage has them
        self.cuts: deque[int] = deque()  # where a part may end, between `shipped` and `whole`
        self.asked = True  # whether `shipped` is what storage says
        self.held = False  # nothing is carried yet: the file may be torn
        self.foreign = False  # storage has bytes that this machine has not: it can never be sealed
        self.sealed = asyncio.Event()
        self.urgent = False

    def read(self, offset: int, length: int) -> bytes:
        if self.fd is None:
            try:
                self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
        return os.pread(self.fd, length, offset)

    def size(self) -> int:
        try:
            return Path(self.path).stat().st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Forwarder:
    """One for the machine."""

    def __init__(self, machine_id: str, link: Link, storage: Caller) -> None:
        self._machine_id = machine_id
        self._link = link
        self._storage = storage
        self._tails: dict[tuple[int, int], Tail] = {}
        self._rung: dict[tuple[int, int], Tail] = {}
        self._bell = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()

    # ---- what attempts say -----------------------------------------------------------------------------------

    def follow(
        self, run_id: int, attempt: int, fence: int, path: str, *, fresh: bool, same_boot: bool = True
    ) -> Tail:
        """Carry this journal from now on; one of another boot from `carry` on.

        One that is not fresh goes on where storage's copy ends.
        """
        tail = Tail(run_id, attempt, fence, path)
        tail.asked, tail.held = fresh, not same_boot
        self._tails[run_id, attempt] = tail
        if not fresh:
            self._work.set()
        return tail

    async def restore(self, tail: Tail) -> None:
        """Put what storage has in the place of the journal's beginning: a power cut may have left less, or zeros."""
        path = f"/journals/{tail.run_id}/{tail.attempt}"
        end = (await self._storage.call("GET", path, _JOURNAL)).end
        if end == 0:
            return
        new = Path(f"{tail.path}.new")
        span = {"offset": 0, "limit": end}
        with await asyncio.to_thread(new.open, "wb") as file:
            async with (
                asyncio.timeout(RESTORE_SECONDS_MAX),
                self._storage.open("GET", f"{path}/bytes", params=span, stream=True) as response,
            ):
                async for chunk in response.content.iter_chunked(READ_BYTES):
                    file.write(chunk)
            if file.tell() != end:
                raise OSError(f"storage sent {file.tell()} bytes of a journal of {end}")
            await asyncio.to_thread(_add_rest, tail.path, end, file)
        tail.close()
        new.rename(tail.path)

    def carry(self, tail: Tail) -> None:
        """The journal is whole again."""
        tail.held = False
        self._work.set()

    def forget(self, tail: Tail) -> None:
        self._tails.pop((tail.run_id, tail.attempt), None)
        self._rung.pop((tail.run_id, tail.attempt), None)
        tail.close()

    def ring(self, tail: Tail) -> None:
        """There may be more to carry."""
        self._rung[tail.run_id, tail.attempt] = tail
        self._bell.set()

    def ring_later(self, tail: Tail) -> None:
        """There is more to carry, and more will follow at once: let it go together."""
        self._rung[tail.run_id, tail.attempt] = tail
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._ring_now)

    def _ring_now(self) -> None:
        self._later = None
        self._bell.set()

    async def seal(self, tail: Tail) -> None:
        """Wait until storage has the whole journal, end marker included.

        Raises:
            ForeignJournalError: it has another one, so that will never be.
        """
        tail.urgent = True
        self.ring(tail)
        self._hurry.set()
        await tail.sealed.wait()
        if tail.foreign:
            raise ForeignJournalError

    # ---- live ------------------------------------------------------------------------------------------------

    async def run_live(self) -> None:
        """Send what is new to whoever listens; never returns."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            rung, self._rung = self._rung, {}
            for tail in rung.values():
                if tail.asked:
                    await self._send_new(tail)
            self._work.set()

    async def _send_new(self, tail: Tail) -> None:
        while data := tail.read(tail.whole, READ_BYTES):
            whole = whole_records(data)
            if not whole:
                break
            start = 0
            while start < whole:
                end = whole
                if end - start > LIVE_BYTES_MAX:
                    # At least one record, however long; usually many.
                    end = start + (whole_records(data[start : start + LIVE_BYTES_MAX]) or _one(data, start))
                await self._send(tail, tail.whole + start, data[start:end])
                tail.cuts.append(tail.whole + end)
                start = end
            tail.whole += whole
            if len(data) < READ_BYTES:
                break
            await asyncio.sleep(0)

    async def _send(self, tail: Tail, offset: int, data: bytes) -> None:
        bus = self._link.bus
        if bus is None or not bus.connected:
            return
        try:
            await bus.send(
                subjects.log_tail(self._machine_id, tail.run_id), data, {"Spell-Offset": str(offset)}
            )
        except message_bus.LOST as error:
            log.debug("live bytes were not sent", run_id=tail.run_id, problem=repr(error))

    # ---- storage ---------------------------------------------------------------------------------------------

    async def run_shipping(self) -> None:
        """Bring everything into storage; never returns."""
        pause = SHIP_EVERY_SECONDS
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._ask_where()
                more = await self._ship()
            except (RefusedError, OSError, ValueError) as error:
                if not isinstance(error, UnavailableError):
                    log.warning("storage did not take journals", problem=repr(error))
                pause = min(2 * pause, RETRY_SECONDS_MAX)
                await asyncio.sleep(pause)
                self._work.set()
                continue
            pause = SHIP_EVERY_SECONDS
            if more:
                self._work.set()
            elif not any(tail.urgent and not tail.sealed.is_set() for tail in self._tails.values()):
                await self._breathe()

    async def _breathe(self) -> None:
        self._hurry.clear()
        try:
            async with asyncio.timeout(SHIP_EVERY_SECONDS):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _ask_where(self) -> None:
        for tail in [tail for tail in self._tails.values() if not tail.asked and not tail.held]:
            end = await self._storage.call("GET", f"/journals/{tail.run_id}/{tail.attempt}", _JOURNAL)
            tail.asked = True
            self._go_on_at(tail, end)

    async def _ship(self) -> bool:
        """One request with what there is; whether there is more."""
        parts: list[tuple[Tail, bytes]] = []
        room = SHIP_BYTES_MAX
        for tail in self._tails.values():
            if tail.shipped < tail.whole and not tail.sealed.is_set() and room > 0:
                end = _cut(tail, room)
                parts.append((tail, tail.read(tail.shipped, end - tail.shipped)))
                room -= end - tail.shipped
        if not parts:
            return False
        body = b"".join(_framed(tail, data) for tail, data in parts)
        async with self._storage.open("POST", "/journals", data=body) as response:
            ends = _ENDS.validate_json(await response.read())
        by_key = {(end.run_id, end.attempt): end for end in ends.ends}
        before = [tail.shipped for tail, _ in parts]
        for tail, _ in parts:
            self._answered(tail, by_key[tail.run_id, tail.attempt])
        if all(
            tail.shipped == was and not tail.sealed.is_set()
            for (tail, _), was in zip(parts, before, strict=True)
        ):
            raise ValueError("it took no byte of what it was sent")
        return any(tail.shipped < tail.whole and not tail.sealed.is_set() for tail in self._tails.values())

    def _answered(self, tail: Tail, end: JournalEnd) -> None:
        if end.end < tail.shipped or end.end > tail.whole:
            # Storage was set back, or another runner's bytes are there: go on from what it has.
            log.warning("a journal goes on elsewhere", run_id=tail.run_id, here=tail.shipped, there=end.end)
            self._go_on_at(tail, end)
        tail.shipped = end.end
        while tail.cuts and tail.cuts[0] <= tail.shipped:
            tail.cuts.popleft()
        if end.sealed:
            tail.sealed.set()

    def _go_on_at(self, tail: Tail, end: JournalEnd) -> None:
        tail.whole = tail.shipped = end.end
        tail.cuts.clear()
        if end.sealed:
            tail.sealed.set()
        elif end.end > tail.size():
            log.error("storage has more of a journal than there is", run_id=tail.run_id, there=end.end)
            tail.foreign = True
            tail.sealed.set()
        self.ring(tail)


class _JournalState(JournalEnd):
    """What storage says of a journal it was asked about."""

    stdout_bytes: int = 0
    stderr_bytes: int = 0


_JOURNAL: TypeAdapter[_JournalState] = TypeAdapter(_JournalState)


def _add_rest(path: str, offset: int, file: IO[bytes]) -> None:
    with contextlib.suppress(FileNotFoundError), Path(path).open("rb") as rest:
        rest.seek(offset)
        shutil.copyfileobj(rest, file)


def _one(data: bytes, start: int) -> int:
    """The length of the record at `start`."""
    return 13 + int.from_bytes(data[start : start + 4], "big")


def _cut(tail: Tail, room: int) -> int:
    """The furthest cut of a journal that `room` bytes reach; at least the next one."""
    if tail.whole - tail.shipped <= room:
        return tail.whole
    reached = [cut for cut in tail.cuts if cut - tail.shipped <= room]
    return reached[-1] if reached else tail.cuts[0]


def _framed(tail: Tail, data: bytes) -> bytes:
    header = orjson.dumps(
        {
            "run_id": tail.run_id,
            "attempt": tail.attempt,
            "fence": tail.fence,
            "offset": tail.shipped,
            "length": len(data),
        }
    )
    return len(header).to_bytes(4, "big") + header + data
