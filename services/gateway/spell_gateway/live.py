"""What is going on right now: live log bytes and news about runs, handed to whoever follows (shell).

One subscription serves all followers of this process, and there is none while nobody follows. A follower must be
right without any of this: messages only save it from waiting for its next look at the scheduler and storage.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from nats.aio.msg import Msg

from spell_gateway.splice import Splice
from spell_proto import bus, logs, subjects
from spell_proto.service import ticker
from spell_proto.state import FINAL

log = logs.get()

#: The subscription outlives its last follower by this much: runs that follow each other share it.
LINGER_SECONDS = 10.0
IDLE_SECONDS = 3600.0
RETRY_SECONDS = 1.0
READY_SECONDS_MAX = 0.25
MEMORY_SECONDS_MAX = 0.5
#: A just-started run has few live messages. Who comes to an older one begins with storage.
MEMORY_MESSAGES_MAX = 32
#: So many machines are listened to for a run of which nobody has said whose it is.
STRANGERS_MAX = 4


@dataclass(slots=True, eq=False)
class RunListener:
    """What has reached one follower of a run and is not dealt with yet.

    `news`: the scheduler has something to tell. `lost`: messages may have been missed. Any machine can publish bytes
    for any run: only those of the machine that has the run are taken, and until that is known they wait.
    """

    news: bool = False
    lost: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    known: bool = False
    machine_id: str | None = None
    splices: dict[str, Splice] = field(default_factory=dict)

    def offer(self, machine_id: str, offset: int, data: bytes) -> bool:
        """A piece has arrived; whether it may be one of this run's."""
        if machine_id not in self.splices:
            if (self.known and machine_id != self.machine_id) or len(self.splices) >= STRANGERS_MAX:
                return False
            self.splices[machine_id] = Splice()
        self.splices[machine_id].offer(offset, data)
        return True

    def handed_to(self, machine_id: str | None) -> None:
        """The scheduler says whose the run is: what others have sent was not its log."""
        if not self.known or machine_id != self.machine_id:
            self.known, self.machine_id = True, machine_id
            self.splices = {name: splice for name, splice in self.splices.items() if name == machine_id}

    @property
    def end(self) -> int:
        """The furthest place any piece has told of."""
        return max((splice.end for splice in self.splices.values()), default=0)

    def take(self, position: int) -> bytes:
        """The whole records that follow at `position`, as far as the pieces reach."""
        splice = self.splices.get(self.machine_id or "")
        return splice.take(position) if splice is not None and self.known else b""


class Live:
    """Hands messages out by run and by owner."""

    def __init__(self) -> None:
        self._bus: bus.Bus | None = None
        self._runs: dict[int, set[RunListener]] = {}
        self._owners: dict[int, set[asyncio.Event]] = {}
        self._wanted = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._left_at = 0.0
        self.stopping = False

    @property
    def connected(self) -> bool:
        return self._bus is not None and self._bus.connected

    @property
    def subscribed(self) -> bool:
        """Whether messages reach us at this moment, as far as anybody can know."""
        return self._subscribed.is_set() and self.connected

    def stop(self) -> None:
        """Tell every follower to leave."""
        self.stopping = True
        self._rouse_all()

    @contextmanager
    def listen(self, run_id: int) -> Iterator[RunListener]:
        """Collect what concerns a run for as long as the context is open; `ready` makes sure that it comes."""
        listener = RunListener()
        with self._registered(self._runs, run_id, listener):
            yield listener

    @contextmanager
    def listen_owner(self, owner_id: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever a run of an owner has news."""
        event = asyncio.Event()
        with self._registered(self._owners, owner_id, event):
            yield event

    @contextmanager
    def _registered(self, table: dict[int, set[Any]], key: int, member: object) -> Iterator[None]:
        table.setdefault(key, set()).add(member)
        try:
            yield
        finally:
            members = table[key]
            members.discard(member)
            if not members:
                del table[key]
            self._left_at = time.monotonic()

    async def ready(self) -> None:
        """Wait, but not long, until messages reach us. Listeners learn that they have missed what was before."""
        if self._subscribed.is_set():
            return
        self._wanted.set()
        if self.connected:
            try:
                async with asyncio.timeout(READY_SECONDS_MAX):
                    await self._subscribed.wait()
            except TimeoutError:
                log.warning("the message bus is slow; following without it")

    async def remembered(self, run_id: int, listener: RunListener) -> bool:
        """Add what the memory stream still has of a run that has just started.

        Returns whether the stream has answered for all of it; if not, storage must be asked.
        """
        if self._bus is None or not self._bus.connected:
            return False
        subject, sequence = subjects.log_tails_of_run(run_id), 0
        try:
            async with asyncio.timeout(MEMORY_SECONDS_MAX):
                for _ in range(MEMORY_MESSAGES_MAX):
                    found = await self._bus.stored_after(subjects.LOGS, subject, sequence)
                    if found is None:
                        return True
                    sequence, message = found
                    offset = int((message.headers or {})["Spell-Offset"])
                    listener.offer(_machine(message.subject or ""), offset, message.data or b"")
        except bus.LOST as error:
            log.info("live bytes are not remembered", run_id=run_id, problem=repr(error))
        except (KeyError, ValueError) as error:
            log.warning("a live piece that is none", run_id=run_id, problem=repr(error))
        return False

    async def serve(self, stop: asyncio.Event, url: str) -> None:
        """Be connected, and subscribed while there are followers, until `stop`."""
        async with bus.connect(url, "gateway") as connected:
            self._bus = connected
            try:
                while await ticker(stop, IDLE_SECONDS, wake=self._wanted):
                    # Somebody may come while the subscriptions of those before are being left.
                    while (self._runs or self._owners) and not stop.is_set():
                        await self._serve_followers(stop, connected)
            finally:
                self._subscribed.clear()
                self._bus = None

    async def _serve_followers(self, stop: asyncio.Event, connected: bus.Bus) -> None:
        try:
            async with (
                connected.tail(subjects.LOGS.subjects[0], self._on_log),
                connected.tail(subjects.EVENTS_OF_ALL_RUNS, self._on_event),
            ):
                self._subscribed.set()
                self._rouse_all()
                try:
                    await self._until_nobody_follows(stop, connected)
                finally:
                    # Before the subscriptions are left: who comes meanwhile must not rely on them.
                    self._subscribed.clear()
        except bus.LOST as error:
            log.info("subscribing failed; followers do without", problem=repr(error))
            await ticker(stop, RETRY_SECONDS, wake=connected.reconnected)

    async def _until_nobody_follows(self, stop: asyncio.Event, connected: bus.Bus) -> None:
        reconnects = connected.client.stats["reconnects"]
        while await ticker(stop, LINGER_SECONDS, wake=connected.reconnected):
            if connected.client.stats["reconnects"] != reconnects:
                # What was said meanwhile is lost: everybody has a look for himself.
                reconnects = connected.client.stats["reconnects"]
                self._rouse_all()
            if not self._runs and not self._owners and time.monotonic() - self._left_at >= LINGER_SECONDS:
                return

    def _rouse_all(self) -> None:
        for listeners in self._runs.values():
            for listener in listeners:
                listener.lost = True
                listener.wake.set()
        for events in self._owners.values():
            for event in events:
                event.set()

    async def _on_log(self, message: Msg) -> None:
        try:
            listeners = self._runs.get(int(message.subject.rpartition(".")[2]))
            if listeners is None:
                return
            offset = int((message.headers or {})["Spell-Offset"])
        except (KeyError, ValueError):
            log.warning("a live piece that is none", subject=message.subject)
            return
        for listener in listeners:
            if listener.offer(_machine(message.subject), offset, message.data):
                listener.wake.set()

    async def _on_event(self, message: Msg) -> None:
        # Only what a follower would look up at once is read here; all else is the scheduler's to say.
        try:
            fact = orjson.loads(message.data)
            run_id, owner_id, after = int(fact["run_id"]), int(fact["owner_id"]), fact.get("after")
        except (ValueError, KeyError, TypeError):
            log.warning("an event that is none", subject=message.subject)
            return
        for event in self._owners.get(owner_id, ()):
            event.set()
        # A run that moves on inside its attempt says so in its journal.
        if fact.get("kind") == "intent" or after in FINAL:
            for listener in self._runs.get(run_id, ()):
                listener.news = True
                listener.wake.set()


def _machine(subject: str) -> str:
    """The machine in the subject of a live piece: the bus lets each one publish under its own name alone."""
    return subject.split(".")[2]
