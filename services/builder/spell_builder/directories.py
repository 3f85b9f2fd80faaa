"""The directories that environments live in: built beside, marked as complete, renamed last (shell).

<data>/environments/<key>/       complete; never changed again; read-only
<data>/environments/.new-<key>/  being built by whoever holds the lock of the key
<data>/stamps/<key>              what its files looked like when they were known to be right
<data>/locks/<key>               locked while somebody builds; the lock ends with its last holder
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import stat
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from spell_builder.overlays import LAYER
from spell_proto import logs
from spell_proto.environments import LIST, MARKER

log = logs.get()

_NEW = ".new-"
_OLD = ".old-"
_BASE = ".spell-machine"
_LOCK_LOOK_SECONDS = 0.1


class Directories:
    """All environments below one data directory, which several builders may share."""

    def __init__(self, data: Path) -> None:
        self._environments = data / "environments"
        self._locks = data / "locks"
        self._stamps = data / "stamps"

    def make(self) -> None:
        """Make what is missing."""
        for directory in (self._environments, self._locks, self._stamps):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        """Where the environments are."""
        return self._environments

    def path(self, key: str) -> Path:
        return self._environments / key

    def _lock(self, key: str) -> Path:
        return self._locks / key

    def complete(self, key: str) -> bool:
        """Whether the environment is there, whole, and its interpreter still exists."""
        path = self.path(key)
        layer = path / LAYER
        whole = not layer.is_symlink() or layer.exists()
        return whole and (path / MARKER).exists() and (path / "bin" / "python").exists()

    def bind(self, new: Path, base: str) -> None:
        """Note in an environment that is being built what it lies over: on another machine it is of no use."""
        (new / _BASE).write_text(base)

    def base(self, key: str) -> str | None:
        """What an environment lies over; None for one that stands alone, or is not there."""
        try:
            with open(self.path(key) / _BASE) as file:  # noqa: PTH123 -- before each run
                return file.read()
        except OSError:
            return None

    def tied(self, key: str) -> bool:
        """Whether an environment is of use on this machine only."""
        return self.base(key) is not None or os.path.lexists(self.path(key) / LAYER)

    def below(self, key: str) -> str | None:
        """The environment whose system packages an environment has."""
        try:
            return os.readlink(self.path(key) / LAYER).split("/")[1]  # noqa: PTH115
        except OSError:
            return None

    def all_below(self) -> set[str]:
        """The environments that others are put on top of."""
        return set(filter(None, map(self.below, os.listdir(self._environments))))  # noqa: PTH208

    def clean(self) -> None:
        """Remove what an interrupted build or removal left. What another builder works on is left alone."""
        for path in self._environments.iterdir():
            if path.name.startswith(_OLD):
                remove(path)
            elif path.name.startswith(_NEW):
                with self._lock(path.name.removeprefix(_NEW)).open("a") as lock:
                    if _try_lock(lock.fileno()):
                        log.info("removing an interrupted build", path=path.name)
                        remove(path)

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[int]:
        """Be the only builder of `key`, on this machine. Yields the descriptor that holds the lock.

        A child that inherits the descriptor keeps the lock when we are killed: nobody builds beside it.
        """
        with self._lock(key).open("a") as lock:
            while not _try_lock(lock.fileno()):  # noqa: ASYNC110 -- no event tells
                await asyncio.sleep(_LOCK_LOOK_SECONDS)
            yield lock.fileno()

    def all_complete(self) -> list[str]:
        """The keys of the environments that are there, whole."""
        return [
            path.name
            for path in self._environments.iterdir()
            if not path.name.startswith(".") and self.complete(path.name)
        ]

    def listed(self, key: str) -> bytes | None:
        """The list of what an environment consists of; none for one that was built before there were lists."""
        try:
            return (self.path(key) / LIST).read_bytes()
        except FileNotFoundError:
            return None

    def begin(self, key: str) -> Path:
        """The place to build `key` in. Only for the holder of its lock."""
        self.abandon(key)
        return self._environments / (_NEW + key)

    def abandon(self, key: str) -> None:
        """Remove what was begun. Only for the holder of its lock."""
        remove(self._environments / (_NEW + key))

    def finish(self, key: str, resolved: str, listed: bytes) -> None:
        """Make what was built in `begin(key)` the environment `key`: read-only, marked, renamed, in this order."""
        new = self._environments / (_NEW + key)
        assert (new / "bin" / "python").exists()
        (new / LIST).write_bytes(listed)
        (new / MARKER).write_text(json.dumps({"key": key, "packages": resolved}) + "\n")
        _make_read_only(new)
        # A machine that loses power must not keep the name and lose what it stands for.
        os.sync()
        path = self.path(key)
        if path.exists():
            path.rename(self._environments / f"{_OLD}{key}-{uuid.uuid4().hex[:8]}")
        new.rename(path)
        for old in self._environments.glob(f"{_OLD}{key}-*"):
            remove(old)

    def stamp(self, key: str) -> Path:
        """Where it stands what the files of an environment looked like when they were known to be right."""
        return self._stamps / key

    def size(self, key: str) -> int:
        """The bytes that an environment takes on the disk."""
        total = 0
        for folder, _, files in os.walk(self.path(key)):
            for name in files:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
        return total

    def set_aside(self, key: str) -> Path | None:
        """Take an environment away: from now on it is not there. None where it was not."""
        aside = self._environments / f"{_OLD}{key}-{uuid.uuid4().hex[:8]}"
        try:
            self.path(key).rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def put_back(self, key: str, aside: Path) -> None:
        """Undo `set_aside`; where it was built anew meanwhile, the old one goes."""
        try:
            aside.rename(self.path(key))
        except OSError:
            remove(aside)

    def discard(self, aside: Path) -> None:
        """Remove what was set aside."""
        remove(aside)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_read_only(directory: Path) -> None:
    """Forbid all writing, and becoming somebody else by running a program. Packages of a system may forbid more."""
    layer = str(directory / LAYER)
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118 -- tens of thousands of files
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode):
                os.chmod(path, stat.S_IMODE(mode) & ~0o6222)  # noqa: PTH101
        inside = folder == layer or folder.startswith(f"{layer}/")
        left = stat.S_IMODE(os.lstat(folder).st_mode) & ~0o222 if inside else 0o555
        os.chmod(folder, left)  # noqa: PTH101 -- less than before


def remove(directory: Path) -> None:
    """Remove a tree, read-only or not, there or not."""
    with contextlib.suppress(OSError):
        directory.chmod(0o700)
    for folder, names, _ in os.walk(directory):
        # Before it is entered: what may not be looked into is passed over.
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118
            if not os.path.islink(path):  # noqa: PTH114
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)  # noqa: PTH101
    shutil.rmtree(directory, ignore_errors=True)
