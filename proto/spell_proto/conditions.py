"""Stop conditions: what a person may write after `--stop-condition`, read and written. Pure.

    keras/val_acc < 0.5 : 10                 a value below 0.5 at an index from 10 on
    loss > 5 && accuracy < 0.1               both at once, by the latest value of each
    isnan(loss)                              the only thing that NaN satisfies
    no improvement in val_loss for 5         five indexes in a row without a value below the lowest before them
    no improvement in val_loss for 5 by 0.01 ... without one that is lower by more than 0.01
    no increase in accuracy for 5            the same for what should go up; `no decrease in` says the first in full
    missing loss for 10m                     no point of it for ten minutes

`METRIC OP VALUE[:MIN_INDEX]` with any spaces is the contract's; MIN_INDEX may follow everything that counts points.
`no improvement` means no lower value, as with the tools that know no better; where the name says that higher is better
(accuracy, auc, ...), one of the plain words is asked for instead of stopping a run for learning.
What conditions mean for the points of a run is in `spell_scheduler.stopping`.

Standard library only, as the command line imports this module.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, assert_never

from spell_proto import checks, metrics
from spell_proto.errors import InvalidError

CONDITIONS_MAX = 5
CLAUSES_MAX = 10
CHARS_MAX = 1_000
POINTS_MAX = 1_000_000
EXAMPLE = "METRIC (<, <=, >, >=) NUMBER [: MIN_INDEX] is expected, as in keras/val_acc < 0.5 : 10"

#: How much of a condition is shown on each side of the place where it is wrong.
_AROUND = 60
_OPERATOR = re.compile(r"[<>]\s*=|[<>=!~]+")
_OPERATORS: dict[str, "Operator"] = {"<": "<", "<=": "<=", ">": ">", ">=": ">="}
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?)(?![\w.])",
    re.ASCII | re.IGNORECASE,
)
_COUNT = re.compile(r"[0-9]{1,16}(?![\w.])", re.ASCII)
_WORD = re.compile(r"\S+")
_ISNAN = re.compile(r"isnan\s*\(", re.IGNORECASE)
_WAYS: dict[str, bool] = {"improvement": False, "decrease": False, "increase": True}
_PIECES = re.compile(r"[^a-z0-9]+")
_GOES_UP = frozenset(
    [
        "acc",
        "accuracy",
        "auc",
        "auroc",
        "bleu",
        "dice",
        "f1",
        "fmeasure",
        "iou",
        "map",
        "precision",
        "psnr",
        "r2",
        "recall",
        "return",
        "reward",
        "rouge",
        "score",
        "ssim",
    ]
)
_GOES_DOWN = frozenset(("loss", "error", "err"))
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))

Operator = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Compare:
    """A metric against a number. NaN and texts satisfy no comparison."""

    metric: str
    operator: Operator
    value: float
    min_index: int = 0


@dataclass(frozen=True, slots=True)
class IsNan:
    """A metric is not a number."""

    metric: str
    min_index: int = 0


@dataclass(frozen=True, slots=True)
class Plateau:
    """For `points` indexes in a row, a metric was no better than its best before, by more than `delta`.

    `up` says which way is better. NaN is never better.
    """

    metric: str
    points: int
    up: bool = False
    delta: float = 0.0
    min_index: int = 0


@dataclass(frozen=True, slots=True)
class Missing:
    """No point of a metric has come for so long, since the last one or since the command started."""

    metric: str
    seconds: int


Clause = Compare | IsNan | Plateau | Missing


@dataclass(frozen=True, slots=True)
class Condition:
    """Clauses that are to hold at once. `text` is how a person has written them."""

    clauses: tuple[Clause, ...]
    text: str = field(default="", compare=False)

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset(clause.metric for clause in self.clauses)


def parse(text: str) -> Condition:
    """A condition as `--stop-condition` takes it.

    Raises:
        InvalidError: stop_condition_syntax, with a caret below the place where it is wrong.
    """
    if len(text) > CHARS_MAX:
        raise _wrong(text, CHARS_MAX, f"at most {CHARS_MAX} characters are allowed")
    clauses: list[Clause] = []
    for begin, end in _parts(text):
        if len(clauses) == CLAUSES_MAX:
            raise _wrong(text, begin, f"at most {CLAUSES_MAX} parts joined by && are allowed")
        clauses.append(_clause(text, begin, end))
    return Condition(tuple(clauses), text.strip())


def parse_all(texts: Sequence[str]) -> tuple[Condition, ...]:
    """All conditions of a run, of which any one ends it.

    Raises:
        InvalidError: stop_condition_syntax, or too_many_conditions.
    """
    if len(texts) > CONDITIONS_MAX:
        raise InvalidError(
            "too_many_conditions",
            f"--stop-condition: Maximum of {CONDITIONS_MAX} stop_condition arguments allowed, {len(texts)} are given",
            field="stop_conditions",
        )
    return tuple(parse(text) for text in texts)


def written(condition: Condition) -> str:
    """A condition in the one way that it is written by itself; `parse` reads it back."""
    return " && ".join(_written(clause) for clause in condition.clauses)


def _written(clause: Clause) -> str:
    match clause:
        case Compare():
            text = f"{clause.metric} {clause.operator} {number(clause.value)}"
        case IsNan():
            text = f"isnan({clause.metric})"
        case Plateau():
            way = "increase" if clause.up else "decrease"
            by = f" by {number(clause.delta)}" if clause.delta else ""
            text = f"no {way} in {clause.metric} for {clause.points}{by}"
        case Missing():
            size, unit = next(each for each in _UNITS if clause.seconds % each[0] == 0)
            return f"missing {clause.metric} for {clause.seconds // size}{unit}"
        case _:
            assert_never(clause)
    return f"{text} : {clause.min_index}" if clause.min_index else text


def number(value: float) -> str:
    """A number as short as it can be read back."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


# ---- clauses -------------------------------------------------------------------------------------------------


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """Where each clause begins and ends, without the spaces around it."""
    at = 0
    for part in text.split("&&"):
        end = at + len(part.rstrip())
        begin = at + len(part) - len(part.lstrip())
        if begin >= end:
            raise _wrong(text, min(at + len(part), len(text)), f"a condition is missing; {EXAMPLE}")
        yield begin, end
        at += len(part) + 2


def _clause(text: str, begin: int, end: int) -> Clause:
    if found := _ISNAN.match(text, begin, end):
        return _isnan(text, found.end(), end)
    if operator := _OPERATOR.search(text, begin, end):
        return _comparison(text, begin, end, operator)
    words = [(found.start(), found[0].lower()) for found in _WORD.finditer(text, begin, end)]
    said = [word for _, word in words]
    if said[0] == "missing":
        return _missing(text, words, end)
    if said[0] == "no" and len(said) > 1 and said[1] in _WAYS:
        return _plateau(text, words, end)
    if (at := text.find("&", begin, end)) >= 0:
        raise _wrong(text, at, "&& joins two conditions")
    raise _wrong(text, end, f"an operator is missing; {EXAMPLE}")


def _comparison(text: str, begin: int, end: int, operator: re.Match[str]) -> Compare:
    known = _OPERATORS.get("".join(operator[0].split()))
    if known is None:
        raise _wrong(text, operator.start(), f"{operator[0][:8]} is no operator; <, <=, > and >= are")
    metric = _metric(text, begin, operator.start())
    at = _skip(text, operator.end(), end)
    value, at = _number(text, at, end)
    return Compare(metric, known, value, _min_index(text, at, end))


def _isnan(text: str, begin: int, end: int) -> IsNan:
    close = text.find(")", begin, end)
    if close < 0:
        raise _wrong(text, end, "a ) is missing, as in isnan(loss)")
    return IsNan(_metric(text, begin, close), _min_index(text, close + 1, end))


def _plateau(text: str, words: Sequence[tuple[int, str]], end: int) -> Plateau:
    way = words[1][1]
    example = f"no {way} in METRIC for POINTS is expected, as in no {way} in val_loss for 5"
    if len(words) < 3 or words[2][1] != "in":
        raise _wrong(text, words[2][0] if len(words) > 2 else end, f"'in' is missing; {example}")
    metric, at = _metric_for(text, words, 3, end, example)
    points = _COUNT.match(text, at, end)
    if points is None or not 1 <= int(points[0]) <= POINTS_MAX:
        raise _wrong(text, at, f"a number of points from 1 to {POINTS_MAX} is expected here")
    at, delta = _skip(text, points.end(), end), 0.0
    if text[at : at + 2].lower() == "by" and (text[at + 2 : at + 3].isspace() or at + 2 == end):
        place = _skip(text, at + 2, end)
        delta, at = _number(text, place, end)
        if not 0 <= delta < math.inf:
            raise _wrong(text, place, "a number from 0 on is expected here")
    if way == "improvement" and _sounds_upward(metric):
        raise _wrong(
            text,
            words[1][0],
            f"which way {metric} should go is to be said: no increase in {metric}, or no decrease in {metric}",
        )
    min_index = _min_index(text, at, end, "'by NUMBER', ': MIN_INDEX'")
    return Plateau(metric, int(points[0]), _WAYS[way], delta, min_index)


def _missing(text: str, words: Sequence[tuple[int, str]], end: int) -> Missing:
    example = "missing METRIC for TIME is expected, as in missing loss for 10m"
    metric, at = _metric_for(text, words, 1, end, example)
    written_time = text[at:end]
    seconds = checks.duration_seconds(written_time)
    if written_time.isdigit() or not 1 <= seconds <= checks.TIMEOUT_SECONDS_MAX:
        raise _wrong(
            text, at, "a time with a unit from 1s to 366d is expected here, as in 90s, 10m, 2h or 1d"
        )
    return Missing(metric, seconds)


def _metric_for(
    text: str, words: Sequence[tuple[int, str]], first: int, end: int, example: str
) -> tuple[str, int]:
    """The metric from the word `first` up to the last 'for', and where what follows that begins."""
    last = next((i for i in range(len(words) - 1, first - 1, -1) if words[i][1] == "for"), None)
    if last is None:
        raise _wrong(text, end, f"'for' is missing; {example}")
    metric = _metric(text, _skip(text, words[first - 1][0] + len(words[first - 1][1]), end), words[last][0])
    return metric, _skip(text, words[last][0] + 3, end)


# ---- pieces --------------------------------------------------------------------------------------------------


def _metric(text: str, begin: int, end: int) -> str:
    begin = _skip(text, begin, end)
    name = text[begin:end].rstrip()
    if not name:
        raise _wrong(text, begin, f"the name of a metric is missing; {EXAMPLE}")
    if (at := metrics.fault(name)) is not None:
        raise _wrong(text, begin + at, f"the name of a metric is {metrics.NAME_RULE}")
    return name


def _number(text: str, at: int, end: int) -> tuple[float, int]:
    """The number that stands there, and where it ends."""
    found = _NUMBER.match(text, at, end)
    if found is None:
        raise _wrong(text, at, "a number is expected here; for NaN there is isnan(METRIC)")
    value = float(found[0])
    if math.isinf(value) and "n" not in found[0].lower():
        raise _wrong(text, at, "this number is too large")
    return value, found.end()


def _min_index(text: str, at: int, end: int, follows: str = "': MIN_INDEX'") -> int:
    at = _skip(text, at, end)
    if at == end:
        return 0
    if text[at] != ":":
        raise _wrong(text, at, f"nothing but {follows}, or && and another condition, may follow here")
    at = _skip(text, at + 1, end)
    found = _COUNT.match(text, at, end)
    if found is None or int(found[0]) > metrics.INDEX_MAX:
        raise _wrong(text, at, f"MIN_INDEX is a whole number from 0 to {metrics.INDEX_MAX}")
    at = _skip(text, found.end(), end)
    if at != end:
        raise _wrong(text, at, "nothing may follow MIN_INDEX, but && and another condition")
    return int(found[0])


def _sounds_upward(metric: str) -> bool:
    pieces = set(_PIECES.split(metric.lower()))
    pieces |= {piece.rstrip("0123456789") for piece in pieces}
    return bool(pieces & _GOES_UP) and not pieces & _GOES_DOWN


def _skip(text: str, at: int, end: int) -> int:
    while at < end and text[at].isspace():
        at += 1
    return at


def _wrong(text: str, at: int, why: str) -> InvalidError:
    """One sentence, and below it the place."""
    begin, end = max(0, at - _AROUND), min(len(text), at + _AROUND)
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    # What is wider or narrower than one place, or hidden, would move the caret.
    shown = "".join(character if " " <= character <= "~" else "?" for character in text[begin:end])
    return InvalidError(
        "stop_condition_syntax",
        f"--stop-condition: {why}\n  {before}{shown}{after}\n  {' ' * (len(before) + at - begin)}^",
        field="stop_conditions",
    )
