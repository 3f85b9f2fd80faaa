"""Pieces of a journal, as they happen to arrive, become the journal again.

A piece says where in the journal it begins. It may come twice, late, out of order or never, and it may overlap what
is already known. Nothing here waits or asks: a hole is filled by whoever owns the `Splice`, from storage.
"""

from bisect import insort
from dataclasses import dataclass
from operator import itemgetter

from spell_proto.journal import HEADER, PAYLOAD_BYTES_MAX, whole_records

#: Live bytes that are kept for one follower. What comes beyond is dropped here and read from storage later.
HELD_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Old:
    """Everything in the piece is known already."""


@dataclass(frozen=True, slots=True)
class Next:
    """The piece goes on where we are, after its first `skip` bytes."""

    skip: int


@dataclass(frozen=True, slots=True)
class Gap:
    """`missing` bytes before the piece are not here yet."""

    missing: int


def place(position: int, offset: int, length: int) -> Old | Next | Gap:
    """What a piece of `length` bytes from `offset` is to somebody who has everything up to `position`."""
    if offset > position:
        return Gap(offset - position)
    if offset + length <= position:
        return Old()
    return Next(position - offset)


class Splice:
    """Pieces that wait for their turn. `end` is the furthest place any piece has told of, also a dropped one."""

    def __init__(self, held_bytes_max: int = HELD_BYTES_MAX) -> None:
        self._pieces: list[tuple[int, bytes]] = []
        self._held = 0
        self._held_max = held_bytes_max
        self.end = 0

    def offer(self, offset: int, data: bytes) -> None:
        """A piece has arrived."""
        self.end = max(self.end, offset + len(data))
        if self._held + len(data) <= self._held_max:
            self._held += len(data)
            if self._pieces and self._pieces[-1][0] > offset:
                insort(self._pieces, (offset, data), key=itemgetter(0))
            else:
                self._pieces.append((offset, data))

    def take(self, position: int) -> bytes:
        """The whole records that follow at `position`, the start of a record, as far as the pieces reach."""
        parts: list[bytes] = []
        reached, used = position, 0
        for offset, data in self._pieces:
            match place(reached, offset, len(data)):
                case Gap():
                    break
                case Next(skip):
                    parts.append(data[skip:] if skip else data)
                    reached = offset + len(data)
                case Old():
                    pass
            used += 1
            self._held -= len(data)
        if not used:
            return b""
        del self._pieces[:used]
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        whole = whole_records(taken)
        if whole < len(taken):
            self._put_back(position + whole, taken[whole:])
            return taken[:whole]
        return taken

    def _put_back(self, offset: int, rest: bytes) -> None:
        # What is longer than any record, and none yet, is no journal: storage says what really stands there.
        if len(rest) < HEADER.size + PAYLOAD_BYTES_MAX:
            self._pieces.insert(0, (offset, rest))
            self._held += len(rest)
