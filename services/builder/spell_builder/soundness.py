"""Whether an environment on disk is still what was built: looked at before it is used (shell).

Reading every byte of an environment takes seconds, looking at every file milliseconds. So a stamp is kept of what a
change to a file cannot but change: sizes, times of change and inodes. As long as it is the same, nobody wrote. When it
is not, everything is read and held against the list of contents.
"""

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from spell_builder import contents
from spell_builder.directories import Directories
from spell_proto import logs

log = logs.get()

_BYTE_CODE = "__pycache__"


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
        self._directories.stamp(key).write_text(_stamp(self._directories.path(key)))
        self._believe(key, begun)

    def _believe(self, key: str, begun: float) -> None:
        now = time.monotonic()
        self._believed[key] = now + (now - begun) / self._share

    async def damage(self, key: str) -> str | None:
        """What is wrong with an environment that is complete; None where it is what was built."""
        begun = time.monotonic()
        if begun < self._believed.get(key, 0.0):
            return None
        stamp = await asyncio.to_thread(_stamp, self._directories.path(key))
        kept = None
        with contextlib.suppress(OSError):
            kept = self._directories.stamp(key).read_text()
        if kept != stamp:
            recorded = await self._recorded(key)
            problem = await asyncio.to_thread(self._read, key, recorded, kept, stamp)
            if problem is not None:
                return problem
            self._directories.stamp(key).write_text(stamp)
            begun = time.monotonic()  # reading it all is not how long a look takes
        self._believe(key, begun)
        return None

    def _read(self, key: str, recorded: list[str], kept: str | None, stamp: str) -> str | None:
        listed = self._directories.listed(key)
        if listed is None or contents.digest(listed) not in recorded:
            return "its content was never recorded"
        if kept is not None and kept.split()[1] != stamp.split()[1]:
            return "its byte code has changed"
        try:
            problems, _ = contents.differences(str(self._directories.path(key)), listed, sys.maxsize)
        except (OSError, ValueError, TypeError) as error:
            return f"it cannot be read: {error}"
        return problems[0] if problems else None


def _stamp(root: Path) -> str:
    """A digest of what the system notes about each file, and one for byte code, which has no other digest."""
    files, code = hashlib.sha256(), hashlib.sha256()
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        lines = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                shape = entry.stat(follow_symlinks=False)
                lines.append(
                    f"{entry.name}\0{shape.st_ino} {shape.st_mode} {shape.st_size} {shape.st_mtime_ns} {shape.st_ctime_ns}"
                )
        lines.sort()
        waiting.sort()
        kind = code if folder.endswith(_BYTE_CODE) else files
        kind.update("\n".join([folder.removeprefix(str(root)), *lines]).encode(errors="surrogateescape"))
    return f"{files.hexdigest()} {code.hexdigest()}\n"
