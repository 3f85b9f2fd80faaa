"""What a person may say about saving: how often while a run goes on, and what not. Pure."""

import re
from collections.abc import Sequence

from spell_proto import checks
from spell_proto.errors import InvalidError, shown

SAVE_EVERY_SECONDS_MIN = 10
SAVE_EVERY_SECONDS_MAX = 30 * 86_400
PATTERNS_MAX = 100
PATTERN_CHARS_MAX = 1_000
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def every(seconds: int, given: object) -> int:
    """Seconds between two snapshots; `given` is echoed.

    Raises:
        InvalidError: number_out_of_range.
    """
    if not SAVE_EVERY_SECONDS_MIN <= seconds <= SAVE_EVERY_SECONDS_MAX:
        raise InvalidError(
            "number_out_of_range",
            f"--save-every: {shown(given)}: minutes (10) or a number with a unit (30s, 10m, 2h) is allowed, from "
            f"{SAVE_EVERY_SECONDS_MIN}s to {SAVE_EVERY_SECONDS_MAX // 86_400}d",
            field="save_every_seconds",
        )
    return seconds


def every_typed(value: str) -> int:
    """Seconds between two snapshots, as typed.

    Raises:
        InvalidError: number_out_of_range.
    """
    return every(checks.duration_seconds(value), value)


def patterns(values: Sequence[str]) -> tuple[str, ...]:
    """What `--no-save` leaves out: patterns as a line of `.gitignore` has them.

    Raises:
        InvalidError: too_many_patterns or pattern_invalid.
    """
    if len(values) > PATTERNS_MAX:
        raise InvalidError(
            "too_many_patterns",
            f"--no-save: {len(values)} patterns, at most {PATTERNS_MAX} are allowed",
            field="no_save",
        )
    for value in values:
        if not value.strip() or len(value) > PATTERN_CHARS_MAX or _HIDDEN.search(value):
            raise InvalidError(
                "pattern_invalid",
                f"--no-save: {shown(value)}: a pattern as in .gitignore is allowed, of 1 to {PATTERN_CHARS_MAX} "
                "characters on one line",
                field="no_save",
            )
    return tuple(values)
