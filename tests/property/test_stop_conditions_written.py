"""Stop conditions: what is written is read back, and whatever is typed is read or refused, in no time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_proto import metrics
from spell_proto.conditions import (
    CHARS_MAX,
    CLAUSES_MAX,
    Compare,
    Condition,
    IsNan,
    Missing,
    Plateau,
    parse,
    parse_all,
    written,
)
from spell_proto.errors import InvalidError

WORDS = [
    "no",
    "improvement",
    "increase",
    "in",
    "for",
    "by",
    "missing",
    "isnan",
    "val_loss",
    "acc",
    "keras/val_acc",
]
NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9_./-]([A-Za-z0-9_./ -]{0,20}[A-Za-z0-9_./-])?", fullmatch=True),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join),
)
NUMBERS = st.floats(allow_nan=False)
INDEXES = st.integers(0, metrics.INDEX_MAX)
CLAUSES = st.one_of(
    st.builds(Compare, NAMES, st.sampled_from(["<", "<=", ">", ">="]), NUMBERS, INDEXES),
    st.builds(IsNan, NAMES, INDEXES),
    st.builds(
        Plateau,
        NAMES,
        st.integers(1, 1_000_000),
        st.booleans(),
        st.floats(0, allow_infinity=False, allow_nan=False),
        INDEXES,
    ),
    st.builds(Missing, NAMES, st.integers(1, 366 * 86400)),
)
PIECES = st.sampled_from(
    [
        *WORDS,
        *"<>=!&:().5 \n\t-+eE$",
        "<=",
        "&&",
        ":10",
        "0.5",
        "1e9",
        "10m",
        "nan",
        "inf",
        "for 5",
        "💥",
        "\ud800",
        "İ",
    ]
)


@given(st.lists(CLAUSES, min_size=1, max_size=CLAUSES_MAX))
def test_what_is_written_is_read_back(clauses):
    condition = Condition(tuple(clauses))
    text = written(condition)
    if len(text) > CHARS_MAX:
        condition = Condition((clauses[0],))
        text = written(condition)

    assert parse(text) == condition
    assert written(parse(text)) == text


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(PIECES, max_size=25).map("".join),
        st.lists(PIECES, max_size=25).map(" ".join),
    )
)
def test_whatever_is_typed_is_read_or_refused(text):
    try:
        condition = parse(text)
    except InvalidError as error:
        refused = error
    else:
        assert parse(written(condition)) == condition
        return

    sentence, line, caret = refused.message.split("\n")
    assert refused.code == "stop_condition_syntax"
    assert sentence
    assert len(caret) <= len(line) + 1
    assert caret.endswith("^")


@given(st.lists(st.lists(PIECES, max_size=10).map(" ".join), max_size=8))
def test_many_are_read_or_refused(texts):
    try:
        conditions = parse_all(texts)
    except InvalidError:
        return
    assert len(conditions) == len(texts) <= 5


@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "<",
        "for ",
        "a for ",
        "isnan(",
        "&&",
        "&",
        "9",
        "9.",
        "9e",
        "no improvement in ",
        "missing ",
        "a<1&&",
        "< ",
    ],
)
@pytest.mark.parametrize("begin", ["", "a < ", "no improvement in ", "missing a for ", "isnan("])
def test_nothing_takes_long(begin, piece):
    text = (begin + piece * CHARS_MAX)[:CHARS_MAX]
    started = time.process_time()
    for _ in range(10):
        with pytest.raises(InvalidError):
            parse(text)

    # A millisecond each, where a backtracking reader would take seconds.
    assert time.process_time() - started < 0.2
