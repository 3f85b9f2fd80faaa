"""NATS, typed: publish, tail, answer requests, consume a stream (shell).

What is promised: a message may arrive twice, late, out of order or never. `consume` acknowledges after its
handler returned; a handler that raises gets the message again. Streams and consumers are made again when the
server has lost them.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from spell_proto import logs
from spell_proto.service import Pace
from spell_proto.subjects import STREAMS, Stream

log = logs.get()

FETCH_BATCH = 256
FETCH_SECONDS = 5.0
PUBLISH_SECONDS = 5.0
ACK_WAIT_SECONDS = 30.0
LOST: tuple[type[BaseException], ...] = (NatsError, TimeoutError, OSError)


class Bus:
    """One connection to NATS. Made by `connect`."""

    def __init__(self, client: Client, jetstream: JetStreamContext) -> None:
        self.client = client
        self._jetstream = jetstream
        self.reconnected = asyncio.Event()
        #: Called after every reconnect: what could not be sent meanwhile can be sent now.
        self.on_reconnect: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        return bool(self.client.is_connected)

    async def send(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        """A plain message. Raises while there is no connection; nothing is buffered for later."""
        if not self.client.is_connected:
            raise ConnectionError("the message bus is not connected")
        await self.client.publish(subject, data, headers=headers)

    async def store(self, subject: str, data: bytes, *, message_id: str, stream: Stream) -> None:
        """Publish to a stream and wait until it is stored. A timeout means unknown: send it again, same id."""
        await self._jetstream.publish(
            subject,
            data,
            timeout=PUBLISH_SECONDS,
            stream=stream.name,
            headers={"Nats-Msg-Id": message_id},
        )

    async def store_many(self, stream: Stream, messages: Sequence[tuple[str, bytes, str]]) -> list[bool]:
        """Publish (subject, data, message id) triples to a stream at once; for each, whether it is stored for sure.

        A message that is not is sent again under the same id. A stream that is missing is made.
        """
        if not self.client.is_connected:
            raise ConnectionError("the message bus is not connected")
        waiting: list[asyncio.Future[Any]] = []
        try:
            for subject, data, message_id in messages:
                headers = {"Nats-Msg-Id": message_id}
                waiting.append(
                    await self._jetstream.publish_async(
                        subject, data, wait_stall=PUBLISH_SECONDS, stream=stream.name, headers=headers
                    )
                )
            await asyncio.wait(waiting, timeout=PUBLISH_SECONDS)
        finally:
            for future in waiting:
                future.cancel()  # those that are done do not mind; the others give their permit back
        stored = [
            future.done() and not future.cancelled() and future.exception() is None for future in waiting
        ]
        if not all(stored):
            await self.ensure_streams()
        return stored

    async def request(self, subject: str, data: bytes, *, timeout: float) -> bytes:
        """Ask whoever answers on `subject`."""
        if not self.client.is_connected:
            raise ConnectionError("the message bus is not connected")
        answer: Msg = await self.client.request(subject, data, timeout=timeout)
        return answer.data

    @asynccontextmanager
    async def tail(self, subject: str, handler: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[None]:
        """Plain messages on `subject` from now on, for as long as the context is open."""
        subscription = await self.client.subscribe(subject, cb=handler, pending_bytes_limit=256 * 1024 * 1024)
        # The server must know the subscription before the caller looks at what was stored so far.
        with contextlib.suppress(*LOST):
            await self.client.flush(timeout=2)
        try:
            yield
        finally:
            with contextlib.suppress(*LOST):
                await subscription.unsubscribe()

    @asynccontextmanager
    async def answer(
        self, subject: str, queue: str, handler: Callable[[Msg], Awaitable[bytes]]
    ) -> AsyncIterator[None]:
        """Answer requests on `subject`, shared with all other members of `queue`."""

        async def respond(message: Msg) -> None:
            try:
                await message.respond(await handler(message))
            except LOST as error:
                log.warning("a request could not be answered", subject=message.subject, problem=repr(error))
            except Exception:
                log.exception("a request could not be answered", subject=message.subject)

        subscription = await self.client.subscribe(subject, queue=queue, cb=respond)
        try:
            yield
        finally:
            with contextlib.suppress(*LOST):
                await subscription.unsubscribe()

    async def ensure_streams(self) -> None:
        """Make the streams that are missing. Existing ones are left as they are: their config is an operator's."""
        for stream in STREAMS:
            try:
                await self._jetstream.stream_info(stream.name)
            except NotFoundError:
                await self._jetstream.add_stream(
                    StreamConfig(
                        name=stream.name,
                        subjects=list(stream.subjects),
                        retention=RetentionPolicy.LIMITS,
                        storage=StorageType.MEMORY if stream.memory else StorageType.FILE,
                        max_age=stream.age_seconds_max,
                        max_bytes=stream.bytes_max,
                        duplicate_window=min(600, stream.age_seconds_max),
                        allow_direct=True,
                    )
                )
                log.info("stream made", stream=stream.name)

    async def stored_after(self, stream: Stream, subject: str, sequence: int) -> tuple[int, Msg] | None:
        """The first message on `subject` (wildcards allowed) with a stream sequence above `sequence`, if any."""
        with contextlib.suppress(NotFoundError):
            raw = await self._jetstream.get_msg(
                stream.name, seq=sequence + 1, next=True, subject=subject, direct=True
            )
            if raw.seq is not None:
                return raw.seq, raw  # type: ignore[return-value]  # RawStreamMsg has .data and .headers too
        return None

    async def consume(
        self,
        stop: asyncio.Event,
        stream: Stream,
        durable: str,
        subject: str,
        handler: Callable[[list[Msg]], Awaitable[None]],
    ) -> None:
        """Hand batches of a durable consumer to `handler` until `stop`; acknowledge what it returned from.

        Two parallel consumers of one durable share the work. A batch whose handler raised comes again.
        """
        while not stop.is_set():
            try:
                await self._consume_until_lost(stop, stream, durable, subject, handler)
            except LOST as error:
                log.info("consumer lost, making it again", durable=durable, problem=repr(error))
            except Exception:
                log.exception("a batch was not handled and comes again", durable=durable)
            if not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.25)

    async def _consume_until_lost(
        self,
        stop: asyncio.Event,
        stream: Stream,
        durable: str,
        subject: str,
        handler: Callable[[list[Msg]], Awaitable[None]],
    ) -> None:
        if not self.client.is_connected:
            return
        await self.ensure_streams()
        config = ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_SECONDS,
            max_deliver=-1,
            max_ack_pending=4 * FETCH_BATCH,
            filter_subject=subject,
        )
        subscription = await self._jetstream.pull_subscribe(
            subject, durable, stream=stream.name, config=config
        )
        self.reconnected.clear()
        stopped = asyncio.ensure_future(stop.wait())
        lost = asyncio.ensure_future(self.reconnected.wait())
        pace = Pace()
        try:
            while not stop.is_set():
                await pace.gather()
                # A parked pull does not survive a reconnect, so a reconnect makes a new one at once.
                fetch = asyncio.ensure_future(subscription.fetch(FETCH_BATCH, timeout=FETCH_SECONDS))
                await asyncio.wait({fetch, stopped, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not fetch.done():
                    fetch.cancel()
                    with contextlib.suppress(asyncio.CancelledError, *LOST):
                        await fetch
                    return
                try:
                    batch = fetch.result()
                except TimeoutError:
                    await subscription.consumer_info()  # raises when the server has forgotten us
                    continue
                await handler(batch)
                for message in batch:
                    await message.ack()
                pace.done()
        finally:
            stopped.cancel()
            lost.cancel()
            # Without this, drain() hangs for 30 s (nats-py counts status messages it never marks done).
            with contextlib.suppress(*LOST):
                await subscription.unsubscribe()


@asynccontextmanager
async def connect(url: str, name: str) -> AsyncIterator[Bus]:
    """A connection that never gives up. Ends the process when the client itself is closed for good."""
    bus: Bus

    async def on_error(error: Exception) -> None:
        log.warning("message bus", problem=repr(error))

    async def on_reconnect() -> None:
        log.info("message bus reconnected")
        bus.reconnected.set()
        for listener in bus.on_reconnect:
            listener()

    closing = False

    async def on_closed() -> None:
        if not closing:
            log.error("message bus closed for good; leaving to be started again")
            os._exit(1)

    client: Any = await nats.connect(
        url,
        name=name,
        inbox_prefix=f"_INBOX_{name}".encode(),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.2,
        connect_timeout=5,
        ping_interval=10,
        max_outstanding_pings=2,
        drain_timeout=5,
        error_cb=on_error,
        reconnected_cb=on_reconnect,
        closed_cb=on_closed,
        allow_reconnect=True,
    )
    bus = Bus(client, client.jetstream(timeout=PUBLISH_SECONDS))
    try:
        yield bus
    finally:
        closing = True
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(7):
                await client.drain()
