"""The Range header of RFC 9110: which bytes of a representation are asked for (pure)."""

import re
from typing import NamedTuple

_SINGLE = re.compile(
    r"bytes=[ \t]*(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})[ \t]*", re.ASCII | re.IGNORECASE
)


class Range(NamedTuple):
    """`length` bytes from `first`. `partial` tells a 206 from a 200."""

    first: int
    length: int
    partial: bool

    def content_range(self, size: int) -> str:
        return f"bytes {self.first}-{self.first + self.length - 1}/{size}"


def requested(header: str | None, size: int) -> Range | None:
    """The bytes that a Range header asks for of a representation of `size` bytes; None when there are none (416).

    A header that is no single range of bytes is passed over, as RFC 9110 section 14.2 has it.
    """
    whole = Range(0, size, partial=False)
    match = _SINGLE.fullmatch(header) if header else None
    if match is None or not (match["first"] or match["last"]):
        return whole
    if not match["first"]:
        length = min(int(match["last"]), size)
        return Range(size - length, length, partial=True) if length else None
    first = int(match["first"])
    last = min(int(match["last"]), size - 1) if match["last"] else size - 1
    if match["last"] and int(match["last"]) < first:
        return whole
    return Range(first, last - first + 1, partial=True) if first < size else None
