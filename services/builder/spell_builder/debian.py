"""Versions of Debian packages: their order, and which of those on offer a condition means. Pure."""

import functools
import itertools
from collections.abc import Iterable

from spell_proto.apt import AptPackage

_ALLOWED = {"==": (0,), ">=": (0, 1), "<=": (0, -1), ">": (1,), "<": (-1,)}


def compare(left: str, right: str) -> int:
    """-1, 0 or 1, as `dpkg --compare-versions` orders them: epoch, then what upstream calls it, then the revision."""
    for mine, other in zip(_parts(left), _parts(right), strict=True):
        found = _compare_part(mine, other)
        if found:
            return found
    return 0


def best(package: AptPackage, offered: Iterable[str]) -> str | None:
    """The highest version that fits the condition; the first of them all where there is none. None: none fits."""
    versions = list(offered)
    if not package.operator:
        return versions[0] if versions else None
    allowed = _ALLOWED[package.operator]
    fitting = [version for version in versions if compare(version, package.version) in allowed]
    return max(fitting, key=functools.cmp_to_key(compare), default=None)


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_part(left: str, right: str) -> int:
    """Texts and numbers in turn, a text first."""
    for mine, other in itertools.zip_longest(_runs(left), _runs(right), fillvalue=("", 0)):
        if mine != other:
            (text, number), (other_text, other_number) = mine, other
            if text != other_text:
                return 1 if _weights(text, other_text) > _weights(other_text, text) else -1
            return 1 if number > other_number else -1
    return 0


def _runs(part: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    rest = part
    while rest:
        text = "".join(itertools.takewhile(lambda sign: not sign.isdigit(), rest))
        digits = "".join(itertools.takewhile(str.isdigit, rest[len(text) :]))
        found.append((text, int(digits or 0)))
        rest = rest[len(text) + len(digits) :]
    return found


def _weights(text: str, other: str) -> list[int]:
    """~ comes before everything, also before the end; letters come before all other signs."""
    filled = text.ljust(max(len(text), len(other)), "\0")
    return [_weight(sign) for sign in filled]


def _weight(sign: str) -> int:
    if sign == "~":
        return -1
    if sign == "\0":
        return 0
    return ord(sign) if sign.isalpha() else ord(sign) + 256
