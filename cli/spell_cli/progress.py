"""Says on stderr what is being waited for, once it has taken more than a second.

On a terminal it is a spinner with the latest message behind it, gone when the work is done. Elsewhere it is one
line, said once.
"""

import sys
import threading
import time
from typing import Self

from spell_cli.tables import safe
from spell_cli.terminal import note, of_stderr
from spell_cli.times import human_size

_QUIET_SECONDS = 1.0
_FRAME_SECONDS = 0.25
_WIDTH = 78
#: Before that a rate is a guess.
_RATE_AFTER_SECONDS = 1.0


def rate(got: int, total: int, seconds: float) -> str:
    """How far something is in bytes, how fast it goes, and how long it will take. Pure."""
    share = min(20, got * 20 // max(1, total))
    text = f"[{'#' * share}{'.' * (20 - share)}] {human_size(got)} of {human_size(total)}"
    if seconds < _RATE_AFTER_SECONDS or not got:
        return text
    per_second = got / seconds
    left = round(max(0, total - got) / per_second)
    hours, minutes = left // 3600, left // 60 % 60
    clock = f"{hours}h{minutes:02}m" if hours else f"{minutes}m{left % 60:02}s" if minutes else f"{left}s"
    return f"{text}, {human_size(round(per_second))}/s, {clock} left"


class Progress:
    """`with Progress("Pushing code") as progress:` … `progress.update("45%")`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._message = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def update(self, message: str) -> None:
        """Replace the message behind the title."""
        self._message = message

    def _show(self) -> None:
        if self._done.wait(_QUIET_SECONDS):
            return
        terminal = of_stderr()
        if not terminal.live:
            note(f"{self._title}…")
            return
        frames = "⭐🌟" if terminal.utf8 else "|/-\\"
        started = time.monotonic()
        while True:
            frame = frames[int((time.monotonic() - started) / _FRAME_SECONDS) % len(frames)]
            text = terminal.plain(f"{self._title}… {self._message}")
            sys.stderr.write(f"\r\x1b[2K{frame} {safe(text)}"[: _WIDTH + 5])
            sys.stderr.flush()
            if self._done.wait(_FRAME_SECONDS):
                break
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


class Counted:
    """Progress in bytes, told by several threads."""

    def __init__(self, title: str, total: int) -> None:
        self.total = total
        self._progress = Progress(title)
        self._got = 0
        self._lock = threading.Lock()
        self._began_at = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)

    def add(self, count: int) -> None:
        with self._lock:
            self._got += count
            self._progress.update(rate(self._got, self.total, time.monotonic() - self._began_at))

    def begin_again(self) -> None:
        """Some of it has to be sent once more."""
        with self._lock:
            self._got, self._began_at = 0, time.monotonic()
