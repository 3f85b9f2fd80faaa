"""The journal of a run's attempt: framed records, in order, from the first build line to the end marker.

One format from the machine's disk to the follower's socket. A record is a 13-byte header (payload length,
kind, microseconds since 1970 in UTC) and its payload. The shim appends what the command writes, the runner
what it does before and after; storage keeps the bytes as they are and a follower parses them. Journal offsets
count bytes of these records, so "resume where I was" is one number.

Records of the kinds from `STATE` up are never stored: a follower's stream mixes them in to say what the
scheduler knows.

Standard library only: the shim and the command line import this module on every start.
"""

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

HEADER = struct.Struct(">IBQ")
PAYLOAD_BYTES_MAX = 1 << 20


class RecordKind(IntEnum):
    """What a record holds."""

    STDOUT = 1  # bytes the command wrote
    STDERR = 2
    NOTE = 3  # JSON {"level": "info"|"error", "text": str, "important": bool}: a line of the platform's own
    PHASE = 4  # JSON {"phase": RunState, "text": str}: the attempt has entered a phase
    GAP = 5  # JSON {"stdout_bytes": int, "stderr_bytes": int}: bytes above the cap that were not kept
    END = 6  # JSON of `Totals`: the last record; nothing follows
    # Only in follower streams:
    STATE = 17  # JSON of a transition, see docs/protocol.md
    CAUGHT_UP = 18  # empty: what was stored has been sent, what follows is live
    PING = 19  # empty: keeps the connection alive
    DONE = 20  # JSON of the run: it is final and everything has been sent


OUTPUT = frozenset({RecordKind.STDOUT, RecordKind.STDERR})


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `at_us` is microseconds since 1970, by the clock of the machine that wrote it."""

    kind: RecordKind
    at_us: int
    payload: bytes

    def json(self) -> dict[str, Any]:
        """The payload of a record that holds JSON."""
        value: dict[str, Any] = json.loads(self.payload)
        return value


@dataclass(frozen=True, slots=True)
class Totals:
    """What the end marker says of the whole output: bytes as the command wrote them, kept and not kept.

    `sha256` is the hex digest of all kept stdout and stderr payloads in journal order.
    """

    stdout_bytes: int = 0
    stderr_bytes: int = 0
    dropped_bytes: int = 0
    sha256: str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def encode(kind: RecordKind, at_us: int, payload: bytes) -> bytes:
    """The bytes of one record. `payload` is at most `PAYLOAD_BYTES_MAX` long."""
    assert len(payload) <= PAYLOAD_BYTES_MAX
    return HEADER.pack(len(payload), kind, at_us) + payload


def encode_json(kind: RecordKind, at_us: int, **members: Any) -> bytes:
    """The bytes of one record whose payload is a JSON object."""
    return encode(kind, at_us, json.dumps(members, separators=(",", ":")).encode())


def whole_records(data: bytes) -> int:
    """How many leading bytes of `data` are whole records: the rest is a record still being written."""
    position = 0
    while position + HEADER.size <= len(data):
        length = HEADER.unpack_from(data, position)[0]
        if position + HEADER.size + length > len(data):
            break
        position += HEADER.size + length
    return position


class Decoder:
    """Cuts a byte stream into records; keeps an unfinished tail until the rest arrives."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[Record]:
        """The records that `data` completes.

        Raises:
            ValueError: the bytes are no journal (unknown kind, or a length above the limit).
        """
        data = self._tail + data if self._tail else data
        records: list[Record] = []
        position = 0
        while position + HEADER.size <= len(data):
            length, kind, at_us = HEADER.unpack_from(data, position)
            if length > PAYLOAD_BYTES_MAX:
                raise ValueError(
                    f"a journal record of {length} bytes: at most {PAYLOAD_BYTES_MAX} are allowed"
                )
            end = position + HEADER.size + length
            if end > len(data):
                break
            records.append(Record(RecordKind(kind), at_us, data[position + HEADER.size : end]))
            position = end
        self._tail = data[position:]
        return records
