"""Plain text tables: upper-case headers, columns at least two spaces apart, nothing that could move a cursor."""

import re
from collections.abc import Callable, Sequence

_GAP = "  "
# Text of users and servers is shown, never obeyed: no escape sequence, no line break, no bidi override.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    """`text` with every character escaped that a terminal would act on."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], paint: Callable[[str, str], str] | None = None
) -> list[str]:
    """A header line and aligned rows, without trailing spaces. `paint` gets a header and a cell that is ready."""
    cleaned = [[header.upper() for header in headers], *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cleaned) for index in range(len(headers))]
    lines = []
    for row in cleaned:
        padded = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            shown = paint(headers[index], cell) if paint is not None else cell
            padded.append(shown + " " * (width - len(cell)))
        lines.append(_GAP.join(padded).rstrip())
    return lines


def pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Two columns of name and value; a value of several lines goes on under itself."""
    width = max((len(name) for name, _ in rows), default=0)
    lines: list[str] = []
    for name, value in rows:
        first, *rest = value.split("\n") if value else [""]
        lines.append(f"{name.ljust(width)}{_GAP}{safe(first)}".rstrip())
        lines.extend(f"{' ' * width}{_GAP}{safe(part)}".rstrip() for part in rest)
    return lines
