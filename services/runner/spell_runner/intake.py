"""Decides what becomes of a point that a command has sent: its number, index and time, or that it is dropped. Pure.

Theory of operation
-------------------
All points of an attempt on this machine pass one `Intake`. It numbers them, gives those without an index the next one of
their metric, and stamps each later than the one before. Beyond the limits it drops, and counts what it drops: points of
more metrics than there may be, more points than there may be in all, and more in a second than there may be. A second's
worth may come at once. The rate is that of the times at which points were sent, not read: a reader that was away for a
while drops nothing for it. A point that is dropped has used its index all the same, so what follows stands where it would.

What it knows can be stored now and then (`dump`). It is made again from that and the batches that were written since
(`load`, `catch_up`), so a killed process goes on with the numbers and indexes that the file has.

Standard library only: this is loaded beside a command.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from spell_proto import metrics
from spell_proto.errors import CodecError, InvalidError
from spell_proto.metrics import Point, Sent
from spell_proto.points import Batch, Dropped

_SECOND = 1_000_000
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one stream may hold."""

    points_per_second: int = 50_000
    names: int = 10_000
    points: int = 100_000_000


class Intake:
    """See the module. Times are microseconds since 1970 by the clock of the machine."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._next = 0
        self._stamp = -1
        self._indexes: dict[str, int] = {}
        # In millionths of a point: whole numbers, so the same times always give the same answer.
        self._credit = self._full
        self._clock = 0
        self._rate = self._names = self._points = self._refused = 0

    @property
    def next(self) -> int:
        """The number that the next point gets."""
        return self._next

    @property
    def dropped(self) -> Dropped:
        return Dropped(self._rate, self._names, self._points, self._refused)

    @property
    def _full(self) -> int:
        return self._limits.points_per_second * _SECOND

    def take(self, sent: Sent, sent_us: int, *, ours: bool = False) -> Point | None:
        """The point as it is kept; None where it is dropped, which is counted. It was sent at `sent_us`, or so its sender says:
        nobody may say a time that is yet to come. Points of `ours`, of the machine about itself, are not limited.
        """
        name = sent.name
        before = self._indexes.get(name)
        if not ours and before is None and len(self._indexes) >= self._limits.names:
            self._names += 1
            return None
        try:
            index = metrics.next_index(before) if sent.index is None else sent.index
        except InvalidError:
            self._refused += 1
            return None
        if not ours and self._next >= self._limits.points:
            self._points += 1
            return None
        self._indexes[name] = index
        if not ours and not self._may_pass(sent_us):
            self._rate += 1
            return None
        self._next += 1
        self._stamp = max(sent_us, self._stamp + 1)
        return Point(name, index, self._stamp, sent.value)

    def refuse(self) -> None:
        """Count something that was sent and is no point."""
        self._refused += 1

    def mark(self, now_us: int) -> int:
        """How far the clock is: every later point is stamped with a later time."""
        self._stamp = max(self._stamp, now_us)
        return self._stamp

    def _may_pass(self, sent_us: int) -> bool:
        if sent_us > self._clock:
            more = (sent_us - self._clock) * self._limits.points_per_second
            self._credit = min(self._full, self._credit + more)
            self._clock = sent_us
        if self._credit < _SECOND:
            return False
        self._credit -= _SECOND
        return True

    # ---- storing ---------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """What it knows, as JSON. How much may come at once is not in it."""
        members = {
            "v": _VERSION,
            "next": self._next,
            "stamp": self._stamp,
            "dropped": self.dropped,
            "indexes": self._indexes,
        }
        return json.dumps(members, separators=(",", ":")).encode()

    @classmethod
    def load(cls, data: bytes, limits: Limits | None = None) -> "Intake":
        """As it was when this was dumped.

        Raises:
            CodecError: the bytes are no dump.
        """
        intake = cls(limits)
        try:
            members = json.loads(data)
            if members["v"] != _VERSION:
                raise CodecError(f"an intake of version {members['v']}, {_VERSION} is known")
            intake._next, intake._stamp = int(members["next"]), int(members["stamp"])
            intake._count(Dropped(*map(int, members["dropped"])))
            intake._indexes = {str(name): int(index) for name, index in members["indexes"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CodecError(f"no intake: {error!r}") from None
        return intake

    def catch_up(self, batch: Batch) -> None:
        """Learn what a batch says that was written after the dump; one from before says nothing new."""
        if batch.end < self._next or (batch.end == self._next and batch.until_us <= self._stamp):
            return
        self._next = batch.end
        self._stamp = max(self._stamp, batch.until_us)
        self._count(batch.dropped)
        for each, index in zip(batch.ids, batch.indexes, strict=True):
            self._indexes[batch.names[each]] = index

    def _count(self, dropped: Dropped) -> None:
        self._rate, self._names, self._points, self._refused = dropped


def complaints(dropped: Dropped, limits: Limits) -> Sequence[str]:
    """What to tell people of points that were not kept."""
    said = [
        (dropped.rate, f"above {limits.points_per_second:,} points a second"),
        (dropped.names, f"of names above the first {limits.names:,}"),
        (dropped.points, f"above the first {limits.points:,}"),
        (dropped.refused, "that are no points: a name, a value or an index that is not allowed"),
    ]
    return [f"{count:,} points were dropped, {why}" for count, why in said if count]
