"""What may be written after `--stop-condition`, and what is said of anything else."""

import math

import pytest

from spell_proto.conditions import Compare, Condition, IsNan, Missing, Plateau, parse, parse_all, written
from spell_proto.errors import InvalidError


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("keras/val_acc < 0.5 : 10", [Compare("keras/val_acc", "<", 0.5, 10)]),
        ("keras/val_acc<0.5:10", [Compare("keras/val_acc", "<", 0.5, 10)]),
        ("  a  >=  1e3  ", [Compare("a", ">=", 1000.0)]),
        ("a < = -.5", [Compare("a", "<=", -0.5)]),
        ("val loss > 3.", [Compare("val loss", ">", 3.0)]),
        ("a >= inf", [Compare("a", ">=", math.inf)]),
        ("a < -Infinity : 0", [Compare("a", "<", -math.inf)]),
        ("loss > 5&&accuracy<0.1", [Compare("loss", ">", 5), Compare("accuracy", "<", 0.1)]),
        ("isnan(loss)", [IsNan("loss")]),
        ("isNaN ( val loss ) : 3 && a<1", [IsNan("val loss", 3), Compare("a", "<", 1)]),
        ("isnan < 3", [Compare("isnan", "<", 3)]),
        ("no improvement in val_loss for 5", [Plateau("val_loss", 5)]),
        ("No improvement in val_loss for 5 by 0.001 : 7", [Plateau("val_loss", 5, delta=0.001, min_index=7)]),
        ("no increase in val_acc for 5 by 0", [Plateau("val_acc", 5, up=True)]),
        ("no decrease in val_acc for 5", [Plateau("val_acc", 5)]),
        ("no improvement in acc_loss for 5", [Plateau("acc_loss", 5)]),
        ("no decrease in a for b for 2:1", [Plateau("a for b", 2, min_index=1)]),
        ("missing loss for 10m", [Missing("loss", 600)]),
        ("missing a for 2h for 90s", [Missing("a for 2h", 90)]),
        ("missing a for 1d && a < 1", [Missing("a", 86400), Compare("a", "<", 1)]),
        ("missing a for 1d < 1", [Compare("missing a for 1d", "<", 1)]),
    ],
)
def test_a_condition_is_read(text, clauses):
    condition = parse(text)

    assert condition == Condition(tuple(clauses))
    assert condition.text == text.strip()
    assert parse(written(condition)) == condition


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 0, "a condition is missing"),
        ("a < 1 && ", 9, "a condition is missing"),
        ("&& a < 1", 0, "a condition is missing"),
        ("acc 0.5", 7, "an operator is missing"),
        ("loss << 1", 5, "<< is no operator"),
        ("a == 1", 2, "== is no operator"),
        ("a => 1", 2, "=> is no operator"),
        ("a != 1", 2, "!= is no operator"),
        ("< 1", 0, "the name of a metric is missing"),
        ("a b$ < 1", 3, "the name of a metric is 1 to 128"),
        ("é < 1", 0, "the name of a metric is 1 to 128"),
        ("x" * 129 + " < 1", 128, "the name of a metric is 1 to 128"),
        ("loss <", 6, "a number is expected here"),
        ("loss < x", 7, "a number is expected here"),
        ("a < nan", 4, "for NaN there is isnan"),
        ("a < 0x10", 4, "a number is expected here"),
        ("a < 1_000", 4, "a number is expected here"),
        ("a < 1.5.2", 4, "a number is expected here"),
        ("a < 1e999", 4, "this number is too large"),
        ("a < 1 : -1", 8, "MIN_INDEX is a whole number from 0"),
        ("a < 1 : 1.5", 8, "MIN_INDEX is a whole number from 0"),
        ("a < 1 :", 7, "MIN_INDEX is a whole number from 0"),
        ("a < 1 : 9007199254740993", 8, "MIN_INDEX is a whole number from 0"),
        ("a<1:2:3", 5, "nothing may follow MIN_INDEX"),
        ("a < 5 %", 6, "nothing but ': MIN_INDEX', or && and another condition, may follow here"),
        ("a < 1 & b < 2", 6, "nothing but ': MIN_INDEX', or && and another condition, may follow here"),
        ("a & b", 2, "&& joins two conditions"),
        ("isnan(", 6, "a ) is missing"),
        ("isnan()", 6, "the name of a metric is missing"),
        ("isnan(a) < 3", 9, "nothing but ': MIN_INDEX'"),
        ("no improvement", 14, "'in' is missing"),
        ("no improvement of x for 5", 15, "'in' is missing"),
        ("no improvement in x", 19, "'for' is missing"),
        ("no improvement in for 5", 18, "the name of a metric is missing"),
        ("no improvement in x for 0", 24, "a number of points from 1 to 1000000"),
        ("no improvement in x for many", 24, "a number of points from 1 to 1000000"),
        ("no improvement in x for 5 by", 28, "a number is expected here"),
        ("no improvement in x for 5 by -1", 29, "a number from 0 on"),
        ("no improvement in x for 5 epochs", 26, "nothing but 'by NUMBER', ': MIN_INDEX'"),
        ("missing", 7, "'for' is missing"),
        ("missing for 3m", 8, "the name of a metric is missing"),
        ("missing x for 10", 14, "a time with a unit from 1s to 366d"),
        ("missing x for 0s", 14, "a time with a unit from 1s to 366d"),
        ("missing x for 367d", 14, "a time with a unit from 1s to 366d"),
        ("missing x for 10m : 5", 14, "a time with a unit from 1s to 366d"),
        ("a < 1 && b", 10, "an operator is missing"),
        (" && ".join(["a<1"] * 11), 70, "at most 10 parts"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_a_caret_at_the_place(text, at, why):
    with pytest.raises(InvalidError) as refused:
        parse(text)

    assert refused.value.code == "stop_condition_syntax"
    sentence, line, caret = refused.value.message.split("\n")
    assert sentence.startswith("--stop-condition: ")
    assert why in sentence
    # Long lines are shown in part.
    begin = max(0, at - 60)
    assert line.removeprefix("  ").removeprefix("…").startswith(text[begin : at + 5].replace("é", "?")[:64])
    assert caret == " " * (2 + at - begin + bool(begin)) + "^"


@pytest.mark.parametrize(
    "metric", ["val_acc", "keras/val_accuracy", "roc_auc", "top5_acc", "f1", "eval/F1", "mAP50", "r2"]
)
def test_what_should_go_up_is_not_taken_for_what_should_go_down(metric):
    with pytest.raises(InvalidError, match=f"no increase in {metric}, or no decrease in {metric}"):
        parse(f"no improvement in {metric} for 3")

    assert parse(f"no increase in {metric} for 3").clauses == (Plateau(metric, 3, up=True),)


def test_a_condition_is_at_most_a_thousand_characters_long():
    fits = "a < 1".ljust(1000)

    assert parse(fits) == parse("a < 1")
    with pytest.raises(InvalidError, match="at most 1000 characters"):
        parse(fits + " ")


def test_there_are_at_most_five_conditions():
    assert len(parse_all(["a < 1"] * 5)) == 5

    with pytest.raises(InvalidError, match="Maximum of 5 stop_condition arguments allowed") as refused:
        parse_all(["a < 1"] * 6)
    assert refused.value.code == "too_many_conditions"


def test_hidden_and_wide_characters_do_not_move_the_caret():
    with pytest.raises(InvalidError) as refused:
        parse("a\u202e\x1b💥 < 1")

    assert refused.value.message.split("\n")[1:] == ["  a??? < 1", "   ^"]


def test_a_condition_names_its_metrics():
    assert parse("a < 1 && isnan(b) && a > 0").metrics == {"a", "b"}
