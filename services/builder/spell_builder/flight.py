"""Work that many wait for and one does: its lines so far, and how it ended."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from spell_builder.errors import BuilderError
from spell_proto import outside

LINES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a build's log."""

    text: str
    level: Literal["info", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Ready:
    """An environment to run in. `cached` when nothing had to be built for it."""

    key: str
    path: str
    cached: bool


class GivenUpError(BuilderError):
    """The work was not done, for a reason that is not the request's: the builder stops, or Postgres is away."""


class Flight:
    """A build in the making. Whoever joins late gets all its lines from the first one on.

    Once all who waited have left, and nobody has come for `grace_seconds`, `deserted` is called.
    """

    def __init__(self, grace_seconds: float = 0.0) -> None:
        self._grace_seconds = grace_seconds
        self._waiting = 0
        self._leaving: asyncio.TimerHandle | None = None
        self.deserted: Callable[[], None] = _nothing
        self.lines: list[Line] = []
        self._left_out = 0
        self._outcome: Ready | BaseException | None = None
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        return self._outcome is not None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Somebody waits for it, for as long as the context is open."""
        self.hold()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting and not self.over:
                if self._grace_seconds:
                    loop = asyncio.get_running_loop()
                    self._leaving = loop.call_later(self._grace_seconds, self._left)
                else:
                    self._left()

    def hold(self) -> None:
        """Wait for it until it is over, come what may."""
        self._waiting += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _left(self) -> None:
        if not self.over:
            self.deserted()

    def say(self, text: str, failing: bool = False) -> None:
        """Add a line, whatever a package prints of the addresses that its build knows."""
        text = outside.hidden(text)
        if len(self.lines) < LINES_MAX:
            self.lines.append(Line(text, "error" if failing else "info"))
        else:
            self._left_out += 1
        self._wake()

    def land(self, outcome: Ready | BaseException) -> None:
        """Say how it ended, once."""
        assert self._outcome is None
        if self._left_out:
            self.lines.append(Line(f"({self._left_out} more lines)"))
        self._outcome = outcome
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def more(self, seen: int, seconds: float) -> Sequence[Line]:
        """The lines after the first `seen`: at once where there are some, none when it is over or takes longer."""
        news = self._news
        if len(self.lines) == seen and not self.over:
            try:
                async with asyncio.timeout(seconds):
                    await news.wait()
            except TimeoutError:
                return ()
        return self.lines[seen:]

    def outcome(self) -> Ready:
        """The environment, once it is over.

        Raises:
            BuildFailedError: the request cannot be fulfilled.
            GivenUpError: try again.
        """
        assert self._outcome is not None
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    async def landed(self) -> Ready:
        """Wait until it is over; see `outcome`."""
        while not self.over:
            await self._news.wait()
        return self.outcome()


def _nothing() -> None:
    pass
