"""Sees to it that a run takes no more of its machine's disk than it may (shell).

One that has a disk of its own can take no more than that: it is ended when the disk stays full. Of others, what a run has written is measured again and again while its command runs: seldom where that takes long, but at once when
the whole disk has lost as much room as the run had left. One that has written more than it may is ended; what it has made is saved.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spell_proto import logs
from spell_proto.errors import SettingsError
from spell_runner.directory import Directory
from spell_runner.shim import memory, room
from spell_runner.shim.launch import LAUNCH, SNAPSHOT, Launch
from spell_runner.usage import Usage, measure

log = logs.get()

#: Between two looks: at least so long, and so many times what the last one took.
LOOK_SECONDS = 1.0
LOOK_SHARE = 20
MEASURE_SECONDS_MAX = 300.0
#: So long a disk may be full: most commands that meet the end of it say so and end by themselves, some make room.
FULL_SECONDS_MAX = 0.8


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may write; 0 means as much as it likes."""

    bytes_max: int = 0
    files_max: int = 0

    def __bool__(self) -> bool:
        return bool(self.bytes_max or self.files_max)


NO_LIMITS = Limits()


def exceeded(usage: Usage, limits: Limits) -> str | None:
    """A sentence about how a run has gone beyond its limits; None where it has not. Pure."""
    if limits.bytes_max and usage.bytes > limits.bytes_max:
        has, may = memory.text(usage.bytes), memory.text(limits.bytes_max)
        return f"it has written {has}, and may write {may}"
    if limits.files_max and usage.files > limits.files_max:
        return f"it has made {usage.files:,} files and directories, and may make {limits.files_max:,}"
    return None


def pause(took_seconds: float) -> float:
    """Seconds until the next look, when the last one took so long. Pure."""
    return max(LOOK_SECONDS, LOOK_SHARE * took_seconds)


def may_have_exceeded(usage: Usage, limits: Limits, lost: Usage) -> bool:
    """Whether a run of which this is known can be beyond its limits, when the disk has lost so much since. Pure.

    It may be all the same where others have freed as much meanwhile: this is no reason not to look in the end.
    """
    bytes_left, files_left = limits.bytes_max - usage.bytes, limits.files_max - usage.files
    return bool(limits.bytes_max and lost.bytes > bytes_left) or bool(
        limits.files_max and lost.files > files_left
    )


def check(limits: Limits) -> Limits:
    """`limits`, where they can be kept.

    Raises:
        SettingsError: nothing is here to measure with.
    """
    if limits and shutil.which("du") is None:
        raise SettingsError(
            "the settings SPELL_RUN_BYTES_MAX and SPELL_RUN_FILES_MAX need 'du' on the machine (coreutils)"
        )
    return limits


class Quota:
    """That of one attempt. `end` is called with a sentence, perhaps more than once, when it has written too much."""

    def __init__(self, limits: Limits, directory: Directory, end: Callable[[str], None]) -> None:
        self._limits = limits
        self._directory = directory
        self._end = end
        self._due = 0.0
        self._soonest = 0.0
        #: What was seen last, once something was.
        self.measured: Usage | None = None
        self._free = Usage()
        self._full_since: float | None = None
        self._told: Launch | None = None
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Measure if it is time. The command runs."""
        now = asyncio.get_running_loop().time()
        if self._directory.has_disk and not self._leads_off_its_disk(now):
            return
        if not self._limits or (self._task is not None and not self._task.done()):
            return
        if now >= self._due or (now >= self._soonest and self._is_urgent()):
            self._task = asyncio.ensure_future(self._look())

    def _leads_off_its_disk(self, now: float) -> bool:
        """Look at a disk of its own; whether the run can write elsewhere, too: to the layer that a container has."""
        if self._told is None:
            self._told = Launch.decode(Path(self._directory / LAUNCH).read_bytes())
        if self._told.disk is None:
            return True
        problem = None
        # While a snapshot is taken the run cannot help what is on its disk, nor can it write more.
        if not os.path.lexists(self._directory / SNAPSHOT):
            problem = room.used_up(self._told.disk)
        if problem is None:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        elif now - self._full_since >= FULL_SECONDS_MAX:
            log.info("a run has used up its disk", attempt=self._directory.name, problem=problem)
            self._end(problem)
        return self._told.container is not None

    def _is_urgent(self) -> bool:
        free = _free(self._directory.base)
        lost = Usage(self._free.bytes - free.bytes, self._free.files - free.files)
        return may_have_exceeded(self.measured or Usage(), self._limits, lost)

    def drop(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            free = _free(self._directory.base)
            async with asyncio.timeout(MEASURE_SECONDS_MAX):
                usage = await measure(
                    self._directory, sizes=bool(self._limits.bytes_max), files=bool(self._limits.files_max)
                )
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("what a run has written cannot be measured", problem=repr(error))
        else:
            self.measured, self._free = usage, free
            problem = exceeded(usage, self._limits)
            if problem is not None:
                log.info("a run has written too much", attempt=self._directory.name, problem=problem)
                self._end(problem)
        took = loop.time() - begun
        self._soonest = loop.time() + max(LOOK_SECONDS, took)
        self._due = loop.time() + pause(took)


def _free(path: str) -> Usage:
    """What is left of the disk that a path is on."""
    about = os.statvfs(path)
    return Usage(about.f_bfree * about.f_frsize, about.f_ffree)
