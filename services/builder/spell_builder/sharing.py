"""Brings environments to the shared cache and has them from there, so that each is built once for all machines (shell).

An environment is packed and sent in the background, from the moment on in which it is there. What is stored is noted
before it is sent and again when it has arrived: whatever is killed when, an archive that somebody is told of is whole,
and one that nobody is told of is removed in the end.
"""

import asyncio
import errno
import functools
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp

from spell_builder import contents
from spell_builder.archives import Archive, Archives
from spell_builder.commands import Say
from spell_builder.directories import Directories
from spell_builder.errors import PushError
from spell_builder.pushes import Pushes
from spell_builder.requests import Requests, patiently
from spell_builder.soundness import Soundness
from spell_proto import archives, logs
from spell_proto.archive_format import ArchiveError, DamagedError
from spell_proto.archives import Packed
from spell_proto.environments import LIST, MARKER
from spell_proto.errors import FullError, NotFoundError, RefusedError, UnavailableError
from spell_proto.http import Caller

log = logs.get()

#: How long storage is waited for: with an archive to store, and with one that could be built as well.
PUSH_SECONDS_MAX = 60.0
PULL_SECONDS_MAX = 5.0
#: Why an environment is not stored.
TIED = "its system packages are those of the server's machine (the docker engine has them on every machine)"
_PAUSE_SECONDS_MAX = 5.0
_READ_BYTES = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_AWAY = (UnavailableError, aiohttp.ClientError, TimeoutError, ConnectionError)


@dataclass(frozen=True, slots=True)
class Stores:
    """What environments are kept in: here, in storage, and what is noted of both."""

    directories: Directories
    soundness: Soundness
    requests: Requests
    archives: Archives
    storage: Caller
    spool: Path


class Sharing(Pushes):
    """Those of directories. At most one is packed at a time."""

    def __init__(self, stores: Stores, tasks: asyncio.TaskGroup) -> None:
        super().__init__(tasks)
        self._directories = stores.directories
        self._soundness = stores.soundness
        self._requests = stores.requests
        self._archives = stores.archives
        self._storage = stores.storage
        self._spool = stores.spool
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._alone = asyncio.Lock()
        #: How often storage was waited for in vain.
        self._in_vain = 0

    # ---- pushing ---------------------------------------------------------------------------------------------

    def pushing(self, key: str) -> bool:
        return not self._directories.tied(key) and super().pushing(key)

    async def _push(self, key: str) -> None:
        in_vain = self._in_vain
        async with self._alone:
            if await self.find(key) is not None:
                return
            if in_vain != self._in_vain:
                # Whoever was before us has waited for it: all behind him would wait as long, one after the other.
                raise PushError("storage does not answer", passing=True)
            if self._directories.tied(key):
                raise PushError(TIED, passing=False)
            listed = self._directories.listed(key) if self._directories.complete(key) else None
            if listed is None or await self._soundness.damage(key) is not None:
                raise PushError("it was removed", passing=True)
            begun, path = time.monotonic(), str(self._directories.path(key))
            # Without a name: it is gone when we are.
            with tempfile.TemporaryFile(dir=self._spool) as file:
                try:
                    packed = await archives.pack(path, file)
                except FullError as error:
                    raise PushError(str(error), passing=False) from error
                except ArchiveError as error:
                    passing = not self._directories.complete(key)
                    raise PushError(f"it could not be packed: {error}", passing=passing) from error
                content = contents.digest(listed)
                await patiently(functools.partial(self._archives.begin, key, packed, content, path))
                await self._send(packed, file)
            await patiently(functools.partial(self._archives.stored, key, packed.digest))
        seconds = round(time.monotonic() - begun, 3)
        log.info("environment shared", key=key, digest=packed.digest, bytes=packed.size, seconds=seconds)

    async def _send(self, packed: Packed, file: IO[bytes]) -> None:
        deadline, pause = time.monotonic() + PUSH_SECONDS_MAX, 0.2
        headers = {"Content-Length": str(packed.size), "Content-Type": "application/octet-stream"}
        while True:
            file.seek(0)
            path = f"/archives/{packed.digest}"
            try:
                async with self._storage.open("PUT", path, data=_pieces(file), headers=headers, stream=True):
                    return
            except FullError as error:
                raise PushError("the disk of storage is full", passing=False) from error
            except _AWAY as error:
                log.info("storage does not answer", problem=repr(error))
                if time.monotonic() > deadline:
                    self._in_vain += 1
                    raise PushError("storage does not answer", passing=True) from error
                await asyncio.sleep(pause)
                pause = min(2 * pause, _PAUSE_SECONDS_MAX)
            except RefusedError as error:
                raise PushError(f"storage refuses it: {error}", passing=False) from error

    # ---- having them from there ------------------------------------------------------------------------------

    async def find(self, key: str, *, fetching: bool = False) -> Archive | None:
        """The archive of an environment, if it is stored."""
        return await patiently(functools.partial(self._archives.find, key, fetching=fetching))

    async def unpacked(self, key: str, new: Path, say: Say) -> bytes | None:
        """Have an environment from the shared cache, as the directory `new`; the list of what is in it.

        None where there is none, or it cannot be had now: it is to be built.
        """
        archive = await self.find(key, fetching=True)
        if archive is None:
            return None
        begun = time.monotonic()
        try:
            with tempfile.TemporaryFile(dir=self._spool) as file:
                await self._fetch(archive, file)
                await archives.unpack(file, archive.digest, str(new), sealed=False)
            listed = (new / LIST).read_bytes()
            if contents.digest(listed) != archive.content or archive.content not in await patiently(
                functools.partial(self._requests.recorded, key)
            ):
                raise DamagedError("another content was recorded for it")  # noqa: TRY301 -- with the others below
        except (DamagedError, NotFoundError) as error:
            log.warning("an archive is damaged", key=key, digest=archive.digest, problem=str(error))
            say("The environment in the shared cache is damaged; it is built again", True)
            await patiently(functools.partial(self._archives.remove_damaged, archive.digest))
        except (FullError, *_AWAY, ArchiveError, RefusedError, OSError) as error:
            log.warning("an archive cannot be had", key=key, problem=repr(error))
            full = isinstance(error, FullError) or (isinstance(error, OSError) and error.errno in _FULL)
            why = (
                "The disk has no room for what the shared cache has"
                if full
                else "The shared cache does not answer"
            )
            say(f"{why}; the environment is built here", False)
        else:
            # They are written last, as in an environment that was built.
            (new / LIST).unlink()
            (new / MARKER).unlink()
            self.believe(key)
            say(f"Fetched from the shared cache in {time.monotonic() - begun:.1f} s", False)
            return listed
        return None

    async def _fetch(self, archive: Archive, file: IO[bytes]) -> None:
        deadline, pause = time.monotonic() + PULL_SECONDS_MAX, 0.2
        while True:
            try:
                await archives.fetch(self._storage, archive.digest, archive.size, file)
            except _AWAY:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(pause)
                pause *= 2
            else:
                return

    async def examine(self, key: str, digest: str) -> None:
        """Somebody found an archive damaged: where it is, nobody is told of it any more."""
        hashing = hashlib.sha256()
        try:
            async with self._storage.open("GET", f"/archives/{digest}", stream=True) as answer:
                async for piece in answer.content.iter_chunked(_READ_BYTES):
                    hashing.update(piece)
        except NotFoundError:
            pass
        if hashing.hexdigest() != digest:
            log.warning("an archive is damaged", key=key, digest=digest)
            await patiently(functools.partial(self._archives.remove_damaged, digest))
            self.doubt(key)

    # ---- removing --------------------------------------------------------------------------------------------

    async def forget(self, key: str) -> None:
        """An environment is removed: nobody is told of its archive any more."""
        self.doubt(key)
        await self._archives.remove([key])

    async def kept(self) -> dict[str, int]:
        """Environment -> the bytes that its archive takes."""
        return await self._archives.kept()

    async def collect(self) -> None:
        """Remove the archives that nobody is told of, and nobody fetches."""
        try:
            for digest in await self._archives.spare():
                async with self._archives.removing(digest) as spare:
                    if spare:
                        async with self._storage.open("DELETE", f"/archives/{digest}"):
                            log.info("archive removed", digest=digest)
        except (RefusedError, *_AWAY) as error:
            log.warning("archives could not be removed", problem=repr(error))


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(file.read, _READ_BYTES):
        yield data
