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

_QUIET_SECONDS = 1.0
_FRAME_SECONDS = 0.25
_WIDTH = 78


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
