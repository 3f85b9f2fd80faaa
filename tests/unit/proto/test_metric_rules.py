"""What a metric may be called, what its points may be worth and be numbered."""

import math

import pytest

from spell_proto import metrics
from spell_proto.errors import InvalidError


@pytest.mark.parametrize(
    "name", ["a", "keras/val_acc", "../x", "val loss", "hardware/gpu0/utilization", "A-b.c_1", "x" * 128]
)
def test_a_name_is_letters_digits_and_some_signs(name):
    assert metrics.name(name) == name
    assert metrics.fault(name) is None


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("", 0),
        ("a\nb", 1),
        ("💥", 0),
        ("$x", 0),
        ("a:b", 1),
        (" a", 0),
        ("a ", 1),
        ("x" * 129, 128),
        ("x" * 300 + "$", 128),
        ("ａ", 0),
        ("a\0", 1),
    ],
)
def test_any_other_name_is_refused_at_its_place(name, at):
    with pytest.raises(InvalidError, match="is no name of a metric: 1 to 128 letters"):
        metrics.name(name)

    assert metrics.fault(name) == at


def test_a_name_that_is_no_text_is_refused_as_the_original_did():
    with pytest.raises(InvalidError, match=r"^'name' must be a string type$"):
        metrics.name(3)


@pytest.mark.parametrize(
    ("tag", "name"),
    [("metrics/mAP50(B)", "metrics/mAP50_B_"), ("  acc@5% ", "acc_5_"), ("a" * 127 + " b", "a" * 127)],
)
def test_the_series_of_another_tool_gets_a_name_that_may_be(tag, name):
    assert metrics.adopted(tag) == name


def test_a_series_without_any_name_is_refused():
    with pytest.raises(InvalidError):
        metrics.adopted("   ")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (True, 1),
        (7, 7),
        (0.5, 0.5),
        (math.inf, math.inf),
        ("a text", "a text"),
        (2**63 - 1, 2**63 - 1),
        (2**63, float(2**63)),
        (-(10**400), -math.inf),
    ],
)
def test_numbers_and_texts_are_values(given, kept):
    value = metrics.value(given)

    assert value == kept
    assert type(value) is type(kept)


def test_nan_is_a_value():
    assert math.isnan(metrics.value(math.nan))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (None, r"'value' must be a float, int, or string type \(type=NoneType\)"),
        ([1], r"\(type=list\)"),
        ("a\0b", "a NUL byte at position 1"),
        ("a\ud800", "not valid UTF-8 at position 1"),
        ("ä" * 2049, "4098 bytes long, at most 4096"),
    ],
)
def test_anything_else_is_no_value(given, why):
    with pytest.raises(InvalidError, match=why):
        metrics.value(given)


@pytest.mark.parametrize("given", [-1, 2**53 + 1, pytest.param(10**5000, id="huge"), 1.5, "3", True, None])
def test_an_index_is_a_whole_number_from_0_to_2_to_the_53(given):
    assert metrics.index(2**53) == 2**53

    with pytest.raises(InvalidError, match="'index'"):
        metrics.index(given)


def test_a_point_without_an_index_gets_the_one_after_the_point_before_it():
    assert metrics.next_index(None) == 0
    assert metrics.next_index(0) == 1
    assert metrics.next_index(41) == 42

    with pytest.raises(InvalidError):
        metrics.next_index(2**53)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"name": "a", "type": "number", "number": 0.5}, ("a", 0.5, None)),
        ({"name": "a", "type": "number", "number": 3, "index": 4}, ("a", 3, 4)),
        ({"name": "a", "type": "number", "number": 3, "index": None}, ("a", 3, None)),
        ({"name": "a", "type": "text", "text": "x", "run_id": 7}, ("a", "x", None)),
    ],
)
def test_a_point_is_sent_as_json(body, sent):
    assert metrics.sent(body) == sent


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "a",
        {},
        {"name": "a"},
        {"name": "a", "type": []},
        {"name": ["a"], "type": "number", "number": 1},
        {"name": "a", "type": "number", "text": "x"},
        {"name": "a", "type": "number", "number": "1"},
        {"name": "a", "type": "number", "number": True},
        {"name": "a", "type": "number", "number": None},
        {"name": "a", "type": "number", "number": math.nan},
        {"name": "a", "type": "number", "number": -math.inf},
        {"name": "a", "type": "number", "number": 10**400},
        {"name": "a", "type": "text", "text": 1},
        {"name": "a", "type": "number", "number": 1, "index": -1},
        {"name": "a", "type": "number", "number": 1, "index": 1.5},
        {"name": "a", "type": "number", "number": 1, "index": "1"},
        {"name": "$a", "type": "number", "number": 1},
    ],
)
def test_json_that_is_no_point_is_refused_in_one_line(body):
    with pytest.raises(InvalidError) as refused:
        metrics.sent(body)

    assert "\n" not in refused.value.message
