"""The few points of a long series that draw the same line."""

import math
import random
import time
from array import array
from bisect import bisect_right
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spell_storage import outlines
from spell_storage.outlines import outline

NAN, INF = math.nan, math.inf


def kept(values, buckets, places=None):
    return outline(array("d", values), buckets, places)


def test_a_short_series_stays_as_it_is():
    assert kept([], 3) == []
    assert kept([1.0, NAN, 3.0], 2) == [0, 1, 2]
    assert kept([1.0] * 4, 2) == [0, 1, 2, 3]
    assert kept([1.0] * 5, 2) == [0, 2, 4]


def test_each_bucket_keeps_its_lowest_and_its_highest():
    #         |-------------|-------------|
    values = [1, 5, 0, 2, 3, 3, 3, 9, 4, 4]

    assert kept(values, 2) == [0, 1, 2, 5, 7, 9]


def test_the_first_and_the_last_point_stay():
    values = [5.0] + [0.0, 9.0] * 50 + [5.0]

    assert kept(values, 3)[0] == 0
    assert kept(values, 3)[-1] == 101


def test_buckets_can_be_stretches_of_time():
    values = [0, 1, 0, 1, 0, 1, 0, 7, 2, 3]
    times = [0, 1, 2, 3, 4, 5, 6, 7, 50, 100]

    # Two columns: the first eight points are in the left one, two in the right one.
    assert kept(values, 2, times) == [0, 7, 8, 9]


def test_what_is_not_finite_is_a_gap():
    values = [1.0, NAN, 2.0, INF, -INF, 3.0, 4.0, 5.0, 6.0, 7.0]

    assert kept(values, 2) == [0, 1, 2, 4, 5, 9]
    assert kept([NAN] * 10, 2) == [0, 4, 5, 9]


def test_large_numbers_are_no_gap():
    """Their sum is not finite, and they are."""
    assert kept([1e308, 1.5e308, 1e308, 1e308, 1e308, 1e308], 1) == [0, 1, 5]


VALUES = st.lists(
    st.one_of(st.floats(), st.sampled_from([0.0, 1.0, NAN, INF, 1e308])), min_size=1, max_size=120
)


def finite(values):
    return [value for value in values if math.isfinite(value)]


@given(VALUES, st.integers(1, 12), st.data())
def test_no_extreme_is_lost_and_no_line_crosses_a_gap(values, buckets, data):
    steps = data.draw(st.lists(st.integers(0, 50), min_size=len(values), max_size=len(values)))
    places = [sum(steps[: i + 1]) for i in range(len(steps))] if data.draw(st.booleans()) else None

    positions = kept(values, buckets, places)

    assert positions == sorted(set(positions))
    assert len(positions) <= 4 * buckets + 2
    assert {0, len(values) - 1} <= set(positions)
    some, whole = finite(values[i] for i in positions), finite(values)
    assert bool(some) == bool(whole)
    if whole:
        assert (min(some), max(some)) == (min(whole), max(whole))
    borders = (
        outlines._borders(len(values), buckets) if places is None else outlines._borders_by(places, buckets)
    )
    for left, right in pairwise(positions):
        if finite([values[left], values[right]]) == [values[left], values[right]]:
            gap = len(finite(values[left:right])) < right - left
            assert not gap or bisect_right(borders, left) == bisect_right(borders, right)


@given(VALUES, st.integers(1, 6), st.integers(1, 6), st.integers(1, 20))
def test_an_outline_of_outlines_keeps_the_extremes_too(values, fine, coarse, length):
    parts = [values[i : i + length] for i in range(0, len(values), length)]
    joined = [part[i] for part in parts for i in kept(part, fine)]

    some, whole = finite(joined[i] for i in kept(joined, coarse)), finite(values)

    assert bool(some) == bool(whole)
    if whole:
        assert (min(some), max(some)) == (min(whole), max(whole))


def test_a_million_points_take_a_moment():
    chance = random.Random(1)
    values = array("d", (chance.random() for _ in range(100_000)))
    times = range(0, 2_000_000, 20)

    def seconds():
        started = time.process_time()
        outline(values, 1000, times)
        return time.process_time() - started

    # A tenth of a million in a tenth of the time, some 6 ms, with room for a slow machine.
    assert min(seconds() for _ in range(5)) < 0.05
