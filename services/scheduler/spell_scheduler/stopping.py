"""Decides when the points of an attempt meet a stop condition. Pure.

Theory of operation
-------------------
An attempt's points are one numbered stream (`spell_proto.points`). A `Watch` says how far it has been read and what each
clause remembers of it: a few numbers, which can be stored and taken up again anywhere. `feed` reads a batch: what was
read already is passed over, so it does not matter how the stream was cut or how often a piece comes, and what would leave
a hole is not read (`behind` says how many points are to be fetched first). So the same stream always meets the same
condition at the same point.

A point counts for a clause from its MIN_INDEX on. A value counts as often as it is sent: `loss > 5` is met by the second
of two points with one index just as by the first. For a plateau an index counts once, and only beyond those before it: that
eight processes send the loss of an epoch makes no eight epochs. What is compared in `a && b` is the latest counted value
of each in the order of the stream; NaN and texts satisfy no comparison, and a text is no value for a plateau either.

Time is the stream's own: stamps of points, and batches that say how far the clock is. Nothing here looks at another
clock, so a machine that cannot be heard for an hour does not make a metric missing that it goes on recording.
"""

import json
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, assert_never

from spell_proto.conditions import (
    Clause,
    Compare,
    Condition,
    IsNan,
    Missing,
    Operator,
    Plateau,
    number,
    written,
)
from spell_proto.errors import CodecError
from spell_proto.metrics import Value
from spell_proto.points import Batch

_COMPARE: dict[Operator, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SECOND = 1_000_000
_VERSION = 1
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Seen(NamedTuple):
    """A point that a clause remembers; `number` is its place in the stream. A text is remembered as None."""

    number: int
    index: int  # type: ignore[assignment]  # nobody looks for things in a point
    at_us: int
    value: int | float | None


class Memory(NamedTuple):
    """What a clause remembers: the last point that counted, and whether there was any point of its metric at all. A plateau
    also knows the best before, and how many indexes were no better since.
    """

    latest: Seen | None = None
    best: Seen | None = None
    waited: int = 0
    reported: bool = False


@dataclass(frozen=True, slots=True)
class Fired:
    """The condition (its place among those of the run) that was met first, when, and by what: the `memories` of its
    clauses. `number` is that of the point that met it; None where the time did.
    """

    condition: int
    at_us: int
    number: int | None
    memories: tuple[Memory, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """How far the stream of an attempt was read, for conditions in their order. Once one is met, nothing more is read.

    `next` is the number of the first point that was not read, `clock_us` how far the stream's time is.
    """

    started_us: int
    next: int
    clock_us: int
    memories: tuple[tuple[Memory, ...], ...]
    fired: Fired | None = None


def begin(conditions: Sequence[Condition], started_us: int) -> Watch:
    """Before the first point, from the start of the command on."""
    empty = tuple(tuple(Memory() for _ in condition.clauses) for condition in conditions)
    return Watch(started_us, 0, started_us, empty)


def behind(watch: Watch, batch: Batch) -> int:
    """How many points are to be fed before this batch can be. A watch that is over needs none."""
    return 0 if watch.fired else max(0, batch.first - watch.next)


def feed(conditions: Sequence[Condition], watch: Watch, batch: Batch) -> Watch:
    """Read a batch that leaves no hole."""
    assert not behind(watch, batch)
    if watch.fired:
        return watch
    reading = _Reading(conditions, watch)
    fired = reading.points(batch) or reading.time(batch.until_us)
    memories = tuple(tuple(each) for each in reading.memories)
    clock_us = fired.at_us if fired else reading.clock
    return Watch(watch.started_us, reading.at, clock_us, memories, fired)


def notes(conditions: Sequence[Condition], watch: Watch) -> tuple[str, ...]:
    """What to say of conditions at the end of a run that none of them has ended."""
    found: dict[str, None] = {}
    for condition, memories in zip(conditions, watch.memories, strict=True):
        for clause, memory in zip(condition.clauses, memories, strict=True):
            if not memory.reported:
                found[f"stop condition '{_text(condition)}': metric {clause.metric} was never reported"] = (
                    None
                )
            elif memory.latest is None:
                assert not isinstance(clause, Missing)
                counts = (
                    f"a number at an index from {clause.min_index} on" if clause.min_index else "a number"
                )
                found[f"stop condition '{_text(condition)}': metric {clause.metric} was never {counts}"] = (
                    None
                )
    return tuple(found)


def sentence(conditions: Sequence[Condition], fired: Fired) -> str:
    """What met which condition, for people."""
    condition = conditions[fired.condition]
    evidence = [
        _evidence(clause, memory, fired)
        for clause, memory in zip(condition.clauses, fired.memories, strict=True)
    ]
    return f"stop condition '{_text(condition)}' was met: {'; '.join(evidence)}"


# ---- reading -------------------------------------------------------------------------------------------------


class _Reading:
    """One walk along a batch. `due` is when which condition is met if no more points come."""

    def __init__(self, conditions: Sequence[Condition], watch: Watch) -> None:
        self._conditions = conditions
        self._started = watch.started_us
        self.at = watch.next
        self.clock = watch.clock_us
        self.memories = [list(each) for each in watch.memories]
        self._wanted: dict[str, list[int]] = {}
        for place, condition in enumerate(conditions):
            for metric in condition.metrics:
                self._wanted.setdefault(metric, []).append(place)
        self._timed = [
            place
            for place, condition in enumerate(conditions)
            if any(isinstance(clause, Missing) for clause in condition.clauses)
        ]
        self._due = self._next_due()

    def points(self, batch: Batch) -> Fired | None:
        wanted = [self._wanted.get(name) for name in batch.names]
        ids, times = batch.ids, batch.times
        for i in range(self.at - batch.first, len(ids)):
            self.at = batch.first + i
            if self._timed and (fired := self.time(times[i])):
                return fired
            self.at += 1
            if (places := wanted[ids[i]]) is not None:
                seen = Seen(batch.first + i, batch.indexes[i], times[i], _number(batch.values[i]))
                if fired := self._take(batch.names[ids[i]], seen, places):
                    return fired
        return None

    def time(self, until_us: int) -> Fired | None:
        """The clock is as far as this, and there was nothing until then."""
        self.clock = max(self.clock, until_us)
        if self._due is None or self._due[0] > self.clock:
            return None
        return Fired(self._due[1], self._due[0], None, tuple(self.memories[self._due[1]]))

    def _take(self, metric: str, seen: Seen, places: Sequence[int]) -> Fired | None:
        for place in places:
            clauses, memories = self._conditions[place].clauses, self.memories[place]
            for i, clause in enumerate(clauses):
                if clause.metric == metric:
                    memories[i] = _taken(clause, memories[i], seen)
            if place in self._timed:
                self._due = self._next_due()
                if self._due is not None and self._due[0] <= self.clock:
                    return Fired(self._due[1], self.clock, seen.number, tuple(self.memories[self._due[1]]))
            elif all(map(_holds, clauses, memories)):
                return Fired(place, seen.at_us, seen.number, tuple(memories))
        return None

    def _next_due(self) -> tuple[int, int] | None:
        dues = [(due, place) for place in self._timed if (due := self._due_of(place)) is not None]
        return min(dues, default=None)

    def _due_of(self, place: int) -> int | None:
        latest = self._started
        for clause, memory in zip(self._conditions[place].clauses, self.memories[place], strict=True):
            if isinstance(clause, Missing):
                since = memory.latest.at_us if memory.latest else self._started
                latest = max(latest, since + clause.seconds * _SECOND)
            elif not _holds(clause, memory):
                return None
        return latest


def _taken(clause: Clause, memory: Memory, seen: Seen) -> Memory:
    """What a clause remembers after a point of its metric."""
    match clause:
        case Missing():
            return Memory(seen, reported=True)
        case _ if seen.value is None or seen.index < clause.min_index:
            return memory._replace(reported=True)
        case Plateau():
            if memory.latest is not None and seen.index <= memory.latest.index:
                return memory
            if _better(clause, memory.best, seen.value):
                return Memory(seen, seen, 0, reported=True)
            return Memory(seen, memory.best, memory.waited + 1, reported=True)
        case _:
            return Memory(seen, reported=True)


def _better(clause: Plateau, best: Seen | None, value: float) -> bool:
    if best is None or best.value is None:
        return not math.isnan(value)
    if not clause.delta:
        # As they are: whole numbers above 2^53 are not rounded.
        return value > best.value if clause.up else value < best.value
    return value > best.value + clause.delta if clause.up else value < best.value - clause.delta


def _holds(clause: Clause, memory: Memory) -> bool:
    """Whether a clause holds, but for those that only the time can tell."""
    match clause:
        case Plateau():
            return memory.waited >= clause.points
        case Compare():
            seen = memory.latest
            return (
                seen is not None
                and seen.value is not None
                and _COMPARE[clause.operator](seen.value, clause.value)
            )
        case IsNan():
            return memory.latest is not None and memory.latest.value != memory.latest.value
        case Missing():
            raise AssertionError("only the time can tell")
        case _:
            assert_never(clause)


def _number(value: Value) -> int | float | None:
    return None if isinstance(value, str) else value


# ---- words ---------------------------------------------------------------------------------------------------


def _text(condition: Condition) -> str:
    return condition.text or written(condition)


def _evidence(clause: Clause, memory: Memory, fired: Fired) -> str:
    latest = memory.latest
    if isinstance(clause, Missing):
        if latest is None:
            return f"{clause.metric} has never come"
        return f"{clause.metric} came last at index {latest.index}, {_seconds(fired.at_us - latest.at_us)} before"
    assert latest is not None
    said = f"{clause.metric} was {_shown(latest)} at index {latest.index}"
    if not isinstance(clause, Plateau):
        return said
    best = (
        "no number before" if memory.best is None else f"{_shown(memory.best)} at index {memory.best.index}"
    )
    return f"{said}, and its best {best}"


def _shown(seen: Seen) -> str:
    value = seen.value
    assert value is not None
    if isinstance(value, int):
        return str(value)
    return "NaN" if math.isnan(value) else number(value)


def _seconds(us: int) -> str:
    return f"{us / _SECOND:.0f} s"


# ---- storing -------------------------------------------------------------------------------------------------


def dump(watch: Watch) -> bytes:
    """A watch as JSON, small: some hundred bytes for each clause at most."""
    fired = watch.fired
    members = {
        "v": _VERSION,
        "started_us": watch.started_us,
        "next": watch.next,
        "clock_us": watch.clock_us,
        "memories": [[_dumped(memory) for memory in memories] for memories in watch.memories],
        "fired": fired
        and [fired.condition, fired.at_us, fired.number, [_dumped(memory) for memory in fired.memories]],
    }
    return json.dumps(members, separators=(",", ":"), allow_nan=False).encode()


def load(conditions: Sequence[Condition], data: bytes) -> Watch:
    """A watch over these conditions, as it was stored.

    Raises:
        CodecError: the bytes are none, or one over other conditions.
    """
    try:
        members = json.loads(data)
        if members["v"] != _VERSION:
            raise CodecError(f"a watch of version {members['v']}, {_VERSION} is known")
        watch = Watch(
            int(members["started_us"]),
            int(members["next"]),
            int(members["clock_us"]),
            tuple(tuple(map(_loaded, memories)) for memories in members["memories"]),
        )
        if members["fired"] is not None:
            condition, at_us, by, memories = members["fired"]
            watch = replace(watch, fired=Fired(condition, at_us, by, tuple(map(_loaded, memories))))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CodecError(f"no watch: {error!r}") from None
    if [len(memories) for memories in watch.memories] != [len(condition.clauses) for condition in conditions]:
        raise CodecError("a watch over other conditions")
    return watch


def _dumped(memory: Memory) -> list[Any]:
    return [_dumped_seen(memory.latest), _dumped_seen(memory.best), memory.waited, int(memory.reported)]


def _dumped_seen(seen: Seen | None) -> list[Any] | None:
    if seen is None:
        return None
    value = seen.value
    return [*seen[:3], str(value) if isinstance(value, float) and not math.isfinite(value) else value]


def _loaded(given: list[Any]) -> Memory:
    latest, best, waited, reported = given
    return Memory(_loaded_seen(latest), _loaded_seen(best), int(waited), bool(reported))


def _loaded_seen(given: list[Any] | None) -> Seen | None:
    if given is None:
        return None
    place, index, at_us, value = given
    return Seen(int(place), int(index), int(at_us), _NON_FINITE[value] if isinstance(value, str) else value)
