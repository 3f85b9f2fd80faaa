"""Whatever bytes come: they are a batch of points, or refused."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from spell_proto import metrics, points
from spell_proto.errors import CodecError
from spell_proto.metrics import Point
from spell_proto.points import Dropped, Stream

VALUES = st.one_of(
    st.floats(allow_nan=False),
    st.integers(metrics.INTEGER_MIN, metrics.INTEGER_MAX),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
)
SENT = st.lists(
    st.tuples(
        st.sampled_from(["a", "b/c", "d e"]), st.integers(0, metrics.INDEX_MAX), st.integers(1, 2**30), VALUES
    )
)
NUMBERS = st.integers(0, 2**60)


def stamped(sent):
    at, found = 0, []
    for name, index, step, value in sent:
        at += step
        found.append(Point(name, index, at, value))
    return found


@given(
    SENT,
    NUMBERS,
    NUMBERS,
    st.builds(Stream, NUMBERS, st.integers(0, 2**31), st.integers(0, points.RANK_MAX)),
    st.builds(Dropped, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
)
def test_a_batch_comes_back_as_it_was(sent, first, until, stream, dropped):
    given_batch = points.batch(stream, first, stamped(sent), until, dropped)

    assert points.decode(points.encode(given_batch)) == given_batch


@given(SENT, st.data())
def test_changed_bytes_are_a_batch_or_refused(sent, data):
    changed = bytearray(points.encode(points.batch(Stream(1, 1), 0, stamped(sent))))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))

    with contextlib.suppress(CodecError):
        found = points.decode(bytes(changed))
        assert len(list(found.points())) == len(found)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_batch_or_refused(data):
    with contextlib.suppress(CodecError):
        points.decode(b"\x01" + data)
    for _, end in points.frames(data):
        assert end <= len(data)
