"""Whether an environment on disk is still what was built: looked at before it is used (shell).

Reading every byte of an environment takes seconds, looking at every file milliseconds. So a stamp is kept of what a
change to a file cannot but change: sizes, times of change and inodes. As long as it is the same, nobody wrote. When it
is not, everything is read and held against the list of contents.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable

from spell_builder import contents
from spell_builder.directories import Directories
from spell_proto import logs
from spell_proto.archive_format import stamp

log = logs.get()


class Soundness:
    """One for all environments of a builder. Looking at one takes at most `share` of the time: small environments
    are looked at before nearly every use, large ones every few seconds.
    """

    def __init__(
        self, directories: Directories, recorded: Callable[[str], Awaitable[list[str]]], share: float
    ) -> None:
        self._directories = directories
        self._recorded = recorded
        self._share = share
        #: key -> until when it is believed to be sound, by the monotonic clock
        self._believed: dict[str, float] = {}

    def just_built(self, key: str) -> None:
        """Take the stamp of an environment that nobody has used yet. Call it on a thread."""
        begun = time.monotonic()
        path = str(self._directories.path(key))
        self._keep(key, stamp(path), contents.state(path))
        self._believe(key, begun)

    def _keep(self, key: str, looks: str, state: str) -> None:
        """Note how an environment looks that is right, and what its list does not tell of its system packages."""
        self._directories.stamp(key).write_text(f"{looks}{state}\n")

    def _believe(self, key: str, begun: float) -> None:
        now = time.monotonic()
        self._believed[key] = now + (now - begun) / self._share

    async def damage(self, key: str) -> str | None:
        """What is wrong with an environment that is complete; None where it is what was built."""
        begun = time.monotonic()
        if begun < self._believed.get(key, 0.0):
            return None
        looks = await asyncio.to_thread(stamp, str(self._directories.path(key)))
        kept, state = None, None
        with contextlib.suppress(OSError, ValueError):
            # One that was kept before there was a state is a line shorter.
            kept, *rest = self._directories.stamp(key).read_text().splitlines(keepends=True)
            state = rest[0].strip() if rest else None
        if kept != looks:
            recorded = await self._recorded(key)
            problem = await asyncio.to_thread(self._read, key, recorded, kept, looks)
            found = await asyncio.to_thread(self._state, key)
            if problem is None and state not in {None, found}:
                problem = "what its system packages made in etc and var has changed"
            if problem is not None:
                return problem
            self._keep(key, looks, found)
            begun = time.monotonic()  # reading it all is not how long a look takes
        self._believe(key, begun)
        return None

    def _state(self, key: str) -> str:
        try:
            return contents.state(str(self._directories.path(key)))
        except OSError as error:
            return f"it cannot be read: {error!r}"

    def _read(self, key: str, recorded: list[str], kept: str | None, looks: str) -> str | None:
        listed = self._directories.listed(key)
        if listed is None or contents.digest(listed) not in recorded:
            return "its content was never recorded"
        if kept is not None and kept.split()[1] != looks.split()[1]:
            return "its byte code has changed"
        try:
            problems, _ = contents.differences(str(self._directories.path(key)), listed, sys.maxsize)
        except (OSError, ValueError, TypeError) as error:
            return f"it cannot be read: {error}"
        return problems[0] if problems else None
