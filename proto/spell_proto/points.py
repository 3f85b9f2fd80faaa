"""Points of metrics on their way: numbered batches, the same in files of a machine, on the bus and to storage. Pure.

Theory of operation
-------------------
What a run's attempt sends on one machine (`rank` says which of several) is one stream. Its points are numbered from 0 in
the order in which the machine has taken them, and stamped with its clock, each later than the one before. A batch holds
the points from number `first` on. So a batch that comes twice, or comes again cut in other places, is recognised by its
numbers, and what is missing before it is a range of numbers.

A batch without points says how far the clock is: `until_us` is a time before which no later point will be stamped. It
also carries how many points have been dropped since the beginning, so that whoever has the points can say so.

The bytes are a header, the names, and a column each of names, indexes, times and values, little-endian. In a file each
batch stands in a frame: its length, its checksum, its bytes. A frame that a crash has torn does not pass.

Standard library only: what runs beside a command imports this module.
"""

import operator
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from spell_proto import metrics
from spell_proto.errors import CodecError, InvalidError
from spell_proto.metrics import Point, Value

#: Bounds of one batch, so that it is less than a MiB, which is what a message may be.
POINTS_MAX = 4096
TEXTS_BYTES_MAX = 256 * 1024
RANK_MAX = 2**16 - 1
TIME_MAX = 2**62

_VERSION = 1
_HEADER = struct.Struct("<BBHQIHQIQQQQQ")
_FRAME = struct.Struct("<II")
_FLOAT, _INT, _TEXT = 0, 1, 2
#: What the column of values holds: numbers of one kind, or a column of kinds and then one of eight bytes each, followed
#: by the texts.
_FLOATS, _INTS, _MIXED = 0, 1, 2
_PACK_FLOAT, _PACK_INT = struct.Struct("<d").pack, struct.Struct("<q").pack
_BATCH_BYTES_MAX = (
    _HEADER.size + POINTS_MAX * (metrics.NAME_CHARS_MAX + 1 + 2 + 8 + 8 + 1 + 8) + TEXTS_BYTES_MAX
)


class Stream(NamedTuple):
    """Whose points these are."""

    run_id: int
    attempt: int
    rank: int = 0


class Dropped(NamedTuple):
    """How many points of a stream were not kept so far: above the points a second, of names above the number of names,
    above the number of points, and against the rules of `spell_proto.metrics`.
    """

    rate: int = 0
    names: int = 0
    points: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Points of a stream, in columns: point `i` is of `names[ids[i]]`. See the module for `first` and `until_us`."""

    stream: Stream
    first: int
    until_us: int
    dropped: Dropped
    names: tuple[str, ...]
    ids: Sequence[int]
    indexes: Sequence[int]
    times: Sequence[int]
    values: Sequence[Value]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def end(self) -> int:
        """The number of the first point behind it."""
        return self.first + len(self.ids)

    def points(self) -> Iterator[Point]:
        names = self.names
        return (
            Point(names[each], index, at_us, value)
            for each, index, at_us, value in zip(self.ids, self.indexes, self.times, self.values, strict=True)
        )


def batch(
    stream: Stream,
    first: int,
    points: Sequence[Point],
    until_us: int = 0,
    dropped: Dropped = Dropped(),  # noqa: B008 -- it cannot change
) -> Batch:
    """These points as a batch; there may be none. They fit: see `fitting`."""
    ids: dict[str, int] = {}
    return Batch(
        stream,
        first,
        max(until_us, points[-1].at_us if points else 0),
        dropped,
        # First, as it finds the names.
        ids=[ids.setdefault(point.name, len(ids)) for point in points],
        names=tuple(ids),
        indexes=[point.index for point in points],
        times=[point.at_us for point in points],
        values=[point.value for point in points],
    )


def fitting(points: Sequence[Point], begin: int = 0) -> int:
    """Where the longest batch ends that begins with the point at `begin`."""
    end = min(len(points), begin + POINTS_MAX)
    room = TEXTS_BYTES_MAX
    for i in range(begin, end):
        value = points[i].value
        if isinstance(value, str):
            room -= len(value.encode())
            if room < 0:
                return i
    return end


# ---- bytes ---------------------------------------------------------------------------------------------------


def encode(given: Batch) -> bytes:
    """The bytes of a batch."""
    layout, values = _values(given.values)
    header = _HEADER.pack(
        _VERSION,
        layout,
        given.stream.rank,
        given.stream.run_id,
        given.stream.attempt,
        len(given.names),
        given.first,
        len(given.ids),
        given.until_us,
        *given.dropped,
    )
    names = b"".join(bytes((len(name),)) + name.encode("ascii") for name in given.names)
    columns = _column("H", given.ids) + _column("q", given.indexes) + _column("q", given.times)
    return header + names + columns + values


def decode(data: bytes) -> Batch:
    """The batch in `data`.

    Raises:
        CodecError: the bytes are none, or of another version.
    """
    if len(data) < _HEADER.size or data[0] != _VERSION:
        raise CodecError("no batch of points of this version")
    if len(data) > _BATCH_BYTES_MAX:
        raise CodecError(f"a batch of {len(data)} bytes, at most {_BATCH_BYTES_MAX} are allowed")
    _, layout, rank, run_id, attempt, names, first, count, until_us, *dropped = _HEADER.unpack_from(data)
    if count > POINTS_MAX or names > count:
        raise CodecError(
            f"a batch of {count} points and {names} names, at most {POINTS_MAX} points are allowed"
        )
    reader = _Reader(data, _HEADER.size)
    try:
        found = Batch(
            Stream(run_id, attempt, rank),
            first,
            until_us,
            Dropped(*dropped),
            tuple(metrics.name(reader.take(reader.take(1)[0]).decode("ascii")) for _ in range(names)),
            reader.column("H", count),
            reader.column("q", count),
            reader.column("q", count),
            reader.values(layout, count),
        )
    except (UnicodeDecodeError, InvalidError) as error:
        raise CodecError(f"a batch of points: {error}") from None
    reader.end()
    _check(found)
    return found


def framed(data: bytes) -> bytes:
    """The bytes of a batch as they stand in a file."""
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


def frames(data: bytes, begin: int = 0) -> Iterator[tuple[bytes, int]]:
    """The batches of a file that stand in `data` from `begin` on, each with where it ends. They end before the first one
    that is not whole, or not what was written.
    """
    while begin + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, begin)
        start, end = begin + _FRAME.size, begin + _FRAME.size + length
        # Zeros, which is what a power cut may leave, have the checksum of nothing.
        if not 0 < length <= _BATCH_BYTES_MAX or end > len(data):
            return
        held = data[start:end]
        if zlib.crc32(held) != checksum:
            return
        yield held, end
        begin = end


def _check(given: Batch) -> None:
    if len(set(given.names)) != len(given.names):
        raise CodecError("a batch of points with a name twice")
    if given.first + len(given) > TIME_MAX or given.until_us > TIME_MAX:
        raise CodecError("a batch of points with a number that is too large")
    if not len(given):
        return
    if max(given.ids) >= len(given.names):
        raise CodecError("a batch of points with a name that is missing")
    if min(given.indexes) < 0 or max(given.indexes) > metrics.INDEX_MAX:
        raise CodecError("a batch of points with an index that is none")
    times = given.times
    if (
        not all(map(operator.lt, times, islice(times, 1, None)))
        or not times[0] >= 0
        or times[-1] > given.until_us
    ):
        raise CodecError("a batch of points that are not in the order of their times")


def _values(values: Sequence[Value]) -> tuple[int, bytes]:
    kinds = set(map(type, values))
    if kinds <= {float}:
        return _FLOATS, _column("d", values)
    if kinds == {int}:
        return _INTS, _column("q", values)
    marks, cells, texts = bytearray(), [], []
    for value in values:
        if isinstance(value, float):
            marks.append(_FLOAT)
            cells.append(_PACK_FLOAT(value))
        elif isinstance(value, int):
            marks.append(_INT)
            cells.append(_PACK_INT(value))
        else:
            text = value.encode()
            marks.append(_TEXT)
            cells.append(_PACK_INT(len(text)))
            texts.append(text)
    return _MIXED, b"".join((bytes(marks), *cells, *texts))


def _column(code: str, values: Sequence[Any]) -> bytes:
    column = array(code, values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


class _Reader:
    """Takes a batch apart."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        if len(piece) != length:
            raise CodecError("a batch of points that is cut off")
        self._at += length
        return piece

    def column(self, code: str, count: int) -> list[int]:
        column = array(code)
        column.frombytes(self.take(count * column.itemsize))
        if sys.byteorder == "big":
            column.byteswap()
        return column.tolist()

    def values(self, layout: int, count: int) -> Sequence[Value]:
        if layout == _FLOATS:
            return self.column("d", count)
        if layout == _INTS:
            return self.column("q", count)
        if layout != _MIXED:
            raise CodecError("a batch of points with values of an unknown kind")
        marks = self.take(count)
        begin = self._at
        integers = self.column("q", count)
        self._at = begin
        floats = self.column("d", count)
        found: list[Value] = []
        for mark, integer, number in zip(marks, integers, floats, strict=True):
            if mark == _FLOAT:
                found.append(number)
            elif mark == _INT:
                found.append(integer)
            elif mark == _TEXT and 0 <= integer <= metrics.TEXT_BYTES_MAX:
                found.append(metrics.value(self.take(integer).decode()))
            else:
                raise CodecError("a batch of points with a value of an unknown kind")
        return found

    def end(self) -> None:
        if self._at != len(self._data):
            raise CodecError("a batch of points with something behind it")
