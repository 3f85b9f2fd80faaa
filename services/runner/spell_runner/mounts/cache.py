"""Keeps resources that runs have mounted, laid out as they are seen: made once, whole where their names stand (shell).

<data>/mounts/trees/<key>/files   what a run sees, of hard links to the files that `spell_runner.mounts.blobs` keeps
<data>/mounts/trees/.new-…        being laid out, and `.gone-…` on its way out

No run can write to any of it: it is the lower layer of what a run sees, or it is copied. After a reboot nothing of it
is believed, as nothing of it was synced to the disk: trees are made again, of files that are read again.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from spell_proto import logs
from spell_proto.errors import RefusedError, shown
from spell_proto.state import Reason
from spell_runner import asking, workspace
from spell_runner.errors import AttemptError, TreeRefusedError
from spell_runner.mounts.blobs import Blobs, Progress
from spell_runner.mounts.content import FILE, Item, Look, bytes_of, checked
from spell_runner.mounts.sources import Source
from spell_runner.notes import Notes
from spell_runner.shim.linux import FULL
from spell_runner.tasks import in_thread
from spell_runner.workspace import Abort

log = logs.get()

DIRECTORY, FILES = "mounts", "files"
LAY_TRIES = 5
#: How often the log says how far a mount is.
PROGRESS_SECONDS = 2.0
#: What room is made for, at least, when some has to be made: looking at every file has its price.
FREED_SHARE_MIN = 0.1
DISK_FREE_SHARE_MIN = 0.05
_NEW, _GONE = ".new-", ".gone-"


class Cache:
    """The resources below `data`. `in_use` says which trees attempts stand on; others may go when they take more than
    `bytes_max`, the longest unused first. `owner`, user and group, gets all files; None: they stay ours.
    """

    def __init__(
        self,
        data: Path,
        in_use: Callable[[], set[str]],
        bytes_max: int,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._root = data / DIRECTORY
        self._trees = self._root / "trees"
        for path in (self._root, self._trees):
            path.mkdir(mode=0o755, exist_ok=True)
        self._blobs = Blobs(self._root, owner)
        self._in_use = in_use
        self._bytes_max = bytes_max
        self._owner = owner
        self._making: dict[str, asyncio.Future[None]] = {}
        #: names of files that are being fetched for a tree, or are about to be linked into one
        self._wanted: dict[str, set[str]] = {}
        self._room = asyncio.Lock()

    def forget(self) -> None:
        """Believe nothing that is here: after a power cut, a file may have its name but not its bytes. Trees are made again,
        of files that are verified again.
        """
        workspace.remove(self._trees)
        self._trees.mkdir(mode=0o755)
        self._blobs.doubt()

    def sweep(self) -> None:
        """Remove what an earlier runner has left half done."""
        for path in self._trees.glob(".*"):
            workspace.remove(path)
        self._blobs.sweep()

    def tree(self, key: str) -> Path:
        """Where a resource with this key is, once it is here."""
        return self._trees / key

    async def get(self, name: str, look: Look, source: Source, run_id: int, notes: Notes) -> Path:
        """The directory or file that a resource is, ready to be seen by a run. The caller has written down before
        that it needs the tree.

        Raises:
            AttemptError: it cannot be had.
        """
        place = self.tree(look.key)
        while not _ready(place):
            making = self._making.get(look.key)
            if making is not None:
                await asyncio.wait({making})
                continue
            self._making[look.key] = making = asyncio.get_running_loop().create_future()
            try:
                await self._make(name, place, source, run_id, notes)
            finally:
                del self._making[look.key]
                self._wanted.pop(look.key, None)
                making.set_result(None)
        return place / FILES / FILE if look.is_file else place / FILES

    # ---- making a tree ---------------------------------------------------------------------------------------

    async def _make(self, name: str, place: Path, source: Source, run_id: int, notes: Notes) -> None:
        try:
            found = await asking.until_answered(source.content, notes, run_id, "storage", source.away)
            items = await asyncio.to_thread(checked, found)
        except (RefusedError, TreeRefusedError) as error:
            message = error.message if isinstance(error, RefusedError) else str(error)
            raise AttemptError(Reason.MOUNT_FAILED, message) from error
        self._wanted[place.name] = {item.name for item in items if item.link is None}
        for left in reversed(range(LAY_TRIES)):
            missing = await asyncio.to_thread(self._blobs.missing, items)
            if missing:
                await self._fetch(name, source, items, missing, notes)
            try:
                await self._lay(place, items)
            except OSError as error:
                if not (isinstance(error, FileNotFoundError) and left):
                    raise _unlaid(error) from error
            else:
                # What came with others at the same time may be too much now that all of it is here.
                await self._make_room({})
                return

    async def _fetch(
        self, name: str, source: Source, items: Sequence[Item], missing: Sequence[Item], notes: Notes
    ) -> None:
        wanted, total = bytes_of(missing), bytes_of(items)
        to_come = await asyncio.to_thread(self._blobs.to_come, missing)
        await self._make_room(to_come)
        progress = Progress(total, max(0, total - wanted))
        said = False

        def waits() -> None:
            nonlocal said
            if not said:
                said = True
                notes.line(source.away)

        telling = asyncio.ensure_future(_tell(name, progress, notes))
        try:
            await self._blobs.fetch(source, missing, progress, waits, to_come)
        finally:
            telling.cancel()
        log.info("resource fetched", resource=name, files=len(missing), bytes=wanted)

    async def _lay(self, place: Path, items: Sequence[Item]) -> None:
        new = place.with_name(f"{_NEW}{place.name}")
        abort = Abort()
        try:
            await in_thread(partial(self._laid, new, items, abort), abort)
        except BaseException:
            await asyncio.to_thread(workspace.remove, new)
            raise
        new.rename(place)

    def _laid(self, new: Path, items: Sequence[Item], abort: Abort) -> None:
        workspace.remove(new)
        root = new / FILES
        root.mkdir(parents=True, mode=0o755)
        made = {""}
        self._give(root)
        for item in items:
            abort.check()
            above, _, _ = item.path.rpartition("/")
            try:
                self._make_directories(root, above, made)
                self._place(item, f"{root}/{item.path}")
            except OSError as error:
                raise _unlaid(error, item) from error

    def _make_directories(self, root: Path, path: str, made: set[str]) -> None:
        """Not by recursion: there may be more directories in each other than that can go."""
        missing = []
        while path not in made:
            missing.append(path)
            path, _, _ = path.rpartition("/")
        for path in reversed(missing):
            (root / path).mkdir(mode=0o755)
            self._give(root / path)
            made.add(path)

    def _place(self, item: Item, at: str) -> None:
        if item.link is not None:
            os.symlink(item.link, at)  # noqa: PTH211 -- plain strings, of tens of thousands of files
            os.utime(at, ns=(item.mtime_ns, item.mtime_ns), follow_symlinks=False)
            self._give(at)
            return
        workspace.link_or_copy(self._blobs.path(item), at, self._owner)

    def _give(self, path: str | Path) -> None:
        if self._owner is not None:
            os.chown(path, *self._owner, follow_symlinks=False)

    # ---- making room -----------------------------------------------------------------------------------------

    async def _make_room(self, to_come: dict[str, int]) -> None:
        """Let go of what was not used for longest until what is to come has room, and keep that room for it. What attempts
        stand on stays, even if that is too much.
        """
        async with self._room:
            held = await self._blobs.count()
            disk = shutil.disk_usage(self._root)
            wanted = sum(to_come.values()) + self._blobs.bytes_to_come
            excess = max(
                held + wanted - self._bytes_max,
                min(held, int(wanted + DISK_FREE_SHARE_MIN * disk.total - disk.free)),
            )
            if excess > 0:
                excess = max(excess, int(FREED_SHARE_MIN * self._bytes_max))
                excess -= await self._blobs.remove_unused(self._wanted_names(), excess)
            if excess > 0:
                await self._drop_trees(excess)
                await self._blobs.remove_unused(self._wanted_names(), excess)
            self._blobs.expect(to_come)

    def _wanted_names(self) -> set[str]:
        return set().union(*self._wanted.values())

    async def _drop_trees(self, excess: int) -> None:
        by_age = await asyncio.to_thread(_by_age, self._trees)
        in_use = await asyncio.to_thread(self._in_use)
        for used, path in by_age:
            if excess <= 0:
                return
            if str(path) in in_use or path.name in self._making:
                continue
            gone = path.with_name(f"{_GONE}{path.name}-{time.time_ns()}")
            # Not in a thread: nobody can begin to use it between our look and its end.
            if path.stat().st_mtime_ns == used:
                log.info("a mounted resource makes room", key=path.name)
                path.rename(gone)
                excess -= await asyncio.to_thread(_remove_tree, gone)


def _ready(place: Path) -> bool:
    # From here on nobody evicts it: that is decided in this thread, by this time.
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


async def _tell(name: str, progress: Progress, notes: Notes) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        notes.line(f"Mounting {name}: {progress}")


def _by_age(trees: Path) -> list[tuple[int, Path]]:
    return sorted((path.stat().st_mtime_ns, path) for path in trees.iterdir() if path.name[0] != ".")


def _remove_tree(path: Path) -> int:
    """Remove a tree; how many bytes nobody but the cache has a name for from then on."""
    freed = 0
    for _, entry in workspace.walk(path):
        status = entry.stat(follow_symlinks=False)
        if entry.is_file(follow_symlinks=False) and status.st_nlink <= 2:
            freed += status.st_size
    workspace.remove(path)
    return freed


def _unlaid(error: OSError, item: Item | None = None) -> AttemptError | FileNotFoundError:
    """Why a resource, or a file of it, cannot be laid out: without paths of the machine, which tell nobody anything."""
    if item is not None and isinstance(error, FileNotFoundError):
        # It was removed for want of room between our look and the link to it: that is tried again.
        return error
    if error.errno in FULL:
        return AttemptError(Reason.MOUNT_FAILED, "there is no room for it on the disk of the machine")
    what = "it" if item is None else f"its file {shown(item.path)}"
    return AttemptError(Reason.MOUNT_FAILED, f"{what} cannot be laid out on the machine: {error.strerror}")
