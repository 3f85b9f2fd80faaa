"""However a stream of points is cut, redelivered and taken up again, it meets the same condition at the same point: that
which a reading of the definitions, word for word, finds.
"""

import math

from hypothesis import example, given
from hypothesis import strategies as st

from spell_proto.conditions import Compare, Condition, IsNan, Missing, Plateau
from spell_proto.metrics import Point
from spell_proto.points import Stream, batch, decode, encode
from spell_scheduler import stopping

START = 1_000_000
SECOND = 1_000_000
STREAM = Stream(1, 1)
NAMES = st.sampled_from("ab")
VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 0.5, math.nan, math.inf, -math.inf, "text"]), st.floats(), st.integers(-3, 3)
)
CLAUSES = st.one_of(
    st.builds(Compare, NAMES, st.sampled_from(["<", "<=", ">", ">="]), st.integers(-2, 3), st.integers(0, 4)),
    st.builds(IsNan, NAMES, st.integers(0, 4)),
    st.builds(
        Plateau, NAMES, st.integers(1, 4), st.booleans(), st.sampled_from([0, 0, 0.5, 2]), st.integers(0, 3)
    ),
    st.builds(Missing, NAMES, st.integers(1, 20)),
)
CONDITIONS = st.lists(
    st.lists(CLAUSES, min_size=1, max_size=3).map(lambda each: Condition(tuple(each))), max_size=4
)
# Times in microseconds, close together or seconds apart, at exactly the border of a clause now and then.
STEPS = st.one_of(st.integers(1, 3), st.integers(0, 12).map(lambda seconds: max(1, seconds * SECOND)))
SENT = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8), STEPS, VALUES), max_size=25)


def stamped(sent):
    points, at = [], START
    for name, index, step, value in sent:
        at += step
        points.append(Point(name, index, at, value))
    return points


# ---- the definitions, word for word --------------------------------------------------------------------------


def counted(clause, points):
    return [
        point
        for point in points
        if point.name == clause.metric
        and not isinstance(point.value, str)
        and point.index >= clause.min_index
    ]


def holds(clause, points, now):
    if isinstance(clause, Missing):
        return now >= missing_from(clause, points)
    seen = counted(clause, points)
    match clause:
        case Compare():
            return bool(seen) and eval(
                f"value {clause.operator} limit", {"value": seen[-1].value, "limit": clause.value}
            )
        case IsNan():
            return bool(seen) and math.isnan(seen[-1].value)
        case Plateau():
            # The first of each index that is beyond all before it.
            steps = [p.value for i, p in enumerate(seen) if all(q.index < p.index for q in seen[:i])]
            best, since = None, 0
            for value in steps:
                sign = -1 if clause.up else 1
                if not math.isnan(value) and (best is None or sign * value < sign * best - clause.delta):
                    best, since = value, 0
                else:
                    since += 1
            return since >= clause.points


def missing_from(clause, points):
    last = [point.at_us for point in points if point.name == clause.metric]
    return (last[-1] if last else START) + clause.seconds * SECOND


def due(condition, points):
    """The time at which the condition holds if nothing comes; None if it cannot come to that."""
    missing = [clause for clause in condition.clauses if isinstance(clause, Missing)]
    others = [clause for clause in condition.clauses if not isinstance(clause, Missing)]
    if missing and all(holds(clause, points, 0) for clause in others):
        return max(missing_from(clause, points) for clause in missing)
    return None


def reference(conditions, points, until):
    """(condition, time, number of the point or None) of what is met first."""
    for known in range(len(points) + 1):
        passed = points[known].at_us if known < len(points) else until
        dues = [
            (at, place)
            for place, each in enumerate(conditions)
            if (at := due(each, points[:known])) is not None
        ]
        if dues and min(dues)[0] <= passed:
            return min(dues)[1], min(dues)[0], None
        if known < len(points):
            point = points[known]
            for place, condition in enumerate(conditions):
                touched = point.name in condition.metrics
                if touched and all(
                    holds(clause, points[: known + 1], point.at_us) for clause in condition.clauses
                ):
                    return place, point.at_us, known
    return None


# ---- the comparison ------------------------------------------------------------------------------------------


def whole(conditions, points, until):
    watch = stopping.begin(conditions, START)
    return stopping.feed(conditions, watch, batch(STREAM, 0, points, until))


@given(CONDITIONS, SENT, st.integers(0, 30))
@example([Condition((Missing("a", 5), Compare("b", ">", 0)))], [("b", 0, 6 * SECOND, 1)], 0)
@example([Condition((Missing("a", 5),))], [("a", 0, 5 * SECOND, 1)], 0)
def test_the_decision_is_that_of_the_definitions(conditions, sent, more):
    points = stamped(sent)
    until = (points[-1].at_us if points else START) + more * SECOND

    watch = whole(conditions, points, until)

    fired = watch.fired and (watch.fired.condition, watch.fired.at_us, watch.fired.number)
    assert fired == reference(conditions, points, until)
    if watch.fired:
        stopping.sentence(conditions, watch.fired)
    stopping.notes(conditions, watch)


#: How far to go back, how far to go on, whether the clock is told as far as it can be, and whether to store the watch.
CUTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8), st.booleans(), st.booleans()), max_size=12)


@given(CONDITIONS, SENT, CUTS)
def test_no_cut_and_no_redelivery_changes_it(conditions, sent, cuts):
    points = stamped(sent)
    until = (points[-1].at_us if points else START) + 15 * SECOND
    watch, at = stopping.begin(conditions, START), 0

    for back, on, told, stored in [*cuts, (0, len(points), False, False)]:
        begin = max(0, at - back)
        end = min(len(points), begin + on)
        limit = points[end].at_us - 1 if end < len(points) else until
        piece = batch(STREAM, begin, points[begin:end], limit if told else 0)
        assert stopping.behind(watch, piece) == 0
        watch = stopping.feed(conditions, watch, decode(encode(piece)))
        if stored:
            watch = stopping.load(conditions, stopping.dump(watch))
        at = max(at, end)
    watch = stopping.feed(conditions, watch, batch(STREAM, len(points), [], until))

    assert stopping.dump(watch) == stopping.dump(whole(conditions, points, until))
