"""What becomes of the points that a command sends: numbers, indexes, times and limits."""

import pytest

from spell_proto import points
from spell_proto.errors import CodecError
from spell_proto.metrics import INDEX_MAX, Point, Sent
from spell_proto.points import Dropped, Stream
from spell_runner.intake import Intake, Limits, complaints

NOW = 1_700_000_000_000_000
SECOND = 1_000_000


def test_points_are_numbered_from_0_and_stamped():
    intake = Intake()

    taken = [intake.take(Sent("a", 0.5), NOW), intake.take(Sent("b", "text", 7), NOW + 5)]

    assert taken == [Point("a", 0, NOW, 0.5), Point("b", 7, NOW + 5, "text")]
    assert intake.next == 2


def test_a_point_without_an_index_follows_the_one_before_it():
    intake = Intake()
    given = [None, None, 10, None, 3, None, 3, None]

    assert [intake.take(Sent("a", 1, index), NOW).index for index in given] == [0, 1, 10, 11, 3, 4, 3, 4]
    assert intake.take(Sent("b", 1), NOW).index == 0


def test_indexes_can_be_used_up():
    intake = Intake()
    intake.take(Sent("a", 1, INDEX_MAX), NOW)

    assert intake.take(Sent("a", 1), NOW) is None
    assert intake.dropped == Dropped(refused=1)
    assert intake.take(Sent("a", 1, 0), NOW).index == 0


def test_each_point_is_later_than_the_one_before():
    intake = Intake()

    assert [intake.take(Sent("a", 1), at).at_us - NOW for at in (NOW, NOW, NOW - 9, NOW + 1, NOW + 9)] == [
        0,
        1,
        2,
        3,
        9,
    ]


def test_what_comes_after_a_mark_is_stamped_later():
    intake = Intake()

    assert intake.mark(NOW) == NOW
    assert intake.take(Sent("a", 1), NOW - 5).at_us == NOW + 1
    assert intake.mark(NOW - 5) == NOW + 1


def test_a_second_may_hold_so_many_points():
    intake = Intake(Limits(points_per_second=10))

    first = [intake.take(Sent("a", i), NOW) for i in range(15)]
    later = [intake.take(Sent("a", i), NOW + SECOND // 2) for i in range(15)]
    long_after = [intake.take(Sent("a", i), NOW + 99 * SECOND) for i in range(15)]

    assert [sum(point is not None for point in each) for each in (first, later, long_after)] == [10, 5, 10]
    assert intake.dropped == Dropped(rate=20)


def test_a_steady_stream_at_the_limit_loses_nothing():
    intake = Intake(Limits(points_per_second=50_000))

    # Read at once, sent over two seconds: what counts is when it was sent.
    assert all(intake.take(Sent("a", i), NOW + i * 20) for i in range(100_000))


def test_a_clock_that_is_set_back_gives_no_room():
    intake = Intake(Limits(points_per_second=2))

    kept = [intake.take(Sent("a", 1), NOW - i * SECOND) is not None for i in range(5)]

    assert kept == [True, True, False, False, False]


def test_a_dropped_point_has_used_its_index():
    intake = Intake(Limits(points_per_second=2))
    for i in range(5):
        intake.take(Sent("a", i), NOW)

    assert intake.take(Sent("a", 9), NOW + SECOND).index == 5
    assert intake.next == 3


def test_there_are_so_many_names():
    intake = Intake(Limits(names=2))

    kept = [intake.take(Sent(name, 1), NOW) is not None for name in "abcbadc"]

    assert kept == [True, True, False, True, True, False, False]
    assert intake.dropped == Dropped(names=3)


def test_there_are_so_many_points_in_all():
    intake = Intake(Limits(points=3))

    assert [intake.take(Sent("a", 1), NOW) is not None for _ in range(5)] == [True, True, True, False, False]
    assert intake.dropped == Dropped(points=2)


def test_a_flood_takes_no_room_from_what_the_machine_says_of_itself():
    intake = Intake(Limits(points_per_second=2, names=1, points=2))
    for _ in range(9):
        intake.take(Sent("a", 1), NOW)

    said = [intake.take(Sent("hardware/cpu", 50.0), NOW, ours=True) for _ in range(3)]

    assert [point.index for point in said] == [0, 1, 2]
    assert intake.dropped == Dropped(points=7)


def test_what_is_no_point_is_counted():
    intake = Intake()
    intake.refuse()

    assert intake.dropped == Dropped(refused=1)


def test_a_killed_one_goes_on_with_what_the_file_has():
    intake = Intake(Limits(points_per_second=4))
    written = []
    for step in range(6):
        taken = [intake.take(Sent(name, step), NOW + step * SECOND) for name in "ababa"]
        kept = [point for point in taken if point]
        first = intake.next - len(kept)
        written.append(
            points.batch(Stream(1, 1), first, kept, intake.mark(NOW + step * SECOND), intake.dropped)
        )
        if step == 2:
            stored = intake.dump()

    again = Intake.load(stored, Limits(points_per_second=4))
    # Some of them are known already.
    for batch in written[:2]:
        again.catch_up(batch)
    assert again.dump() == stored
    for batch in written[1:]:
        again.catch_up(batch)

    assert again.next == intake.next == 24
    assert again.dropped == intake.dropped == Dropped(rate=6)
    later = NOW + 60 * SECOND
    assert again.take(Sent("b", 1), later) == intake.take(Sent("b", 1), later)
    assert again.take(Sent("a", 1, 3), NOW) == intake.take(Sent("a", 1, 3), NOW)


def test_one_that_had_stored_nothing_learns_everything_from_the_file():
    intake = Intake()
    kept = [intake.take(Sent(name, 1), NOW) for name in "aba"]
    intake.refuse()
    again = Intake()

    again.catch_up(points.batch(Stream(1, 1), 0, kept, intake.mark(NOW + 9), intake.dropped))

    assert again.dump() == intake.dump()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"v":2}', b'{"v":1,"next":0,"stamp":0,"dropped":[1]}'])
def test_what_is_no_dump_is_refused(data):
    with pytest.raises(CodecError):
        Intake.load(data)


def test_people_are_told_what_was_dropped_and_why():
    limits = Limits()

    assert complaints(Dropped(), limits) == []
    assert complaints(Dropped(1234, 5, 6, 7), limits) == [
        "1,234 points were dropped, above 50,000 points a second",
        "5 points were dropped, of names above the first 10,000",
        "6 points were dropped, above the first 100,000,000",
        "7 points were dropped, that are no points: a name, a value or an index that is not allowed",
    ]
