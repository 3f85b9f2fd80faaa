"""The last lines of what would have been shown: for `spell logs -n`. Pure."""

from collections import deque
from collections.abc import Iterable

from spell_cli.render import Action, Line, Output, Settle, Spin


class LastLines:
    """Takes actions, keeps the last `count` lines of them: the command's and the platform's alike."""

    def __init__(self, count: int) -> None:
        self._lines: deque[Action] = deque(maxlen=count)
        self._unfinished: dict[bool, bytes] = {}
        self._spin: Spin | None = None

    def add(self, actions: Iterable[Action]) -> None:
        """More of what would be shown."""
        for action in actions:
            match action:
                case Output(to_stderr, data):
                    *whole, rest = (self._unfinished.pop(to_stderr, b"") + data).split(b"\n")
                    self._lines.extend(Output(to_stderr, line + b"\n") for line in whole)
                    if rest:
                        self._unfinished[to_stderr] = rest
                case Line() | Settle():
                    self._close()
                    self._lines.append(Line(action.emoji, action.text))
                    self._spin = None
                case Spin():
                    self._spin = action

    def take(self) -> list[Action]:
        """What is left to show, and the phase that lasts, if any."""
        self._close()
        return [*self._lines, *([self._spin] if self._spin else [])]

    def _close(self) -> None:
        # A line that has no end yet is a line all the same.
        for to_stderr, data in self._unfinished.items():
            self._lines.append(Output(to_stderr, data))
        self._unfinished.clear()
