"""Following a run: its states and its journal, whole and in order, to somebody who may come late or come again.

Theory of operation
-------------------
A follower has two numbers: `position`, the journal bytes it has, and `version`, the last transition it has been told
of. Everything it sends moves one of them forward, so a client that comes back with both gets the rest and nothing
twice.

Journal bytes come from storage, which has all of them but a moment late, and from the bus, which has them at once but
may lose, repeat or reorder them. `Splice` puts the live pieces in order; whenever they do not reach as far as some
piece has told of, storage is read from `position` on. With the bus down that is all there is, every second. While
storage is away, or lets us wait for its answer, what comes live goes on without it.

Transitions come from the scheduler. Of those, `requested` and changes of intent are told as they come; to one who comes
later, such a change is told where in the journal it was, by the time of its records. A final one is told after the last
byte of the journal. What lies between is told by the journal itself, in its PHASE records.

Records of our own may only stand between records of the journal: storage's copy and `Splice.take` end with whole ones.
"""

import asyncio
import math
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from spell_gateway.live import Live, RunListener
from spell_gateway.moments import Moments
from spell_gateway.outlet import chunks
from spell_gateway.runs import Runs
from spell_gateway.scheduler import Scheduler
from spell_gateway.storage import Storage
from spell_proto import logs
from spell_proto.errors import NotFoundError, RefusedError, UnavailableError
from spell_proto.state import FINAL, RunState
from spell_proto.views import RunView, TransitionView

log = logs.get()

PING_SECONDS = 15.0
#: How often scheduler and storage are looked at although nobody said that there is news.
POLL_SECONDS = 5.0
POLL_SECONDS_WITHOUT_BUS = 1.0
#: Pauses between reads of storage while a piece is missing there.
MISSING_SECONDS_MIN = 0.05
MISSING_SECONDS_MAX = 1.0
#: Storage answers sooner than this; if not, what comes live need not wait for it.
ANSWER_SECONDS = 0.1
#: An attempt this young is known to the memory stream from its first byte.
YOUNG_SECONDS = 10.0
#: After the history, storage is read once more this soon: what was on its way to it then has arrived.
SETTLE_SECONDS = 0.3
SETTLE_SECONDS_YOUNG = 1.0
#: How long an answer that does not follow waits for the last bytes of a final run.
WHOLE_SECONDS_MAX = 10.0


class Sink(Protocol):
    """Where a follower's records go, at the latest with the next `flush`; a slow one makes its calls wait."""

    async def journal(self, data: bytes, offset: int) -> None: ...
    async def state(self, transition: TransitionView, text: str) -> None: ...
    async def caught_up(self) -> None: ...
    async def ping(self) -> None: ...
    async def flush(self) -> None: ...
    async def done(self, run: RunView) -> None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for: where it is, and whether it wants to hear what comes."""

    offset: int = 0
    version: int = 0
    tail: int | None = None
    follow: bool = True


@dataclass(frozen=True, slots=True)
class Sources:
    """What a follower reads."""

    runs: Runs
    scheduler: Scheduler
    storage: Storage
    live: Live


class Follower:
    """One client that follows one run."""

    def __init__(
        self, sources: Sources, listener: RunListener, owner_id: int, run_id: int, wish: Wish
    ) -> None:
        self._of = sources
        self._listener = listener
        self._owner_id = owner_id
        self._run_id = run_id
        self._wish = wish
        self.position = wish.offset
        self._version = wish.version
        self._attempt = 0
        self._began_at = 0.0
        self._heard: tuple[TransitionView, ...] = ()
        self._told: tuple[TransitionView, ...] = ()
        self._final: TransitionView | None = None
        self._run: RunView | None = None
        self._read_since_final = False
        self._read_whole = False
        self._whole_records = True
        self._caught_up = False
        self._pause = MISSING_SECONDS_MIN
        self._look_at = self._read_at = self._retry_at = self._ping_at = 0.0
        #: while the history is sent
        self._moments: Moments | None = None

    async def begin(self) -> None:
        """Look the run up, and where the journal is to be sent from. The listener has been listening before.

        Raises:
            NotFoundError: no such run.
            UnavailableError: a service that must be asked first does not answer.
        """
        await self._look()
        if self._final is None and self._wish.follow:
            await self._of.live.ready()
        if self._wish.tail is not None and self.position == 0 and self._attempt:
            self.position = await self._of.storage.tail_at(self._run_id, self._attempt, self._wish.tail)

    async def send(self, sink: Sink) -> None:
        """Send everything until the run is done, or as far as it is known for one who does not follow."""
        now = time.monotonic()
        give_up_at = now + WHOLE_SECONDS_MAX
        self._look_at, self._ping_at = now + self._poll_seconds(), now + PING_SECONDS
        self._moments = Moments()
        await self._tell(sink)
        history_is_sent = await self._send_history(sink)
        self._moments = None
        while not self._of.live.stopping:
            await self._tell(sink)
            if not self._caught_up and (history_is_sent or self._has_caught_up()):
                self._caught_up = True
                await sink.caught_up()
            if await self._finish(sink):
                return
            if not self._wish.follow and self._is_enough(give_up_at):
                return
            self._listener.wake.clear()
            await self._step(sink)

    def _has_caught_up(self) -> bool:
        """Whether the whole history has been sent after all, where storage did not answer for it at once."""
        if not self._whole_records:
            return False
        return self._read_whole or (self._final is not None and self._has_all())

    def _is_enough(self, give_up_at: float) -> bool:
        """Whether one who does not follow has been sent what he asked for.

        Raises:
            UnavailableError: he has not, and that is not to be waited for.
        """
        late = time.monotonic() > give_up_at
        if late and not self._caught_up:
            raise UnavailableError("unavailable", "storage does not answer")
        return late or (self._caught_up and self._final is None)

    async def _finish(self, sink: Sink) -> bool:
        """Whether the run is final and everything has been sent."""
        if (
            not self._caught_up
            or self._final is None
            or self._run is None
            or not self._whole_records
            or not self._has_all()
        ):
            return False
        if self._final.version > self._version:
            await sink.state(self._final, f"Run {self._run_id} {self._final.after.value}")
        await sink.done(self._run)
        return True

    def _has_all(self) -> bool:
        """Of a final run: whether its whole journal has been sent."""
        if not self._attempt or self._run is None:
            return True
        if self._run.log is None:
            # Nobody sealed it, so what storage has is all there is.
            return self._read_since_final
        return self.position >= self._run.log.journal_bytes

    async def _step(self, sink: Sink) -> None:
        """Send what there is, look at what is due, or else wait until something is."""
        if await self._send_live(sink):
            return
        # From here on it may take a while until there is more.
        await sink.flush()
        now = time.monotonic()
        if self._listener.lost:
            self._listener.lost, self._listener.news, self._read_at = False, True, now
        if self._looking_is_due(now):
            self._listener.news = False
            await self._look_again()
        elif self._reading_is_due(now):
            await self._read_storage(sink)
        elif not await self._ping(sink, now):
            await self._wait(now)

    async def _ping(self, sink: Sink, now: float) -> bool:
        """Whether it was time to say that we are still here."""
        if now < self._ping_at or not self._whole_records:
            return False
        self._ping_at = now + PING_SECONDS
        await sink.ping()
        return True

    def _missing(self) -> bool:
        """Whether there are bytes, as far as anybody has told, that are not here."""
        if not self._caught_up or (self._final is not None and not self._has_all()):
            return True
        return not self._whole_records or self.position < self._listener.end

    def _looking_is_due(self, now: float) -> bool:
        if self._final is not None:
            return False
        if self._listener.news or now >= self._look_at:
            return True
        # Live pieces of an attempt that we have not heard of: storage cannot be asked for what is missing.
        return not self._attempt and now >= self._retry_at and self._missing()

    def _reading_is_due(self, now: float) -> bool:
        if not self._attempt:
            return False
        return now >= self._read_at or (now >= self._retry_at and self._missing())

    async def _wait(self, now: float) -> None:
        until = self._ping_at if self._whole_records else math.inf
        if self._final is None:
            until = min(until, self._look_at)
        if self._attempt:
            until = min(until, self._read_at)
        if self._missing():
            until = min(until, self._retry_at)
        try:
            async with asyncio.timeout(max(0.0, until - now)):
                await self._listener.wake.wait()
        except TimeoutError:
            pass

    def _poll_seconds(self) -> float:
        return POLL_SECONDS if self._of.live.connected else POLL_SECONDS_WITHOUT_BUS

    # ---- transitions -----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Read what the scheduler knows."""
        listed = await self._of.scheduler.transitions(self._owner_id, self._run_id)
        self._heard = listed.transitions
        last = self._heard[-1]
        attempt = max(row.attempt for row in self._heard)
        if attempt:
            self._listener.handed_to(listed.machine_id)
        if attempt != self._attempt:
            if self._attempt and self.position:
                log.warning("the run was begun anew", run_id=self._run_id, attempt=attempt)
                self.position = 0
            self._attempt = attempt
            self._began_at = next(row.at for row in self._heard if row.attempt == attempt).timestamp()
        if last.after in FINAL:
            assert listed.run is not None, "the log of a final run brings the run along"
            self._run = listed.run
            self._final = last

    async def _look_again(self) -> None:
        try:
            await self._look()
        except UnavailableError:
            self._look_at = self._retry_at = time.monotonic() + POLL_SECONDS_WITHOUT_BUS
            return
        now = time.monotonic()
        self._look_at = now + self._poll_seconds()
        self._retry_at = now if self._attempt else now + MISSING_SECONDS_MIN

    async def _tell(self, sink: Sink) -> None:
        """Tell of the transitions that are told before the journal is whole."""
        if not self._whole_records or self._told is self._heard:
            return
        for row in self._heard:
            if row.version <= self._version or row.after in FINAL:
                continue
            if row.kind == "intent":
                if self._moments is not None:
                    return
                await _tell_intent(row, sink)
            elif row.after is RunState.REQUESTED:
                await sink.state(row, await self._created_text())
            self._version = row.version
        self._told = self._heard

    async def _created_text(self) -> str:
        try:
            machine_type = await self._of.runs.machine_type_of(self._owner_id, self._run_id)
        except UnavailableError:
            return "Run created -- waiting for a machine."
        return f"Run created -- waiting for a {machine_type} machine."

    # ---- journal ---------------------------------------------------------------------------------------------

    async def _send_history(self, sink: Sink) -> bool:
        """Send what there is of the journal so far. Returns whether that was all of it."""
        if not self._attempt:
            return True
        young = time.time() - self._began_at < YOUNG_SECONDS
        remembered = False
        if young and self._final is None and self._wish.follow:
            remembered = await self._of.live.remembered(self._run_id, self._listener)
            await self._send_live(sink)
            await sink.flush()
        if not remembered or self.position < self._listener.end:
            if not await self._read_storage(sink):
                return False
            await self._send_live(sink)
        settle = SETTLE_SECONDS_YOUNG if remembered else SETTLE_SECONDS
        self._read_at = time.monotonic() + settle
        return True

    async def _send_live(self, sink: Sink) -> bool:
        if not self._whole_records:
            return False
        data = self._listener.take(self.position)
        if data:
            await self._send(sink, data)
            # What comes live and without a hole needs no second look.
            self._read_at = time.monotonic() + self._poll_seconds()
        return bool(data)

    async def _send(self, sink: Sink, data: bytes) -> None:
        while self._moments is not None and (row := self._next_intent()) is not None:
            before = self._moments.before(data, int(row.at.timestamp() * 1_000_000))
            if before is None:
                break
            await self._pass_on(sink, data[:before])
            await _tell_intent(row, sink)
            data, self._version = data[before:], row.version
        await self._pass_on(sink, data)

    def _next_intent(self) -> TransitionView | None:
        later = (row for row in self._heard if row.kind == "intent" and row.version > self._version)
        return next(later, None)

    async def _pass_on(self, sink: Sink, data: bytes) -> None:
        await sink.journal(data, self.position)
        self.position += len(data)
        self._ping_at = time.monotonic() + PING_SECONDS

    async def _read_storage(self, sink: Sink) -> bool:
        """Send what storage has from here on, and decide when it is read again. Returns whether that was all."""
        before, final, complete = self.position, self._final is not None, False
        try:
            async with AsyncExitStack() as opened:
                answer = self._of.storage.journal(self._run_id, self._attempt, before)
                asked = asyncio.create_task(opened.enter_async_context(answer))
                try:
                    await self._meanwhile(sink, asked)
                finally:
                    if not asked.done():
                        asked.cancel()
                        await asyncio.wait({asked})
                if asked.cancelled():
                    return False
                # What has come live since we asked is in the answer once more.
                known = self.position - before
                async for chunk in chunks(asked.result()):
                    new, known = chunk[known:], max(0, known - len(chunk))
                    if new:
                        self._whole_records = False
                        await self._send(sink, new)
                    if self._of.live.stopping:
                        return False
            self._whole_records = self._read_whole = complete = True
        except NotFoundError:
            self._read_whole = complete = True
        except (RefusedError, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.info("storage does not answer a follower", run_id=self._run_id, problem=repr(error))
        self._read_since_final = self._read_since_final or (complete and final)
        if self.position > before:
            self._pause = MISSING_SECONDS_MIN
        else:
            self._pause = min(self._pause * 1.3, MISSING_SECONDS_MAX)
        now = time.monotonic()
        self._retry_at, self._read_at = now + self._pause, now + self._poll_seconds()
        return complete

    async def _meanwhile(self, sink: Sink, asked: "asyncio.Task[aiohttp.ClientResponse]") -> None:
        """Go on with what comes live until storage answers, or the gateway stops."""
        done, _ = await asyncio.wait({asked}, timeout=ANSWER_SECONDS)
        if done:
            return
        asked.add_done_callback(lambda _: self._listener.wake.set())
        while not self._of.live.stopping:
            self._listener.wake.clear()
            if asked.done():
                return
            if await self._send_live(sink):
                continue
            await sink.flush()
            now = time.monotonic()
            if not await self._ping(sink, now):
                try:
                    async with asyncio.timeout(self._ping_at - now if self._whole_records else None):
                        await self._listener.wake.wait()
                except TimeoutError:
                    pass


async def _tell_intent(row: TransitionView, sink: Sink) -> None:
    await sink.state(row, f"Run is being {'killed' if row.intent == 'kill' else 'stopped'}")
