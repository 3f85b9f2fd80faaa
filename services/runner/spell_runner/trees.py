"""Keeps code that is ready to be run: trees that are laid out, once per machine, and stores with their objects (shell)."""

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from spell_proto import logs
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.spec import CodeLocation
from spell_proto.state import Reason
from spell_runner import layout, skeleton, workspace
from spell_runner.errors import AttemptError, StoreDamagedError, TreeRefusedError
from spell_runner.shim.linux import FULL
from spell_runner.stores import Store, Stores
from spell_runner.tasks import in_thread
from spell_runner.workspace import Abort

log = logs.get()

RETRY_SECONDS_MAX = 5.0
#: More trees or stores than this, or a fuller disk, and the ones that were not used for longest go.
KEPT_MAX = 200
DISK_FREE_SHARE_MIN = 0.1
#: What was used this recently may be about to be used by an attempt that has not said so yet.
FRESH_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a run: never to be written to.

    `lower` holds the root directory with the files, and an empty directory `.git`. `repository` is what is to be seen
    there, with `objects` below it.
    """

    lower: Path
    repository: Path
    objects: Path


class Trees:
    """The trees and stores below `data`, each complete where its name stands. One for the machine.

    `in_use` says which paths of a `Code` attempts stand on.
    """

    def __init__(self, data: Path, storage: Caller, in_use: Callable[[], set[str]]) -> None:
        self._trees_path = data / "trees"
        self._stores_path = data / "stores"
        for path in (self._trees_path, self._stores_path):
            path.mkdir(mode=0o700, exist_ok=True)
        self._stores = Stores(self._stores_path, storage)
        self._in_use = in_use
        self._making: dict[str, asyncio.Future[None]] = {}
        self._evicting = False

    def forget(self) -> None:
        """Remove all trees and stores: after a power cut, a file may have its name but not its bytes."""
        for directory in (self._trees_path, self._stores_path):
            workspace.remove(directory)
            directory.mkdir(mode=0o700, exist_ok=True)

    def sweep(self) -> None:
        """Remove what an earlier runner has left half done."""
        for path in (*self._trees_path.glob(".*"), *self._trees_path.glob("*/.new-*")):
            workspace.remove(path)
        self._stores.sweep()

    async def get(self, owner_id: int, code: CodeLocation, waits: Callable[[], None]) -> Code:
        """The code of a run, ready to be used. `waits` is called once when storage keeps us waiting.

        Raises:
            AttemptError: storage has no such commit, or it holds what no tree may hold.
        """
        root = hashlib.sha256(os.fsencode(code.root_directory)).hexdigest()[:16]
        place = self._trees_path / f"{code.tree}.{root}"
        store = self._stores.get(owner_id, code.repository_id)
        repository = place / skeleton.name(store.path.name, code.commit)
        while not self._ready(place, store, repository, code):
            making = self._making.get(place.name)
            if making is not None:
                await asyncio.wait({making})
                continue
            self._making[place.name] = making = asyncio.get_running_loop().create_future()
            try:
                if _is_full(self._trees_path):
                    await self._evict()
                await self._make(owner_id, code, place, store, repository, waits)
            finally:
                del self._making[place.name]
                making.set_result(None)
            await self._evict()
        return Code(place / layout.FILES, repository, store.objects)

    def _ready(self, place: Path, store: Store, repository: Path, code: CodeLocation) -> bool:
        if not skeleton.fits(str(repository), store, code.commit):
            return False
        if code.snapshot is not None and not store.ref(code.snapshot).exists():
            return False
        # From here on nobody evicts them: that is decided in this thread, by these times.
        os.utime(place)
        os.utime(store.path)
        return True

    async def _make(
        self,
        owner_id: int,
        code: CodeLocation,
        place: Path,
        store: Store,
        repository: Path,
        waits: Callable[[], None],
    ) -> None:
        pause, said, healed = 0.1, False, False
        while True:
            try:
                await self._stores.fill(store, owner_id, code)
                if not place.exists():
                    await self._lay(code, place, store)
                skeleton.make(place, repository, store, code.commit, code.root_directory)
                os.utime(place)
            except (UnavailableError, aiohttp.ClientError, TimeoutError) as error:
                log.info("storage does not answer", problem=repr(error))
                if pause > RETRY_SECONDS_MAX / 4 and not said:
                    said = True
                    waits()
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            except (RefusedError, TreeRefusedError, StoreDamagedError, OSError) as error:
                if isinstance(error, StoreDamagedError) and not healed:
                    log.warning("a store lacks objects", store=store.path.name, problem=str(error))
                    store.forget_commits()
                    healed = True
                    continue
                message = f"the code of commit {code.commit[:12]} could not be fetched: {_problem(error)}"
                raise AttemptError(Reason.CODE_FETCH, message) from error
            else:
                return

    async def _lay(self, code: CodeLocation, place: Path, store: Store) -> None:
        new = place.with_name(f".{place.name}")
        abort = Abort()

        def work() -> None:
            workspace.remove(new)
            new.mkdir(mode=0o755)
            earlier = _youngest(self._trees_path, store.path.name)
            layout.lay(store.path, code.tree, new, code.root_directory, earlier, abort)

        try:
            await in_thread(work, abort)
        except BaseException:
            await asyncio.to_thread(workspace.remove, new)
            raise
        new.rename(place)

    # ---- making room -----------------------------------------------------------------------------------------

    async def _evict(self) -> None:
        """Remove what was not used for longest, where there is too much, and no attempt stands on it."""
        if self._evicting:
            return
        self._evicting = True
        try:
            await self._make_room()
        except OSError as error:
            # Whoever wants code may find room for it all the same.
            log.warning("code cannot make room", problem=repr(error))
        finally:
            self._evicting = False

    async def _make_room(self) -> None:
        for paths in (self._trees_path, self._stores_path):
            by_age = await asyncio.to_thread(_by_age, paths)
            in_use = await asyncio.to_thread(self._in_use)
            surplus = len(by_age) - KEPT_MAX
            for used, path in by_age:
                if surplus <= 0 and not _is_full(paths):
                    break
                if _used(path, in_use) or time.time() - used < FRESH_SECONDS:
                    continue
                gone = path.with_name(f".gone-{path.name}")
                # Not in a thread: nobody can begin to use it between our look and its end.
                if path.stat().st_mtime == used:
                    log.info("code makes room", path=path.name)
                    path.rename(gone)
                    await asyncio.to_thread(workspace.remove, gone)
                    surplus -= 1


def _youngest(directory: Path, store: str) -> tuple[Path, str] | None:
    """The tree of a store that was used last, and its root directory: others of that store differ little from it."""
    # One of them may just be making room: then everything is laid out from objects.
    with suppress(FileNotFoundError):
        places = {path.parent for path in directory.glob(f"[!.]*/{skeleton.prefix(store)}*")}
        for place in sorted(places, key=lambda path: path.stat().st_mtime, reverse=True):
            for root in (place / layout.FILES).iterdir():
                if root.name != layout.REPOSITORY:
                    return place, root.name
    return None


def _problem(error: Exception) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    # Which of thousands of files it was does not matter when the disk is full.
    named = error.filename is not None and error.errno not in FULL
    return f"{os.fsdecode(error.filename)}: {error.strerror}" if named else error.strerror


def _is_full(path: Path) -> bool:
    disk = shutil.disk_usage(path)
    return disk.free < DISK_FREE_SHARE_MIN * disk.total


def _by_age(directory: Path) -> list[tuple[float, Path]]:
    return sorted(
        (path.stat().st_mtime, path) for path in directory.iterdir() if not path.name.startswith(".")
    )


def _used(path: Path, in_use: set[str]) -> bool:
    # The first are what attempts of earlier versions stand on.
    return not in_use.isdisjoint({str(path), str(path / layout.FILES), str(path / "objects")})
