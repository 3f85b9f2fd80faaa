"""Metrics: what one may be called, what a point of it may be worth and be numbered. One home for these rules. Pure.

A point is a value of a metric at an index. Values are whole numbers, numbers and texts; NaN and the infinities are
values like any other where a program sends them, and refused where JSON should say them. Indexes are whole numbers from
0; a point that comes without one gets the index after that of the point before it in the same metric, the first one 0.

Standard library only: the command line and what runs beside a command import this module.
"""

import math
import re
from typing import NamedTuple

from spell_proto.errors import InvalidError, shown

NAME_CHARS_MAX = 128
TEXT_BYTES_MAX = 4096
INDEX_MAX = 2**53
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
#: A point as a program says it, with everything around it.
LINE_BYTES_MAX = 8192
NAME_RULE = f"1 to {NAME_CHARS_MAX} letters, digits, '_', '.', '/', '-' and spaces, no space at its ends"

_NAME = re.compile(r"[A-Za-z0-9_./-](?:[A-Za-z0-9_./ -]*[A-Za-z0-9_./-])?", re.ASCII)
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_./ -]", re.ASCII)

Value = int | float | str


class Sent(NamedTuple):
    """A point as it was sent; without an index it gets the next one."""

    name: str
    value: Value
    index: int | None = None  # type: ignore[assignment]  # nobody looks for things in a point


class Point(NamedTuple):
    """A point as it is kept. `at_us` is microseconds since 1970, by the clock of the machine that the command runs on."""

    name: str
    index: int  # type: ignore[assignment]  # nobody looks for things in a point
    at_us: int
    value: Value


def name(given: object) -> str:
    """The name of a metric.

    Raises:
        InvalidError: metric_name_invalid, in words that may follow 'metric discarded: '.
    """
    if not isinstance(given, str):
        raise InvalidError("metric_name_invalid", "'name' must be a string type", field="name")
    if len(given) > NAME_CHARS_MAX or not _NAME.fullmatch(given):
        raise InvalidError(
            "metric_name_invalid", f"{shown(given, 40)} is no name of a metric: {NAME_RULE}", field="name"
        )
    return given


def fault(given: str) -> int | None:
    """Where a text stops being the name of a metric; None where it is one."""
    if found := _NOT_IN_NAME.search(given):
        return min(found.start(), NAME_CHARS_MAX)
    if len(given) > NAME_CHARS_MAX:
        return NAME_CHARS_MAX
    return None if _NAME.fullmatch(given) else 0 if given[:1] in {"", " "} else len(given) - 1


def adopted(tag: str) -> str:
    """The name for a series that another tool has named: what a name may not hold becomes `_`.

    Raises:
        InvalidError: metric_name_invalid; nothing is left of it.
    """
    return name(_NOT_IN_NAME.sub("_", tag.strip())[:NAME_CHARS_MAX].strip())


def value(given: object) -> Value:
    """The value of a point. A whole number of more than 64 bits becomes the nearest other number.

    Raises:
        InvalidError: metric_value_invalid, in words that may follow 'metric discarded: '.
    """
    match given:
        case bool():
            return int(given)
        case int():
            return int(given) if INTEGER_MIN <= given <= INTEGER_MAX else _float(given)
        case float():
            return float(given)
        case str():
            return _text(given)
        case _:
            raise InvalidError(
                "metric_value_invalid",
                f"'value' must be a float, int, or string type (type={type(given).__name__})",
                field="value",
            )


def index(given: object) -> int:
    """The index of a point.

    Raises:
        InvalidError: metric_index_invalid, in words that may follow 'metric discarded: '.
    """
    if not isinstance(given, int) or isinstance(given, bool):
        raise InvalidError("metric_index_invalid", "'index' must be of type int", field="index")
    if not 0 <= given <= INDEX_MAX:
        raise InvalidError(
            "metric_index_invalid",
            f"'index' is {shown(_short(given), 40)}, a whole number from 0 to {INDEX_MAX} is allowed",
            field="index",
        )
    return int(given)


def next_index(before: int | None) -> int:
    """The index of a point that came without one, after the point `before` it in the same metric.

    Raises:
        InvalidError: metric_index_invalid; the indexes are used up.
    """
    return 0 if before is None else index(before + 1)


def sent(body: object) -> Sent:
    """A point as a program says it in JSON: `{"name", "type": "number", "number"}` or `{"name", "type": "text", "text"}`,
    and perhaps `"index"`. Unknown members are passed over.

    Raises:
        InvalidError: the one sentence to answer with.
    """
    if not isinstance(body, dict):
        raise InvalidError("metric_body_invalid", "a JSON object with 'name' and 'type' is expected")
    called = name(body.get("name"))
    kind = body.get("type")
    if kind not in ("number", "text"):
        raise InvalidError("metric_body_invalid", '\'type\' must be "number" or "text"', field="type")
    held = body.get(kind)
    allowed = (int, float) if kind == "number" else (str,)
    if not isinstance(held, allowed) or isinstance(held, bool):
        what = "a number" if kind == "number" else "a string"
        raise InvalidError("metric_value_invalid", f"'{kind}' must be {what}", field=kind)
    held = value(held)
    if isinstance(held, float) and not math.isfinite(held):
        raise InvalidError("metric_value_invalid", "'number' must be finite: JSON has no others", field=kind)
    at = body.get("index")
    return Sent(called, held, None if at is None else index(at))


def _float(given: int) -> float:
    try:
        return float(given)
    except OverflowError:
        return math.inf if given > 0 else -math.inf


def _short(given: int) -> object:
    # Python refuses to spell numbers of more than some thousand digits.
    return given if abs(given) < 1 << 128 else "too large"


def _text(given: str) -> str:
    try:
        size = len(given.encode())
    except UnicodeEncodeError as error:
        raise InvalidError(
            "metric_value_invalid", f"'text' is not valid UTF-8 at position {error.start}", field="text"
        ) from None
    if "\0" in given:
        raise InvalidError(
            "metric_value_invalid", f"'text' holds a NUL byte at position {given.index(chr(0))}", field="text"
        )
    if size > TEXT_BYTES_MAX:
        raise InvalidError(
            "metric_value_invalid",
            f"'text' is {size} bytes long, at most {TEXT_BYTES_MAX} are allowed",
            field="text",
        )
    return given
