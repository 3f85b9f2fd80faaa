"""Says on stderr what is being waited for, once it has taken more than a second.

On a terminal it is a spinner with the latest message behind it, as wide as the terminal is, gone when the work is done.
Elsewhere it is one line, said once.
"""

import os
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from typing import Protocol, Self

from spell_cli.tables import safe
from spell_cli.terminal import note, of_stderr
from spell_cli.times import human_size

_QUIET_SECONDS = 1.0
_FRAME_SECONDS = 0.25
_WIDTH = 80
#: A title is not cut below this as long as a shorter message does instead.
_TITLE_CELLS_MIN = 16
#: Before that a rate is a guess.
_RATE_AFTER_SECONDS = 1.0


class OnBytes(Protocol):
    """Is told of bytes that have come, or gone. Those that are `known` were there before: no rate is of them."""

    def __call__(self, count: int, *, known: bool = False) -> None: ...


def rate(got: int, total: int, seconds: float, known: int = 0) -> tuple[str, ...]:
    """How far something is in bytes, how fast it goes, and how long it will take: the longest text first, each of the others
    for a narrower terminal. Of what it has got, `known` was there before it began. Pure.
    """
    share = min(20, got * 20 // max(1, total))
    bar = f"[{'#' * share}{'.' * (20 - share)}]"
    amount = f"{human_size(got)} of {human_size(total)}"
    if seconds < _RATE_AFTER_SECONDS or got <= known:
        return (f"{bar} {amount}", amount, human_size(got))
    per_second = (got - known) / seconds
    left = round(max(0, total - got) / per_second)
    hours, minutes = left // 3600, left // 60 % 60
    clock = f"{hours}h{minutes:02}m" if hours else f"{minutes}m{left % 60:02}s" if minutes else f"{left}s"
    timed = f"{amount}, {human_size(round(per_second))}/s, {clock} left"
    short = f"{human_size(got)}, {human_size(round(per_second))}/s, {clock}"
    return (f"{bar} {timed}", timed, short, f"{human_size(got)}, {clock}")


def line(title: str, messages: Sequence[str], width: int, dots: str = "…") -> str:
    """A title and the first of the messages with which there is room for enough of the title, cut in its middle. Where there
    is none, the first message that fits goes alone; the last one is only for that. `dots` stand for what is cut. Pure.
    """
    least = min(_TITLE_CELLS_MIN, cells(title))
    for message in messages[:-1] or messages:
        room = width - cells(dots) - 1 - cells(message)
        if room >= least:
            return f"{_middle(title, room, dots)}{dots} {message}".rstrip()
    fitting = [message for message in messages if cells(message) <= width]
    return fitting[0] if fitting else _head(messages[-1], width)


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _middle(text: str, width: int, dots: str) -> str:
    """A text of at most `width` columns, without its middle where it was longer."""
    if cells(text) <= width:
        return text
    head = _head(text, (width - cells(dots) + 1) // 2)
    return f"{head}{dots}{_head(text[::-1], width - cells(dots) - cells(head))[::-1]}"


def _head(text: str, width: int) -> str:
    taken = 0
    for at, character in enumerate(text):
        taken += _cells(character)
        if taken > width:
            return text[:at]
    return text


class Progress:
    """`with Progress("Pushing code") as progress:` … `progress.update("45%")`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._messages: tuple[str, ...] = ("",)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def update(self, *messages: str) -> None:
        """Replace the message behind the title: the first of these for which the terminal is wide enough."""
        self._messages = messages

    def _show(self) -> None:
        if self._done.wait(_QUIET_SECONDS):
            return
        terminal = of_stderr()
        if not terminal.live:
            note(f"{self._title}…")
            return
        frames = "⭐🌟" if terminal.utf8 else "|/-\\"
        title, dots = safe(terminal.plain(self._title)), terminal.plain("…")
        started = time.monotonic()
        while True:
            frame = frames[int((time.monotonic() - started) / _FRAME_SECONDS) % len(frames)]
            messages = [safe(terminal.plain(message)) for message in self._messages]
            # In the last column a cursor may go on to the next line.
            text = line(title, messages, max(1, _columns() - cells(frame) - 2), dots)
            sys.stderr.write(f"\r\x1b[2K{frame} {text}")
            sys.stderr.flush()
            if self._done.wait(_FRAME_SECONDS):
                break
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


def _columns() -> int:
    """How wide the terminal is right now."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _WIDTH
    except (OSError, ValueError):
        return _WIDTH


class Counted:
    """Progress in bytes, told by several threads."""

    def __init__(self, title: str, total: int) -> None:
        self.total = total
        self._progress = Progress(title)
        self._got = self._known = 0
        self._lock = threading.Lock()
        self._began_at = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)

    def add(self, count: int, *, known: bool = False) -> None:
        """So many bytes more. As long as nothing but `known` ones came, the clock of the rate does not run."""
        with self._lock:
            self._got += count
            if known:
                self._known += count
                if self._known == self._got:
                    self._began_at = time.monotonic()
            self._progress.update(
                *rate(self._got, self.total, time.monotonic() - self._began_at, self._known)
            )

    def begin_again(self) -> None:
        """Some of it has to be sent once more."""
        with self._lock:
            self._got = self._known = 0
            self._began_at = time.monotonic()
