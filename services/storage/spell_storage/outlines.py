"""Picks the few points of a long series that draw the same line: lows and highs, both ends, and gaps. Pure.

A series is cut into buckets, one for each column of a plot, say. Of each bucket its lowest and its highest value stay, so no
spike is lost and no line is drawn where there was none. What is no finite number is a gap: of a bucket that has some, the
first and the last stay, so that no line that leaves a bucket crosses one. The first and the last point of all stay as well.

An outline of outlines keeps what an outline of the whole would: the lowest and highest of all that is in a bucket. So
outlines can be stored beside parts of a series, and a plot be made of those alone.

Columns are arrays, as they are stored: the values of a bucket are looked at by `sum`, `min` and `max`, which takes some
60 ns for each of a million points.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import compress, pairwise
from math import isfinite


def outline(values: "array[float]", buckets: int, places: Sequence[int] | None = None) -> list[int]:
    """The positions of the points to keep, in order: at most four for each bucket, and two.

    `places` are where the points lie (their times, or their indexes where these ascend): then each bucket spans the same
    stretch of these; without them, the same number of points.
    """
    assert buckets > 0
    count = len(values)
    if count <= 2 * buckets:
        return list(range(count))
    kept = {0, count - 1}
    for begin, end in pairwise(_borders(count, buckets) if places is None else _borders_by(places, buckets)):
        if begin < end:
            kept.update(begin + at for at in _kept(values[begin:end].tolist()))
    return sorted(kept)


def _borders(count: int, buckets: int) -> list[int]:
    return [count * i // buckets for i in range(buckets + 1)]


def _borders_by(places: Sequence[int], buckets: int) -> list[int]:
    low, span = places[0], places[-1] - places[0]
    inner = [bisect_left(places, low + span * i // buckets) for i in range(1, buckets)]
    return [0, *inner, len(places)]


def _kept(values: list[float]) -> tuple[int, ...]:
    """The places of the lowest and the highest value, and of the first and the last that is not finite."""
    total = sum(values)
    if total - total == 0.0:
        # Only where all are finite; where their sum alone is not, they are looked at one by one.
        return values.index(min(values)), values.index(max(values))
    finite = list(map(isfinite, values))
    numbers = list(compress(values, finite))
    kept = (values.index(min(numbers)), values.index(max(numbers))) if numbers else ()
    if len(numbers) == len(values):
        return kept
    return (*kept, finite.index(False), len(finite) - 1 - finite[::-1].index(False))
