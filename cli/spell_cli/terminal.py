"""What the user's terminal can show, and plain messages to it: lines, warnings, errors, questions."""

import os
import sys
import textwrap
from typing import NamedTuple

import click

from spell_cli.tables import safe

_WIDTH = 78
#: How much of a path a message shows, as `spell_proto.errors.shown` does.
PATH_CHARS_MAX = 80
_COLOURS = {"red": "31", "green": "32", "yellow": "33"}
_PLAIN = str.maketrans({"…": "...", "→": "->", "✔": "+", "✖": "x", "µ": "u", "➔": "->"})


class Terminal(NamedTuple):
    """What stdout is. `live`: a terminal whose cursor can be moved, so that a line can be drawn again."""

    utf8: bool
    live: bool
    colour: bool

    def plain(self, text: str) -> str:
        """`text` as this terminal can show it."""
        return text if self.utf8 else text.translate(_PLAIN)

    def marked(self, emoji: str, text: str) -> str:
        """`text` behind an emoji, where emoji can be shown."""
        return f"{emoji} {text}" if self.utf8 else text.translate(_PLAIN)

    def coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colour else text


def of_stdout() -> Terminal:
    """What stdout is right now."""
    return _of(sys.stdout.isatty(), sys.stdout.encoding)


def of_stderr() -> Terminal:
    """What stderr is right now."""
    return _of(sys.stderr.isatty(), sys.stderr.encoding)


def _of(is_terminal: bool, encoding: str | None) -> Terminal:
    movable = is_terminal and os.environ.get("TERM") != "dumb"
    return Terminal(
        utf8=(encoding or "").lower().replace("-", "") == "utf8",
        live=movable,
        colour=movable and not os.environ.get("NO_COLOR"),
    )


def can_ask() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str) -> None:
    """A line on stdout."""
    click.echo(of_stdout().plain(text).encode(sys.stdout.encoding or "utf-8", "replace"))


def note(text: str) -> None:
    """A line on stderr."""
    click.echo(of_stderr().plain(text).encode(sys.stderr.encoding or "utf-8", "replace"), err=True)


def warn(text: str, detail: str = "") -> None:
    """A warning on stderr; `detail` follows as it is."""
    _levelled("WARNING", "yellow", text, detail)


def complain(text: str, detail: str = "") -> None:
    """An error on stderr; `detail` follows as it is."""
    _levelled("ERROR", "red", text, detail)


def _levelled(level: str, colour: str, text: str, detail: str) -> None:
    prefix = f"{level}: "
    body = "\n".join(
        textwrap.fill(
            line,
            _WIDTH,
            initial_indent=" " * len(prefix),
            subsequent_indent=" " * len(prefix),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines() or [""]
    )
    note(of_stderr().coloured(f"{level}:", colour) + " " + body[len(prefix) :])
    if detail:
        note(detail)


def ask(question: str, *, default: bool) -> bool:
    """A yes-or-no question. End of input and ^C raise `click.Abort`."""
    try:
        return click.confirm(question, default=default)
    except click.Abort:
        # The cursor stands behind the question, or behind ^C.
        note("")
        raise


def safe_path(path: str) -> str:
    """A file name as a terminal may show it: what is no text or would act on the terminal is escaped."""
    return safe(path.encode(errors="surrogateescape").decode(errors="backslashreplace"))


def short_path(path: str) -> str:
    """The same for a message: of a long one its beginning."""
    text = safe_path(path)
    return text if len(text) <= PATH_CHARS_MAX else f"{text[: PATH_CHARS_MAX - 1]}…"
