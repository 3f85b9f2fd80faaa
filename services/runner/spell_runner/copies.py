"""Keeps copies of environments that were built on other machines: fetched once, looked at before each use (shell).

<data>/copies/<key>/          a copy, read-only, the same as what the builder has
<data>/copies/<key>.json      written once it is whole: what it must look like, and what it needs
<data>/copies/.new-<key>-…    being unpacked
<data>/copies/.old-<key>-…    no copy any more, but a run may still have it open
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson
from pydantic import TypeAdapter

from spell_proto import archives, logs
from spell_proto.archive_format import ArchiveError, DamagedError, stamp
from spell_proto.environments import LIST, ArchiveView
from spell_proto.errors import FullError, NotFoundError, RefusedError
from spell_proto.http import Caller
from spell_proto.shapes import Shape
from spell_proto.state import Reason
from spell_runner import asking, workspace
from spell_runner.errors import AttemptError
from spell_runner.interpreters import Interpreters
from spell_runner.notes import Notes
from spell_runner.shim.linux import FULL

log = logs.get()

FETCHING = "Fetching the environment from the shared cache"
DAMAGED = "The copy of the environment is damaged; fetching it again"
BUILDER_AWAY = "The builder does not answer; waiting for it"
STORAGE_AWAY = "Storage does not answer; waiting for it"
#: What was used this recently may be about to be used by an attempt that has not said so yet.
FRESH_SECONDS = 3600.0
#: Looking whether copies are what they were takes at most this share of the time.
CHECK_SHARE = 0.05
#: However large the cache may be, what is unpacked must fit; an archive is some third of its files.
_GROWTH = 4
_NEW, _OLD = ".new-", ".old-"
_ARCHIVE: TypeAdapter[ArchiveView] = TypeAdapter(ArchiveView)


class _Record(Shape):
    """What is written down about a copy. The time of its file is that of the last use."""

    stamp: str
    size: int
    archive: ArchiveView


_RECORD: TypeAdapter[_Record] = TypeAdapter(_Record)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that is whole: where it is, and the path that it was built for."""

    source: Path
    path: Path


class Copies:
    """The copies below `data`. One for the machine; `in_use` says which directories attempts stand on."""

    def __init__(
        self, data: Path, builder: Caller, storage: Caller, in_use: Callable[[], set[str]], bytes_max: int
    ) -> None:
        self._root = data / "copies"
        self._root.mkdir(mode=0o755, exist_ok=True)
        self._builder = builder
        self._storage = storage
        self._in_use = in_use
        self._bytes_max = bytes_max
        self._interpreters = Interpreters()
        #: key -> until when its copy is believed to be sound, by the monotonic clock
        self._believed: dict[str, float] = {}
        self._making: dict[str, asyncio.Future[None]] = {}

    def sweep(self) -> None:
        """Remove what an earlier runner has left half done, or could not remove while it was in use."""
        in_use = self._in_use()
        whole = {path.stem for path in self._root.glob("*.json")}
        for path in self._root.iterdir():
            if path.name in whole or path.suffix == ".json":
                continue
            key = path.name.removeprefix(_NEW).removeprefix(_OLD).partition("-")[0]
            if not path.is_dir():
                path.unlink()
            elif str(self._root / key) not in in_use:
                workspace.remove(path)

    def has(self, key: str) -> bool:
        """Whether there is a copy, as far as can be told at a glance."""
        return self._record_path(key).exists()

    async def get(self, key: str, run_id: int, notes: Notes) -> Copy:
        """The copy of an environment; one that is not here yet is fetched, once for all who want it.

        Raises:
            AttemptError: it cannot be had, or not be used on this machine.
            NotFoundError: the builder has it no more.
        """
        said = False
        while True:
            record = await self._sound(key, notes)
            if record is not None:
                await self._interpreters.check(record.archive.python)
                return Copy(self._root / key, Path(record.archive.path))
            if not said:
                notes.line(FETCHING)
                said = True
            making = self._making.get(key)
            if making is not None:
                await asyncio.wait({making})
                continue
            self._making[key] = making = asyncio.get_running_loop().create_future()
            try:
                await self._make(key, run_id, notes)
            finally:
                del self._making[key]
                making.set_result(None)

    # ---- having one ------------------------------------------------------------------------------------------

    async def _sound(self, key: str, notes: Notes) -> _Record | None:
        """What is written down about a copy that is whole; one that was changed is no copy any more."""
        record = self._record(key)
        if record is None:
            return None
        # From here on nobody evicts it: that is decided in this thread, by this time.
        os.utime(self._record_path(key))
        begun = time.monotonic()
        if begun >= self._believed.get(key, 0.0):
            try:
                looks = await asyncio.to_thread(stamp, str(self._root / key))
            except OSError as error:
                looks = repr(error)
            if looks != record.stamp:
                log.warning("a copy of an environment is damaged", key=key)
                notes.line(DAMAGED)
                await self._set_aside(key)
                return None
            now = time.monotonic()
            self._believed[key] = now + (now - begun) / CHECK_SHARE
        return record

    async def _make(self, key: str, run_id: int, notes: Notes) -> None:
        damaged: str | None = None
        while True:
            archive = await self._asked(key, damaged, run_id, notes)
            # Before gigabytes are fetched for nothing.
            await self._interpreters.check(archive.python)
            try:
                with tempfile.TemporaryFile(dir=self._root) as file:
                    await self._fetch(archive, file, run_id, notes)
                    await self._unpack(key, archive, file)
            except (DamagedError, NotFoundError) as error:
                log.warning("an archive is damaged", key=key, digest=archive.digest, problem=str(error))
                if damaged is not None:
                    message = f"environment {key[:12]} reaches this machine damaged: {error}"
                    raise AttemptError(Reason.BUILD_FAILED, message) from error
                notes.line(DAMAGED)
                damaged = archive.digest
            except (ArchiveError, RefusedError, OSError) as error:
                message = f"environment {key[:12]} could not be fetched: {_problem(error)}"
                raise AttemptError(Reason.BUILD_FAILED, message) from error
            else:
                return

    async def _asked(self, key: str, damaged: str | None, run_id: int, notes: Notes) -> ArchiveView:
        body = {"fetching": True, "damaged": damaged}

        async def ask() -> dict[str, Any]:
            path = f"/environments/{key}/archive"
            return await asking.last_word(
                self._builder, "the builder", path, body, notes, Reason.BUILD_FAILED
            )

        ready = await asking.until_answered(ask, notes, run_id, "the builder", BUILDER_AWAY)
        return _ARCHIVE.validate_python(ready)

    async def _fetch(self, archive: ArchiveView, file: IO[bytes], run_id: int, notes: Notes) -> None:
        await self._make_room(archive.size * _GROWTH)

        async def ask() -> None:
            try:
                await archives.fetch(self._storage, archive.digest, archive.size, file)
            except OSError as error:
                if error.errno in FULL:
                    raise FullError("disk_full", "there is no room left on the disk") from error
                raise

        await asking.until_answered(ask, notes, run_id, "storage", STORAGE_AWAY)

    async def _unpack(self, key: str, archive: ArchiveView, file: IO[bytes]) -> None:
        new = self._root / f"{_NEW}{key}-{secrets.token_hex(4)}"
        try:
            unpacked = await archives.unpack(file, archive.digest, str(new), sealed=True)
            listed = await asyncio.to_thread((new / LIST).read_bytes)
            if hashlib.sha256(listed).hexdigest() != archive.content:
                raise DamagedError("it is not what was built")  # noqa: TRY301 -- what was begun is removed below
            await self._set_aside(key)
            new.rename(self._root / key)
            record = _Record(stamp=unpacked.stamp, size=unpacked.size, archive=archive)
            beside = self._record_path(key).with_suffix(".new")
            beside.write_bytes(orjson.dumps(record.model_dump()))
            beside.rename(self._record_path(key))
        except BaseException:
            await asyncio.shield(asyncio.to_thread(workspace.remove, new))
            raise
        log.info("environment fetched", key=key, bytes=unpacked.size)

    def _record(self, key: str) -> _Record | None:
        try:
            return _RECORD.validate_json(self._record_path(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def _record_path(self, key: str) -> Path:
        return self._root / f"{key}.json"

    # ---- removing --------------------------------------------------------------------------------------------

    async def _set_aside(self, key: str) -> None:
        """Let it be no copy any more. A run that has it open keeps it; then it goes at a later start."""
        aside = self._root / f"{_OLD}{key}-{secrets.token_hex(4)}"
        self._believed.pop(key, None)
        self._record_path(key).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self._root / key).rename(aside)
        in_use = await asyncio.to_thread(self._in_use)
        if str(self._root / key) not in in_use:
            await asyncio.to_thread(workspace.remove, aside)

    async def _make_room(self, wanted: int) -> None:
        """Remove what was not used for longest until `wanted` more bytes have room, bar what is in use."""
        kept = await asyncio.to_thread(self._by_age)
        excess = sum(size for _, _, size in kept) + wanted - self._bytes_max
        in_use = await asyncio.to_thread(self._in_use) if excess > 0 else set()
        for used, key, size in kept:
            if excess <= 0:
                break
            path, record = self._root / key, self._record_path(key)
            if str(path) in in_use or time.time() - used < FRESH_SECONDS:
                continue
            # Not in a thread: nobody can begin to use it between our look and its end.
            if record.stat().st_mtime == used:
                log.info("a copy of an environment makes room", key=key)
                record.unlink()
                gone = self._root / f"{_OLD}{key}-{secrets.token_hex(4)}"
                with contextlib.suppress(FileNotFoundError):
                    path.rename(gone)
                await asyncio.to_thread(workspace.remove, gone)
                excess -= size

    def _by_age(self) -> list[tuple[float, str, int]]:
        """When each was last used, its key, and the room that it takes."""
        found = []
        for path in self._root.glob("*.json"):
            record = self._record(path.stem)
            if record is not None:
                found.append((path.stat().st_mtime, path.stem, record.size))
        return sorted(found)


def _problem(error: Exception) -> str:
    return error.message if isinstance(error, RefusedError) else str(error)
