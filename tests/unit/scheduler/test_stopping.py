"""Stop conditions over points: what meets which, when, and what is said of it."""

import json
import math

import pytest

from spell_proto.conditions import parse_all
from spell_proto.errors import CodecError
from spell_proto.metrics import Point
from spell_proto.points import Stream, batch
from spell_scheduler import stopping

STREAM = Stream(7, 1)
START = 1_700_000_000_000_000
SECOND = 1_000_000
NAN = math.nan


def fed(texts, points, *, until=0.0):
    """The watch after these points, given as (name, index, value) one second apart, or with a time as the fourth."""
    conditions = parse_all(texts)
    made = [
        Point(point[0], point[1], START + int((point[3] if len(point) > 3 else i + 1) * SECOND), point[2])
        for i, point in enumerate(points)
    ]
    given = batch(STREAM, 0, made, START + int(until * SECOND))
    return conditions, stopping.feed(conditions, stopping.begin(conditions, START), given)


def fired_at(texts, points, **kwargs):
    """The number of the point that met a condition, or None."""
    _, watch = fed(texts, points, **kwargs)
    return watch.fired and watch.fired.number


def series(name, values):
    return [(name, index, value) for index, value in enumerate(values)]


def test_the_first_ten_epochs_are_spared():
    values = [0.1] * 10 + [0.6, 0.5, 0.49]

    assert fired_at(["keras/val_acc < 0.5 : 10"], series("keras/val_acc", values)) == 12
    assert fired_at(["keras/val_acc < 0.5 : 9"], series("keras/val_acc", values)) == 9


@pytest.mark.parametrize(("operator", "met"), [("<", [0]), ("<=", [0, 1]), (">", [2]), (">=", [1, 2])])
def test_the_four_operators(operator, met):
    assert [i for i in range(3) if fired_at([f"a {operator} 1"], [("a", 0, i)]) == 0] == met


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
def test_nan_and_texts_satisfy_no_comparison(operator):
    assert fired_at([f"a {operator} 1"], [("a", 0, NAN), ("a", 1, "0")]) is None


def test_infinities_are_compared():
    assert fired_at(["a >= inf"], [("a", 0, 1e308), ("a", 1, math.inf)]) == 1
    assert fired_at(["a < 0"], [("a", 0, -math.inf)]) == 0


def test_isnan_is_met_by_nan_alone_and_from_its_index_on():
    values = series("loss", [NAN, math.inf, "nan", 1.0, NAN])

    assert fired_at(["isnan(loss)"], values) == 0
    assert fired_at(["isnan(loss) : 1"], values) == 4


def test_every_value_of_an_index_counts():
    assert fired_at(["loss > 5"], [("loss", 3, 1.0), ("loss", 3, 6.0)]) == 1


def test_and_compares_the_latest_counted_value_of_each():
    text = ["loss > 5 && acc < 0.1 : 2"]

    assert fired_at(text, [("loss", 0, 9), ("loss", 1, 4), ("acc", 2, 0.0)]) is None
    assert fired_at(text, [("acc", 1, 0.0), ("loss", 0, 9)]) is None
    assert fired_at(text, [("acc", 2, 0.0), ("acc", 1, 0.5), ("loss", 0, 9)]) == 2
    # NaN is the latest value of acc, and no comparison is satisfied by it.
    assert fired_at(text, [("acc", 2, 0.0), ("acc", 3, NAN), ("loss", 0, 9)]) is None


def test_any_one_of_several_conditions_is_enough_and_the_first_met_is_the_one():
    _, watch = fed(["a > 9", "b > 9", "a > 1"], [("b", 0, 1), ("a", 0, 5), ("b", 1, 10)])

    assert (watch.fired.condition, watch.fired.number) == (2, 1)
    assert watch.next == 2
    _, watch = fed(["a > 9", "a > 1"], [("a", 0, 10)])
    assert watch.fired.condition == 0


def test_a_plateau_is_so_many_indexes_without_a_better_value():
    text = ["no improvement in val_loss for 3"]

    assert fired_at(text, series("val_loss", [5, 4, 4, 4, 3, 3, 3.5, 3])) == 7
    assert fired_at(text, series("val_loss", [5, 4, 3, 2, 1])) is None
    assert fired_at(["no increase in acc for 2"], series("acc", [1, 2, 2, 1, 3])) == 3
    assert fired_at(["no increase in acc for 2 : 3"], series("acc", [1, 2, 2, 1, 0, 0])) == 5


def test_better_by_no_more_than_the_delta_is_no_improvement():
    text = ["no improvement in a for 2 by 0.5"]

    assert fired_at(text, series("a", [4, 3.5, 3.75, 3])) == 2
    # Small steps add up: what counts is the distance to the best.
    assert fired_at(text, series("a", [4, 3.75, 3.25, 3, 2.5])) is None


def test_nan_is_never_an_improvement():
    text = ["no improvement in a for 3"]

    assert fired_at(text, series("a", [1, NAN, NAN, NAN])) == 3
    assert fired_at(text, series("a", [NAN, NAN, NAN])) == 2
    assert fired_at(text, series("a", [NAN, NAN, 5, NAN, 4])) is None


def test_an_index_counts_once_for_a_plateau():
    text = ["no improvement in a for 2"]
    points = [("a", epoch, value) for epoch, value in enumerate([3, 2, 2]) for _rank in range(8)]

    assert fired_at(text, points) is None
    assert fired_at(text, [*points, ("a", 1, 9), ("a", 3, "x"), ("a", 3, 2)]) == len(points) + 2


def test_large_whole_numbers_are_not_rounded():
    assert fired_at(["no increase in a for 1"], series("a", [2**53, 2**53 + 1])) is None
    assert fired_at(["no increase in a for 1"], series("a", [2**53 + 1, 2**53 + 1])) == 1


def test_a_metric_is_missing_from_its_last_point_on():
    text = ["missing loss for 10s"]

    _, watch = fed(text, [("loss", 0, 1.0, 3), ("other", 0, 1.0, 20)])
    assert (watch.fired.number, watch.fired.at_us) == (None, START + 13 * SECOND)
    _, watch = fed(text, [("loss", 0, "a text is a point", 9), ("loss", 1, 1.0, 18)], until=27.9)
    assert watch.fired is None
    _, watch = fed(text, [("loss", 0, 1.0, 9)], until=19)
    assert watch.fired.at_us == START + 19 * SECOND


def test_a_metric_is_missing_from_the_start_of_the_command_on():
    _, watch = fed(["missing loss for 10s"], [], until=9.9)
    assert watch.fired is None

    _, watch = fed(["missing loss for 10s"], [], until=50)
    assert (watch.fired.at_us, watch.next, watch.clock_us) == (START + 10 * SECOND, 0, START + 10 * SECOND)


def test_a_point_that_comes_too_late_saves_nothing():
    _, watch = fed(["missing loss for 10s"], [("loss", 0, 1.0, 10)])

    assert watch.fired.at_us == START + 10 * SECOND


def test_missing_together_with_a_comparison():
    text = ["missing heartbeat for 10s && acc < 0.5"]

    # The comparison holds first, then the time passes.
    _, watch = fed(text, [("acc", 0, 0.1, 1)], until=30)
    assert (watch.fired.number, watch.fired.at_us) == (None, START + 10 * SECOND)
    # The time has passed already when the comparison is met.
    _, watch = fed(text, [("acc", 0, 0.9, 1), ("acc", 1, 0.1, 20)])
    assert (watch.fired.number, watch.fired.at_us) == (1, START + 20 * SECOND)
    _, watch = fed(text, [("acc", 0, 0.1, 1), ("heartbeat", 0, 1, 9), ("acc", 1, 0.9, 12)], until=60)
    assert watch.fired is None


def test_the_earlier_of_two_that_are_missing():
    _, watch = fed(["missing a for 20s", "missing b for 10s"], [("b", 0, 1, 5)], until=60)

    assert (watch.fired.condition, watch.fired.at_us) == (1, START + 15 * SECOND)


def test_the_one_that_came_last_decides_where_several_are_missing():
    for text in ("missing a for 20s && missing b for 5s", "missing b for 5s && missing a for 20s"):
        _, watch = fed([text], [], until=60)
        assert watch.fired.at_us == START + 20 * SECOND


def test_what_was_read_is_not_read_again():
    conditions = parse_all(["b > 0 && a > 5", "no improvement in c for 3"])
    made = [
        Point(name, i, START + i + 1, value)
        for i, (name, value) in enumerate([("a", 9), ("a", 1), ("c", 1), ("c", 2)])
    ]
    watch = stopping.feed(conditions, stopping.begin(conditions, START), batch(STREAM, 0, made))

    for again in (batch(STREAM, 0, made[:1]), batch(STREAM, 0, made), batch(STREAM, 3, made[3:])):
        assert stopping.dump(stopping.feed(conditions, watch, again)) == stopping.dump(watch)
    more = batch(STREAM, 3, [*made[3:], Point("b", 0, START + 9, 1)])
    assert stopping.feed(conditions, watch, more).next == 5
    assert stopping.feed(conditions, watch, more).fired is None


def test_a_batch_that_would_leave_a_hole_is_not_read():
    conditions = parse_all(["a > 1"])
    watch = stopping.begin(conditions, START)
    late = batch(STREAM, 3, [Point("a", 3, START + 9, 5)])

    assert stopping.behind(watch, late) == 3
    with pytest.raises(AssertionError):
        stopping.feed(conditions, watch, late)


def test_nothing_is_read_beyond_the_point_that_met_a_condition():
    conditions, watch = fed(["a > 1"], [("a", 0, 2), ("a", 1, 3)])
    late = batch(STREAM, 9, [Point("a", 9, START + 99 * SECOND, 7)])

    assert stopping.behind(watch, late) == 0
    assert stopping.feed(conditions, watch, late) is watch


@pytest.mark.parametrize(
    ("text", "points", "said"),
    [
        (
            "keras/val_acc<0.5:2",
            series("keras/val_acc", [0, 0, 0.43]),
            "stop condition 'keras/val_acc<0.5:2' was met: keras/val_acc was 0.43 at index 2",
        ),
        (
            "loss > 5 && acc < 1",
            [("loss", 4, 2**60), ("acc", 7, 0.0)],
            "stop condition 'loss > 5 && acc < 1' was met: loss was 1152921504606846976 at index 4; acc was 0 at index 7",
        ),
        ("isnan(a)", [("a", 3, NAN)], "stop condition 'isnan(a)' was met: a was NaN at index 3"),
        ("a > 1", [("a", 3, math.inf)], "stop condition 'a > 1' was met: a was inf at index 3"),
        (
            "no improvement in a for 2",
            series("a", [3, 0.5, 2, 4]),
            "stop condition 'no improvement in a for 2' was met: a was 4 at index 3, and its best 0.5 at index 1",
        ),
        (
            "no improvement in a for 1",
            [("a", 0, NAN)],
            "stop condition 'no improvement in a for 1' was met: a was NaN at index 0, and its best no number before",
        ),
        (
            "missing a for 2s",
            [("a", 5, 1.0, 1), ("b", 0, 1, 60)],
            "stop condition 'missing a for 2s' was met: a came last at index 5, 2 s before",
        ),
        (
            "missing a for 2s",
            [("b", 0, 1, 60)],
            "stop condition 'missing a for 2s' was met: a has never come",
        ),
    ],
)
def test_what_met_it_is_said(text, points, said):
    conditions, watch = fed([text], points)

    assert stopping.sentence(conditions, watch.fired) == said


def test_what_was_never_reported_is_noted_at_the_end():
    conditions, watch = fed(
        ["val_acc < 0.5", "loss > 9 : 10 && val_acc < 1", "isnan(t)", "acc < 0", "missing gone for 1h"],
        [("loss", 3, 10), ("t", 0, "text"), ("acc", 0, 1)],
    )

    assert stopping.notes(conditions, watch) == (
        "stop condition 'val_acc < 0.5': metric val_acc was never reported",
        "stop condition 'loss > 9 : 10 && val_acc < 1': metric loss was never a number at an index from 10 on",
        "stop condition 'loss > 9 : 10 && val_acc < 1': metric val_acc was never reported",
        "stop condition 'isnan(t)': metric t was never a number",
        "stop condition 'missing gone for 1h': metric gone was never reported",
    )


def test_a_watch_is_stored_and_small():
    texts = ["isnan(a) && a > 5", "no improvement in a for 50", "missing b for 1h"]
    conditions, watch = fed(texts, [*series("a", [1, -math.inf, NAN]), ("b", 2**53, "x" * 4000)])

    data = stopping.dump(watch)

    assert stopping.dump(stopping.load(conditions, data)) == data
    assert len(data) < 600
    assert "NaN" not in data.decode()
    assert json.loads(data)["next"] == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"v":2}',
        b'{"v":1,"started_us":0,"next":0,"clock_us":0,"memories":[],"fired":null}',
        b'{"v":1,"started_us":0,"next":0,"clock_us":0,"memories":[[[null,null,0]]],"fired":null}',
        b'{"v":1,"started_us":0,"next":0,"clock_us":0,"memories":[[[[0,0,0,"x"],null,0,1]]],"fired":null}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_watch_is_refused(data):
    with pytest.raises(CodecError):
        stopping.load(parse_all(["a > 1"]), data)
