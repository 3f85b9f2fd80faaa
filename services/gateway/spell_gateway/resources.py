"""What a manifest shows under a path, and which manifest the files of a run have. Pure."""

import posixpath
from bisect import bisect_left
from datetime import datetime
from functools import cached_property

from spell_gateway.shapes import ResourceEntry, UsageEntry
from spell_proto.errors import ConflictError, NotFoundError, RefusedError, shown
from spell_proto.state import FINAL, RunState
from spell_proto.views import Manifest, ManifestEntry, RunView, SnapshotView

LINKS_MAX = 16
_SAVE_HINT = "`spell save {0}` saves what it has made so far, as runs/{0}@1"


def not_there(path: str) -> RefusedError:
    """One text for what does not exist and for what is somebody else's."""
    return NotFoundError("resource_not_found", f"{shown(path)}: no such file or resource", field="path")


def digest_of(run: RunView) -> str | None:
    """The manifest of a run's files; None when it saved none.

    Raises:
        ConflictError: the run still goes on.
        NotFoundError: it ended in a way that keeps no files, or was archived.
    """
    if run.archived_at is not None:
        raise NotFoundError("resource_not_found", f"run {run.id} was archived; no outputs", field="path")
    if run.manifest is not None and run.state in FINAL:
        return run.manifest
    hint = _snapshot_hint(run)
    match run.state:
        case RunState.COMPLETE | RunState.STOPPED:
            return None
        case RunState.INTERRUPTED if run.saved_files is not None:
            return None
        case RunState.KILLED | RunState.INTERRUPTED:
            raise NotFoundError(
                "resource_not_found", f"run {run.id} was {run.state}; no outputs", field="path", hint=hint
            )
        case RunState.FAILED:
            raise NotFoundError(
                "resource_not_found", f"run {run.id} failed; no outputs", field="path", hint=hint
            )
        case _:
            raise ConflictError(
                "resource_not_ready",
                f"run {run.id} is {run.state}",
                field="path",
                hint=hint or (_SAVE_HINT.format(run.id) if run.state is RunState.RUNNING else None),
            )


def _snapshot_hint(run: RunView) -> str | None:
    last = max((snapshot.number for snapshot in run.snapshots), default=None)
    return None if last is None else f"its last snapshot is runs/{run.id}@{last}"


def digest_of_snapshot(run: RunView, number: int) -> str | None:
    """The manifest of a snapshot, which is there whatever became of the run; None where there was nothing to save.

    Raises:
        NotFoundError: there is no such snapshot, or the run was archived.
    """
    if run.archived_at is not None:
        raise NotFoundError("resource_not_found", f"run {run.id} was archived; no outputs", field="path")
    found = [snapshot for snapshot in run.snapshots if snapshot.number == number]
    if not found:
        raise not_there(f"runs/{run.id}@{number}")
    return found[0].manifest


class Tree:
    """The files of one manifest, found by path."""

    def __init__(self, manifest: Manifest | None) -> None:
        self._entries = sorted(manifest.entries if manifest else (), key=lambda entry: entry.path)
        self._paths = [entry.path for entry in self._entries]
        #: Paths of its code that a run has removed.
        self.deleted = manifest.deleted if manifest else ()

    def __len__(self) -> int:
        return len(self._paths)

    @cached_property
    def digests(self) -> frozenset[str]:
        """Of all its files."""
        return frozenset(entry.sha256 for entry in self._entries if entry.link is None)

    def file(self, path: str) -> ManifestEntry | None:
        """The file at a path, through links that stay inside."""
        entry = self._at(path)
        for _ in range(LINKS_MAX):
            if entry is None or entry.link is None:
                return entry
            if entry.link.startswith("/"):
                return None
            target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.link))
            entry = self._at(target)
        return None

    def place(self, path: str) -> tuple[str, bool] | None:
        """Where in the manifest a path leads, through a link that it is itself, and whether to a file."""
        entry = self._at(path)
        for _ in range(LINKS_MAX):
            if entry is None or entry.link is None:
                break
            if entry.link.startswith("/"):
                return None
            path = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.link))
            entry = self._at(path)
        if entry is not None:
            return None if entry.link is not None else (path, True)
        path = "" if path == "." else path
        return (path, False) if self.is_directory(path) else None

    def is_directory(self, path: str) -> bool:
        prefix = f"{path}/" if path else ""
        at = bisect_left(self._paths, prefix)
        return not path or (at < len(self._paths) and self._paths[at].startswith(prefix))

    def listing(self, path: str, *, recursive: bool) -> list[ResourceEntry] | None:
        """What is in a directory, or a file alone; None when there is nothing of that name."""
        entry = self._at(path)
        if entry is not None:
            return [_shown(entry, posixpath.basename(path))]
        if not self.is_directory(path):
            return None
        prefix = f"{path}/" if path else ""
        found: list[ResourceEntry] = []
        parent, newest = "", None
        for at in range(bisect_left(self._paths, prefix), len(self._paths)):
            if not self._paths[at].startswith(prefix):
                break
            below = self._paths[at][len(prefix) :]
            name, slash, _ = below.partition("/")
            if recursive or not slash:
                found.append(_shown(self._entries[at], below))
            elif name == parent:
                newest = max(newest or self._entries[at].modified_at, self._entries[at].modified_at)
                found[-1] = directory(name, newest)
            else:
                parent, newest = name, self._entries[at].modified_at
                found.append(directory(name, newest))
        return sorted(found, key=lambda item: item.path)

    def usage(self, path: str) -> list[UsageEntry] | None:
        """How much is in each thing in a directory, or a file alone; None when there is nothing of that name."""
        entry = self._at(path)
        if entry is not None:
            return [UsageEntry(path=posixpath.basename(path), files=_is_file(entry), bytes=_bytes(entry))]
        if not self.is_directory(path):
            return None
        prefix = f"{path}/" if path else ""
        sums: dict[str, tuple[int, int]] = {}
        for at in range(bisect_left(self._paths, prefix), len(self._paths)):
            if not self._paths[at].startswith(prefix):
                break
            name = self._paths[at][len(prefix) :].partition("/")[0]
            files, size = sums.get(name, (0, 0))
            sums[name] = files + _is_file(self._entries[at]), size + _bytes(self._entries[at])
        return [UsageEntry(path=name, files=files, bytes=size) for name, (files, size) in sums.items()]

    def _at(self, path: str) -> ManifestEntry | None:
        at = bisect_left(self._paths, path)
        return self._entries[at] if at < len(self._paths) and self._paths[at] == path else None


def _is_file(entry: ManifestEntry) -> int:
    """A link counts as no file, and has no bytes, as where a resource is counted when it is stored."""
    return int(entry.link is None)


def _bytes(entry: ManifestEntry) -> int:
    return entry.size if entry.link is None else 0


def _shown(entry: ManifestEntry, path: str) -> ResourceEntry:
    return ResourceEntry(
        path=path,
        size=entry.size,
        modified_at=entry.modified_at,
        sha256=entry.sha256,
        mode=entry.mode,
        link=entry.link,
        changed=entry.changed,
    )


def directory(name: str, modified_at: datetime | None, link: str | None = None) -> ResourceEntry:
    """A name for more than one file; a link's leads to `link`."""
    return ResourceEntry(path=name, size=None, modified_at=modified_at, sha256=None, mode=None, link=link)


def run_directory(run: RunView) -> ResourceEntry:
    """A run in the listing of all runs that kept files."""
    return directory(str(run.id), run.ended_at)


def snapshot_directory(run: RunView, snapshot: SnapshotView) -> ResourceEntry:
    """A snapshot in that listing."""
    return directory(f"{run.id}@{snapshot.number}", snapshot.at)


def disposition(name: str) -> str:
    """A Content-Disposition that no file name can break out of."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._- ") else "_" for char in name)
    encoded = "".join(
        char
        if char.isascii() and (char.isalnum() or char in "._-")
        else "".join(f"%{b:02X}" for b in char.encode())
        for char in name
    )
    return f"attachment; filename=\"{plain[:150]}\"; filename*=UTF-8''{encoded[:900]}"
