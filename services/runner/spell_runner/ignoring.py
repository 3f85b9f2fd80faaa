"""Which paths a list of patterns leaves out, by the rules of `.gitignore`. Pure.

Patterns are anybody's, and so is what they are matched with: each becomes a regular expression whose stars never take
back what they have taken, so that none takes longer than its length times that of a path.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
_STAR, _SLASH = "*", "/"


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What a line says: paths that match are left out, or with `keep` are not."""

    expression: str
    keep: bool
    directories_only: bool
    by_name: bool


@dataclass(frozen=True, slots=True)
class _Several:
    """Patterns one after the other that say the same of what they match. Together they are matched far sooner."""

    expression: re.Pattern[str]
    keep: bool
    directories_only: bool
    by_name: bool

    @classmethod
    def of(cls, kind: tuple[bool, bool, bool], patterns: Iterable[_Pattern]) -> "_Several":
        joined = "|".join(f"(?:{pattern.expression})" for pattern in patterns)
        return cls(re.compile(joined, re.DOTALL), *kind)


class Patterns:
    """The last pattern that matches a path decides. What is in a directory that is left out is left out with it."""

    def __init__(self, lines: Iterable[str]) -> None:
        found = [_parse(line) for line in lines]
        # The last one first: whichever matches then decides.
        patterns = [pattern for pattern in reversed(found) if pattern is not None]
        self._patterns = [_Several.of(kind, several) for kind, several in itertools.groupby(patterns, _kind)]
        self._directories: dict[str, bool] = {"": False}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def leave_out(self, path: str) -> bool:
        """Whether a file or link is left out. Parts of `path` are joined by single slashes."""
        return self._directory(path.rpartition("/")[0]) or self._matches(path, directory=False)

    def _directory(self, path: str) -> bool:
        """Not by recursion: there may be more directories in each other than that can go."""
        unknown = []
        while (known := self._directories.get(path)) is None:
            unknown.append(path)
            path = path.rpartition("/")[0]
        for below in reversed(unknown):
            known = known or self._matches(below, directory=True)
            self._directories[below] = known
        return known

    def _matches(self, path: str, *, directory: bool) -> bool:
        name = path.rpartition("/")[2]
        for pattern in self._patterns:
            if pattern.directories_only and not directory:
                continue
            if pattern.expression.fullmatch(name if pattern.by_name else path):
                return not pattern.keep
        return False


def _kind(pattern: _Pattern) -> tuple[bool, bool, bool]:
    return pattern.keep, pattern.directories_only, pattern.by_name


def _parse(line: str) -> _Pattern | None:
    """The pattern on a line; None where there is none."""
    text = _without_spaces(line.rstrip("\r\n"))
    if not text or text.startswith("#"):
        return None
    keep = text.startswith("!")
    text = text[1:] if keep else text
    directories_only = text.endswith("/")
    text = text[:-1] if directories_only else text
    by_name = "/" not in text
    expression = _expression(text.removeprefix("/"), by_name=by_name)
    return None if expression is None else _Pattern(expression, keep, directories_only, by_name)


def _without_spaces(line: str) -> str:
    """A line without the spaces at its end; one behind a backslash stays."""
    bare = line.rstrip(" ")
    escaped = (len(bare) - len(bare.rstrip("\\"))) % 2 == 1
    return bare + " " if escaped and len(bare) < len(line) else bare


def _expression(text: str, *, by_name: bool) -> str | None:
    """A pattern as a regular expression; None where it can match nothing. In a path, `**` is any number of directories."""
    tokens = _tokens(text)
    if not tokens:
        return None
    segments: list[list[str]] = [[]]
    for token in tokens:
        if token == _SLASH:
            segments.append([])
        else:
            segments[-1].append(token)
    deep = [len(segment) > 1 and set(segment) == {_STAR} for segment in segments]
    if len(segments) > 1 and any(not segment for segment in segments):
        return None
    runs: list[list[str]] = [[]]
    for segment, anything in zip(segments, deep, strict=True):
        if anything and not by_name:
            runs.append([])
        else:
            runs[-1].append(_segment(segment))
    return _joined(runs)


def _joined(runs: list[list[str]]) -> str:
    """Runs of segments with any number of directories between two of them.

    The first place where a run fits is as good as any later one, but for the last run, which ends the path.
    """
    first, *middle = runs
    if not middle:
        return "/".join(first)
    *middle, last = middle
    text = "".join(f"{segment}/" for segment in first)
    for run in middle:
        if run:
            text += f"(?>(?:[^/]+/)*?{''.join(f'{segment}/' for segment in run)})"
    # Behind the last slash, two stars are everything that is in there.
    return text + (f"(?:[^/]+/)*{'/'.join(last)}" if last else ".+")


def _segment(tokens: list[str]) -> str:
    """One part of a path. A star takes the least that lets the rest up to the next star fit, the last one what is left."""
    pieces: list[list[str]] = [[]]
    for token in tokens:
        if token == _STAR:
            pieces.append([])
        else:
            pieces[-1].append(token)
    first, *others = ["".join(piece) for piece in pieces]
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>[^/]*?{piece})" for piece in middle if piece) + f"[^/]*{last}"


def _tokens(text: str) -> list[str]:
    """Stars, slashes, and expressions for one character each. Empty where the text is no pattern."""
    tokens: list[str] = []
    at = 0
    while at < len(text):
        character = text[at]
        if character == "[":
            found = _bracket(text, at + 1)
            if found is None:
                return []
            token, at = found
            tokens.append(token)
            continue
        if character == "\\":
            at += 1
            if at == len(text):
                return []
            character = text[at]
            tokens.append(_SLASH if character == "/" else re.escape(character))
        elif character in {_STAR, _SLASH}:
            tokens.append(character)
        else:
            tokens.append("[^/]" if character == "?" else re.escape(character))
        at += 1
    return tokens


def _bracket(text: str, at: int) -> tuple[str, int] | None:
    """The characters that a bracket stands for, which opens before `at`, and where it is over; None if it is never."""
    negated = text[at : at + 1] in {"!", "^"}
    at += negated
    members, first = "", True
    while at < len(text):
        character = text[at]
        if character == "]" and not first:
            inside = f"[^/{members}]" if negated else f"(?!/)[{members}]"
            return inside, at + 1
        first = False
        if text.startswith("[:", at) and (end := text.find(":]", at)) > 0:
            if text[at + 2 : end] not in _CLASSES:
                return None
            members += _CLASSES[text[at + 2 : end]]
            at = end + 2
            continue
        lower, at = _member(text, at)
        if text[at : at + 1] == "-" and text[at + 1 : at + 2] not in {"", "]"}:
            upper, at = _member(text, at + 1)
            # A range that runs backwards holds nothing; its first character still counts.
            members += f"{_literal(lower)}-{_literal(upper)}" if lower <= upper else _literal(lower)
        else:
            members += _literal(lower)
    return None


def _member(text: str, at: int) -> tuple[str, int]:
    if text[at] == "\\" and at + 1 < len(text):
        return text[at + 1], at + 2
    return text[at], at + 1


def _literal(character: str) -> str:
    return f"\\U{ord(character):08x}"
