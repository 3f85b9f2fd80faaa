"""The two forms of a follower's stream: records as they are, and one JSON object per line."""

import codecs
import time
from datetime import UTC, datetime
from typing import Any

import orjson

from spell_gateway.outlet import Outlet
from spell_proto.codec import encode
from spell_proto.journal import HEADER, OUTPUT, Decoder, Record, RecordKind
from spell_proto.journal import encode as encode_record
from spell_proto.views import RunView, TransitionView


def _state_payload(transition: TransitionView, text: str) -> dict[str, Any]:
    return {**transition.model_dump(), "text": text}


def _now_us() -> int:
    return time.time_ns() // 1000


class RecordSink:
    """Records of `spell_proto.journal`; those of the journal pass untouched."""

    def __init__(self, out: Outlet) -> None:
        self._out = out

    async def journal(self, data: bytes, offset: int) -> None:
        del offset  # who reads records counts them
        await self._out.gather(data)

    async def _own(self, kind: RecordKind, at_us: int, payload: bytes = b"") -> None:
        await self._out.gather(encode_record(kind, at_us, payload))

    async def state(self, transition: TransitionView, text: str) -> None:
        at_us = int(transition.at.timestamp() * 1_000_000)
        await self._own(RecordKind.STATE, at_us, orjson.dumps(_state_payload(transition, text)))

    async def flush(self) -> None:
        await self._out.flush()

    async def caught_up(self) -> None:
        await self._own(RecordKind.CAUGHT_UP, _now_us())

    async def ping(self) -> None:
        await self._own(RecordKind.PING, _now_us())

    async def done(self, run: RunView) -> None:
        await self._own(RecordKind.DONE, _now_us(), encode(run))


class LineSink:
    """NDJSON. `offset` is where in the journal a record begins, `next_offset` where to go on after it."""

    def __init__(self, out: Outlet, offset: int) -> None:
        self._out = out
        self._offset = offset
        self._decoder = Decoder()
        self._text = {kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in OUTPUT}

    async def journal(self, data: bytes, offset: int) -> None:
        del offset  # the decoder may still hold the beginning of a record
        lines = [orjson.dumps(self._line(record)) for record in self._decoder.feed(data)]
        if lines:
            await self._out.gather(b"\n".join(lines) + b"\n")

    def _line(self, record: Record) -> dict[str, Any]:
        start = self._offset
        self._offset += HEADER.size + len(record.payload)
        line = {
            "kind": record.kind.name.lower(),
            "at": _rfc3339(record.at_us),
            "offset": start,
            "next_offset": self._offset,
        }
        if record.kind in OUTPUT:
            # Bytes of a character that is cut between two records show up with the second one.
            return {**line, "text": self._text[record.kind].decode(record.payload)}
        if record.kind is RecordKind.END:
            return {**line, "totals": record.json()}
        return {**record.json(), **line}

    async def _own(self, kind: str, at: datetime, **members: Any) -> None:
        line = {"kind": kind, "at": at, "offset": self._offset, "next_offset": self._offset, **members}
        await self._out.gather(orjson.dumps(line) + b"\n")

    async def state(self, transition: TransitionView, text: str) -> None:
        await self._own("state", transition.at, transition=transition.model_dump(), text=text)

    async def flush(self) -> None:
        await self._out.flush()

    async def caught_up(self) -> None:
        await self._own("caught_up", datetime.now(UTC))

    async def ping(self) -> None:
        await self._own("ping", datetime.now(UTC))

    async def done(self, run: RunView) -> None:
        await self._own("done", datetime.now(UTC), run=run.model_dump())


def _rfc3339(at_us: int) -> str:
    seconds, micros = divmod(at_us, 1_000_000)
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{micros:06d}Z"
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00.000000Z"
