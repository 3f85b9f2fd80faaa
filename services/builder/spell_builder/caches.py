"""Keeps what builds have downloaded within a limit: uv's cache, conda packages, repositories; the longest unused go first
(shell).

Nothing is lost by it but time: whatever a build needs again is had again. uv guards its own cache: it waits for builds,
and builds for it. What conda and git have is taken away while nothing is built.
"""

import asyncio
import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spell_builder import commands
from spell_builder.brought import VIEW
from spell_builder.errors import BuildFailedError
from spell_builder.repositories import NEW
from spell_builder.uv import Uv
from spell_proto import logs
from spell_proto.service import ticker

log = logs.get()

#: After builds, the disk is looked at this often at most.
LOOK_SECONDS = 600.0
#: A cache that is above its limit is brought this far below it, so that not every build has to.
_SHARE = 0.8
#: A repository that was used this lately may be in the hands of a build of another process.
_REPOSITORY_SECONDS = 3600.0
#: No build takes as long.
_LEFT_SECONDS = 24 * 3600.0
_OLD = ".old-"
_ROUNDS_MAX = 5
_NAME = re.compile(r"(?P<name>[A-Za-z0-9._]+)-[^-]+\.dist-info")


@dataclass(frozen=True, slots=True)
class Part:
    """Something in a cache that can go by itself: what it is called, what it takes, and when it was last used."""

    name: str
    path: Path
    bytes: int
    used_at: float


class Caches:
    """Those below `data`. `work` says how much is being built, and how much has been."""

    def __init__(
        self,
        uv: Uv,
        data: Path,
        bytes_max: int,
        work: Callable[[], tuple[int, int]],
        trim: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """`trim` keeps what is not below `data` within the limit."""
        self._trim = trim
        self._uv = uv
        self._bytes_max = bytes_max
        self._work = work
        self._of_uv = data / "uv-cache"
        self._conda = data / "conda-cache"
        self._packages = self._conda / "packages"
        self._repositories = data / "git"

    def _busy(self) -> bool:
        return self._work()[0] > 0

    async def keep(self, stop: asyncio.Event) -> None:
        """Look now and then, where something has been built since, until `stop`."""
        seen = -1
        while await ticker(stop, LOOK_SECONDS):
            working, worked = self._work()
            if not working and worked != seen:
                seen = worked
                try:
                    await self.run_once(time.time())
                    if self._trim is not None:
                        await self._trim(self._bytes_max)
                except (OSError, BuildFailedError) as error:
                    log.warning("caches could not be made smaller", problem=str(error))

    async def run_once(self, now: float) -> int:
        """Remove what is above the limit; how many bytes are left."""
        await asyncio.to_thread(self._clear, now)
        before = size = await asyncio.to_thread(self._size)
        if size <= self._bytes_max:
            return size
        target = int(self._bytes_max * _SHARE)
        if self._of_uv.is_dir():
            await self._run("prune")
            size = await asyncio.to_thread(self._size)
        for _ in range(_ROUNDS_MAX):
            if size <= target or self._busy():
                break
            parts = await asyncio.to_thread(self._oldest, size - target, now)
            # Since it was looked: from here on to the renames nothing can begin.
            if not parts or self._busy():
                break
            await self._remove(parts)
            size = await asyncio.to_thread(self._size)
        if size > self._bytes_max and not self._busy() and self._of_uv.is_dir():
            # What is left is none of any package.
            await self._run("clean")
            size = await asyncio.to_thread(self._size)
        log.info("caches made smaller", before=before, after=size)
        return size

    async def _remove(self, parts: list[Part]) -> None:
        gone = []
        for part in parts:
            if not part.path.is_relative_to(self._of_uv):
                aside = part.path.with_name(f"{_OLD}{uuid.uuid4().hex}")
                with contextlib.suppress(OSError):
                    part.path.rename(aside)
                    gone.append(aside)
        names = sorted({part.name for part in parts if part.path.is_relative_to(self._of_uv)})
        if names:
            await self._run("clean", *names)
            await self._run("prune")
        for aside in gone:
            await asyncio.to_thread(_discard, aside)

    async def _run(self, *words: str) -> None:
        await self._uv.cache(*words, say=commands.unsaid)

    # ---- looking ---------------------------------------------------------------------------------------------

    def _clear(self, now: float) -> None:
        """What an earlier process has left half done."""
        for directory in (self._packages, self._repositories):
            for path in directory.glob(f"{_OLD}*"):
                _discard(path)
        # Of a process that was killed; those of a build that goes on are younger.
        for pattern in (f"{VIEW}*", f"{NEW}*", "*.git/objects/pack/tmp_*"):
            for path in self._repositories.glob(pattern):
                if now - _used(path) > _LEFT_SECONDS:
                    _discard(path)

    def _size(self) -> int:
        return sum(map(_bytes, (self._of_uv, self._conda, self._repositories)))

    def _oldest(self, excess: int, now: float) -> list[Part]:
        """What to remove so that `excess` bytes are free."""
        found: list[Part] = []
        for part in sorted(self._parts(now), key=lambda part: part.used_at):
            if excess <= 0:
                break
            found.append(part)
            excess -= part.bytes
        return found

    def _parts(self, now: float) -> Iterator[Part]:
        for path in _entries(self._of_uv, "archive-v*/*"):
            name = next((found["name"] for each in _names(path) if (found := _NAME.fullmatch(each))), None)
            if name is not None:
                about = next(path.glob("*.dist-info/METADATA"), path)
                yield Part(name, path, _bytes(path), _used(path, about))
        for path in _entries(self._packages, "*"):
            if not path.name.startswith("."):
                yield Part(path.name, path, _bytes(path), _used(path, path / "info/index.json"))
        for path in _entries(self._conda, "repodata"):
            yield Part(path.name, path, _bytes(path), _used(path))
        for path in _entries(self._repositories, "*.git"):
            used = _used(path)
            if now - used > _REPOSITORY_SECONDS:
                yield Part(path.name, path, _bytes(path), used)


def _entries(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern)) if directory.is_dir() else []


def _names(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(path)  # noqa: PTH208 -- names
    return []


def _used(*paths: Path) -> float:
    """When any of them was last written, or read where the file system notes that."""
    times = [0.0]
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.lstat()
            times += [status.st_mtime, *([] if path.is_dir() else [status.st_atime])]
    return max(times)


def _bytes(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        total += path.lstat().st_blocks * 512
    for folder, directories, files in os.walk(path):
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 -- many
    return total


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
