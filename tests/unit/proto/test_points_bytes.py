"""Batches of points: their bytes, their frames in a file, and what is none of them."""

import math

import pytest

from spell_proto import points
from spell_proto.errors import CodecError
from spell_proto.metrics import INDEX_MAX, Point
from spell_proto.points import Dropped, Stream

STREAM = Stream(2**40, 3, 1)
POINTS = [
    Point("loss", 0, 1_700_000_000_000_000, 0.5),
    Point("val loss", INDEX_MAX, 1_700_000_000_000_001, -math.inf),
    Point("loss", 1, 1_700_000_000_000_007, 0.25),
]
MIXED = [Point("a", 0, 5, 2**63 - 1), Point("b", 0, 6, "ä 💥"), Point("a", 1, 7, -0.5), Point("b", 1, 8, "")]


def test_a_batch_comes_back_as_it_was():
    for given in (POINTS, MIXED, [], [Point("a", 0, 9, -(2**63))]):
        batch = points.batch(STREAM, 2**45, given, 1_800_000_000_000_000, Dropped(1, 2, 3, 4))

        found = points.decode(points.encode(batch))

        assert found == batch
        assert list(found.points()) == given
        assert [type(value) for value in found.values] == [type(point.value) for point in given]
        assert found.end == 2**45 + len(given)


def test_the_bits_of_a_nan_are_kept():
    batch = points.batch(STREAM, 0, [Point("a", 0, 5, math.nan)])

    assert math.isnan(points.decode(points.encode(batch)).values[0])


def test_the_clock_of_a_batch_is_never_before_its_points():
    assert points.batch(STREAM, 0, POINTS, 5).until_us == POINTS[-1].at_us
    assert points.batch(STREAM, 0, [], 5).until_us == 5


def test_the_largest_batch_is_less_than_a_message_may_be():
    many = [Point(f"{i:0128}", i, i, "x" * 4096 if i < 64 else i) for i in range(10_000)]

    end = points.fitting(many)
    data = points.encode(points.batch(STREAM, 0, many[:end]))

    assert end == points.POINTS_MAX
    assert 800_000 < len(data) < 1_000_000
    assert len(points.decode(data)) == end


def test_what_fits_ends_where_the_texts_are_too_long():
    many = [Point("a", i, i, "ä" * 2048) for i in range(100)]

    assert points.fitting(many) == 64
    assert points.fitting(many, 64) == 100
    assert points.fitting(many, 100) == 100


def broken(**changes):
    """The bytes of a batch with something about it that may not be."""
    members = {name: getattr(points.batch(STREAM, 0, POINTS), name) for name in points.Batch.__slots__}
    return points.encode(points.Batch(**{**members, **changes}))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no batch"),
        (b"\x02" * 200, "of this version"),
        (broken()[:-1], "cut off"),
        (broken() + b"\0", "something behind it"),
        (broken(ids=[0, 1, 2]), "a name that is missing"),
        (broken(indexes=[0, -1, 1]), "an index that is none"),
        (broken(indexes=[0, INDEX_MAX + 1, 1]), "an index that is none"),
        (broken(times=[5, 5, 6]), "order of their times"),
        (broken(times=[-1, 5, 6]), "order of their times"),
        (broken(times=[1, 2, 2**61]), "order of their times"),
        (broken(names=("a", "a")), "a name twice"),
        (broken(names=("a$", "b")), "no name of a metric"),
        (broken(names=("", "b")), "no name of a metric"),
        (broken(names=("a", "b", "c", "d")), "3 points and 4 names"),
        (broken(first=2**63), "too large"),
        (broken(values=["a", "\0", "c"]), "NUL"),
        (broken(values=["a", "b" * 5000, "c"]), "unknown kind"),
        (points.encode(points.batch(STREAM, 0, MIXED)).replace(b"\xc3\xa4", b"\xff\xff"), "batch of points"),
        (broken().replace(b"val loss", b"val los\xff"), "batch of points"),
    ],
)
def test_what_is_no_batch_is_refused_in_a_line(data, why):
    with pytest.raises(CodecError, match=why) as refused:
        points.decode(data)

    assert "\n" not in str(refused.value)


def test_more_points_than_a_batch_may_have_are_refused():
    many = [Point("a", i, i, 1.0) for i in range(points.POINTS_MAX + 1)]

    with pytest.raises(CodecError, match="4097 points"):
        points.decode(points.encode(points.batch(STREAM, 0, many)))


def test_frames_of_a_file_end_before_what_a_crash_has_torn():
    first, second = (points.encode(points.batch(STREAM, 3 * i, POINTS)) for i in range(2))
    one = points.framed(first)
    whole = one + points.framed(second)

    assert list(points.frames(whole)) == [(first, len(one)), (second, len(whole))]
    assert list(points.frames(whole, len(one))) == [(second, len(whole))]
    assert list(points.frames(whole[:-1])) == [(first, len(one))]
    assert list(points.frames(whole + b"\0" * 4096)) == list(points.frames(whole))
    assert list(points.frames(one + b"\xff" * 50)) == [(first, len(one))]
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    assert list(points.frames(bytes(flipped))) == [(first, len(one))]
