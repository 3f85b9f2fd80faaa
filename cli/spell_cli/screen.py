"""Puts actions on stdout and stderr: bytes as they are, lines, and on a terminal a spinner that is drawn again.

stdout and stderr of the run go to ours. Lines of the platform go to stdout; one that would land behind an
unfinished line of output begins with a line break.
"""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterable
from typing import Self

from spell_cli.escapes import EscapeFilter
from spell_cli.render import Action, Line, Output, Settle, Spin
from spell_cli.tables import safe
from spell_cli.terminal import Terminal, of_stdout

_EMOJI_FRAMES = ("⭐", "🌟")
_ASCII_FRAMES = ("|", "/", "-", "\\")
_FRAME_SECONDS = 0.25
_CLEAR = b"\r\x1b[2K"


class Screen:
    """What one command shows while it follows something."""

    def __init__(self, terminal: Terminal | None = None) -> None:
        self.terminal = terminal or of_stdout()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._shared = _same_file(1, 2)
        self._open_line = {False: False, True: False}
        # A pipe or a file gets every byte; two streams on one terminal are one stream to it.
        self._filters = {to_stderr: EscapeFilter() for to_stderr in (False, True) if os.isatty(1 + to_stderr)}
        self._pending: list[bytes] = []
        self._pending_to_stderr = False
        self._spin: Spin | None = None
        self._drawn = False
        self._frame = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._animator: threading.Thread | None = None

    def __enter__(self) -> Self:
        sys.stdout.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with self._lock:
            self._erase()
            self._flush()
        if self._animator is not None:
            self._animator.join()

    def show(self, actions: Iterable[Action]) -> None:
        """Carry out `actions`; what they write is on its way when this returns."""
        with self._lock:
            for action in actions:
                self._erase()
                match action:
                    case Output(to_stderr, data):
                        key = to_stderr and not self._shared
                        shown = self._filters[key].feed(data) if key in self._filters else data
                        self._write(to_stderr, shown)
                        if shown:
                            self._open_line[key] = not shown.endswith(b"\n")
                    case Line(emoji, text):
                        self._line(emoji, text)
                    case Settle(emoji, text):
                        self._spin = None
                        self._line(emoji, text)
                    case Spin():
                        self._spin = action
            self._draw()
            self._flush()

    def _line(self, emoji: str, text: str) -> None:
        marked = self.terminal.marked(emoji, text) if emoji else self.terminal.plain(text)
        line = safe(marked.expandtabs()) + "\n"
        if self._open_line[False]:
            line = "\n" + line
            self._open_line[False] = False
        self._write(False, line.encode(self._encoding, "replace"))

    def _write(self, to_stderr: bool, data: bytes) -> None:
        if to_stderr is not self._pending_to_stderr:
            self._flush()
            self._pending_to_stderr = to_stderr
        self._pending.append(data)

    def _flush(self) -> None:
        data = memoryview(b"".join(self._pending))
        self._pending.clear()
        descriptor = 2 if self._pending_to_stderr else 1
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                # Somebody who shares the terminal or pipe with us has made it non-blocking.
                select.select([], [descriptor], [])

    def _erase(self) -> None:
        if self._drawn:
            self._drawn = False
            self._write(False, _CLEAR)

    def _draw(self) -> None:
        if self._spin is None or not self.terminal.live or self._open_line[False]:
            return
        if self._animator is None:
            self._animator = threading.Thread(target=self._animate, daemon=True)
            self._animator.start()
        frames = _EMOJI_FRAMES if self.terminal.utf8 else _ASCII_FRAMES
        text = self.terminal.plain(f"{self._spin.label}… {self._spin.message}".rstrip())
        line = f"{frames[self._frame % len(frames)]} {safe(text)}"[: max(10, _width() - 2)]
        self._drawn = True
        self._write(False, _CLEAR + line.encode(self._encoding, "replace"))

    def _animate(self) -> None:
        # A terminal that is gone is noticed by the thread that follows the run.
        with contextlib.suppress(OSError):
            while not self._stopped.wait(_FRAME_SECONDS):
                with self._lock:
                    if self._spin is not None and self._drawn and not self._stopped.is_set():
                        self._frame += 1
                        self._draw()
                        self._flush()


def _width() -> int:
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def _same_file(left: int, right: int) -> bool:
    try:
        one, two = os.fstat(left), os.fstat(right)
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
