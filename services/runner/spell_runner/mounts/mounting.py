"""Gets what an attempt mounts ready for it: on this machine, and as layers in its directory (shell)."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import orjson

from spell_proto import logs
from spell_proto.errors import RefusedError
from spell_proto.http import Caller
from spell_proto.mount_paths import SPELL
from spell_proto.mounts import Mount
from spell_proto.spec import AttemptSpec
from spell_proto.state import Reason
from spell_runner import asking, workspace
from spell_runner.directory import Directory
from spell_runner.errors import AttemptError
from spell_runner.lower import Lower
from spell_runner.mounts.bucket_source import BucketSource
from spell_runner.mounts.cache import Cache
from spell_runner.mounts.content import Look
from spell_runner.mounts.hiding import hidden
from spell_runner.mounts.layers import Mounted, copies, layers, skeletons
from spell_runner.mounts.sources import ManifestSource, Source
from spell_runner.notes import Notes
from spell_runner.shim.launch import MOUNTS, SKELETONS, Launch

log = logs.get()
T = TypeVar("T")

#: What nobody expects is tried so often in all, so far apart.
TRIES = 3
AGAIN_SECONDS = 0.5
#: Which trees an attempt stands on, or is about to.
TREES = "trees.json"


class Mounting:
    """One for each cache."""

    def __init__(self, cache: Cache, storage: Caller) -> None:
        self._cache = cache
        self._storage = storage

    async def fetch(
        self, spec: AttemptSpec, directory: Directory, code: Path | None, notes: Notes
    ) -> tuple[Mounted, ...]:
        """Have everything here that an attempt mounts, over its `code`.

        Raises:
            AttemptError: something cannot be had.
        """
        if code is not None:
            notes.lines(await asyncio.to_thread(hidden, spec.spec.mounts, Lower.of(code)))
        found: list[tuple[Mount, Source, Look]] = []
        for mount in spec.spec.mounts:
            notes.line(f"Mounting {mount.resource} at {mount.target}")
            source = self._source(mount, notes)
            ask = partial(asking.until_answered, source.look, notes, spec.run_id, "storage", source.away)
            look = await tried(mount, ask)
            found.append((mount, source, look))
        trees = [str(self._cache.tree(look.key)) for _, _, look in found]
        # From here on they are spared, whatever becomes of us.
        directory.write(TREES, orjson.dumps(trees))
        mounted = []
        for mount, source, look in found:
            get = partial(self._cache.get, mount.resource, look, source, spec.run_id, notes)
            path = await tried(mount, get)
            mounted.append(Mounted(mount.target, str(path), look.is_file))
        return tuple(mounted)

    def _source(self, mount: Mount, notes: Notes) -> Source:
        if mount.bucket is not None:
            return BucketSource(self._storage, mount.bucket, notes)
        if mount.manifest is None:
            raise _named(mount, "this machine cannot fetch it")
        return ManifestSource(self._storage, mount)


def raise_layers(
    mounted: Sequence[Mounted],
    directory: Directory,
    owner: tuple[int, int] | None = None,
    shown: Sequence[str] = (),
) -> None:
    """Make what the overlays of an attempt need in its directory. What an earlier runner has begun is made anew. For `shown`
    see `skeletons`.

    Raises:
        AttemptError: there is no room for it.
    """
    try:
        _raise(mounted, directory, owner, shown)
    except OSError as error:
        raise AttemptError(Reason.MOUNT_FAILED, f"nothing can be mounted: {error}") from error


def _raise(
    mounted: Sequence[Mounted],
    directory: Directory,
    owner: tuple[int, int] | None,
    shown: Sequence[str],
) -> None:
    for top in (Path(directory / MOUNTS), Path(directory / SKELETONS)):
        workspace.remove(top)
        _make(top, owner)
    for skeleton in skeletons(mounted, shown):
        lower = Path(directory / skeleton.lower)
        for path in (lower, *(lower / name for name in skeleton.directories)):
            _make(path, owner)
        for name, source in skeleton.files:
            workspace.link_or_copy(source, lower / name, owner)
        if skeleton.root != SPELL:
            for part in (skeleton.part, f"{skeleton.part}/at"):
                _make(Path(directory / part), owner)
    for layer in layers(mounted, directory.base):
        own = Path(directory / layer.own)
        for path in (own, Path(directory / layer.upper), Path(directory / layer.work)):
            _make(path, owner)


def with_mounts(told: Launch, mounted: Sequence[Mounted], directory: Directory) -> Launch:
    """A launch that says what is mounted."""
    if not told.overlay:
        return replace(told, layers=copies(mounted, directory.base))
    inside = next((one for one in skeletons(mounted) if one.root == SPELL), None)
    files = "" if inside is None else inside.lower
    return replace(told, files=files, layers=layers(mounted, directory.base))


def used_trees(attempts: Path) -> set[str]:
    """The trees that the attempts on this machine stand on."""
    found: set[str] = set()
    for told in attempts.glob(f"*/{TREES}"):
        try:
            found.update(orjson.loads(told.read_bytes()))
        except (FileNotFoundError, ValueError):
            continue
    return found


def _make(path: Path, owner: tuple[int, int] | None) -> None:
    path.mkdir(mode=0o755, exist_ok=True)
    if owner is not None:
        os.chown(path, *owner)


async def tried(mount: Mount, get: Callable[[], Awaitable[T]]) -> T:
    """What `get` comes back with. What nobody expects is tried again, and then ends the run: it would come for ever.

    Raises:
        AttemptError: it cannot be had.
    """
    for left in reversed(range(TRIES)):
        try:
            return await get()
        except (AttemptError, RefusedError) as error:
            raise _named(mount, error.message) from error
        except Exception as error:
            log.exception("a mount stumbled", resource=mount.resource, tries_left=left)
            if not left:
                raise _named(mount, f"the machine stumbled over it ({type(error).__name__})") from error
            await asyncio.sleep(AGAIN_SECONDS)
    raise AssertionError("it returns or raises")


def _named(mount: Mount, problem: str) -> AttemptError:
    return AttemptError(Reason.MOUNT_FAILED, f"{mount.resource} cannot be mounted: {problem}")
