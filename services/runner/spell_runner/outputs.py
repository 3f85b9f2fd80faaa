"""Which files of a workspace are new or changed: by the upper layer of its overlay, or by a baseline.

New and changed regular files and links count, links as links. Equal content never counts, `.git` never, and what
is neither file, link nor directory is left out with a note, as is what cannot be read or has too long a path: it costs
nothing but itself. Nothing is ever followed out of the workspace.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from spell_runner import beneath
from spell_runner.beneath import Entry
from spell_runner.errors import SHORT, problem
from spell_runner.lower import Lower, Part
from spell_runner.workspace import Abort, is_directory, open_readable, signature

#: No longer path is saved: wherever it is laid out, it has to have room behind the name of a directory.
PATH_BYTES_MAX = 4000
#: Of a path that is longer than this, the beginning and the end say which it is.
_SHOWN_CHARS_MAX, _SHOWN_BEGINNING, _SHOWN_END = 200, 100, 60
_HIDDEN = re.compile("[\x00-\x1f\x7f\x80-\x9f]")
_COMPARE_BYTES = 1 << 20
#: How many deleted files are told by name; the manifest has them all.
NAMED_MAX = 3
#: What stands in a manifest for a file of which there is nothing to say.
_ENTRY_BYTES = len(
    '{"path":"","size":,"sha256":"","mode":,"modified_at":"2026-01-01T00:00:00+00:00","link":null},'
) + len("0" * 64)
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")


@dataclass(frozen=True, slots=True)
class Found:
    """A new or changed file. `path` is relative to the workspace root, its bytes are at `source` below the directory `root`."""

    path: str
    source: str
    mode: int
    size: int
    mtime_ns: int
    link: str | None = None
    root: str = "/"


@dataclass(slots=True)
class Changes:
    """What a run has made of its workspace. `notes` are lines for its log."""

    found: list[Found] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def in_overlay(upper: Path, lower: Lower, abort: Abort, at: str = "") -> Changes:
    """What the upper layer of an overlay holds: by construction, everything that was written. `at` is the part of the
    workspace that it is the upper layer of.
    """
    changes = Changes()
    above = Lower((Part(upper, at),))
    for path, entry in _visible(upper, changes, abort, at):
        try:
            _look(changes, path, entry, upper, lower, above, abort)
        except OSError as error:
            _unread(changes, path, error)
    _order(changes)
    return changes


def _look(
    changes: Changes, path: str, entry: Entry, upper: Path, lower: Lower, above: Lower, abort: Abort
) -> None:
    """What something in an upper layer, which `above` is as well, says."""
    if entry.is_directory:
        if not lower.is_directory(path):
            changes.deleted += lower.files(path, abort)
        elif _opaque(entry):
            changes.deleted += [gone for gone in lower.files(path, abort) if not _is_file(above, gone)]
    elif stat.S_ISCHR(entry.status.st_mode) and entry.status.st_rdev == 0:
        changes.deleted += lower.files(path, abort)
    else:
        if lower.is_directory(path):
            changes.deleted += lower.files(path, abort)
        _add(changes, path, entry, upper, lower)


def in_copy(workspace: Path, lower: Lower, baseline: dict[str, list[int]], abort: Abort) -> Changes:
    """What differs from a baseline, by signature first and by content where that differs."""
    changes = Changes()
    seen: set[str] = set()
    for path, entry in _visible(workspace, changes, abort):
        if entry.is_directory:
            continue
        seen.add(path)
        if baseline.get(path) != signature(entry.status):
            try:
                _add(changes, path, entry, workspace, lower)
            except OSError as error:
                _unread(changes, path, error)
    changes.deleted = [path for path in baseline if path not in seen and _gone(workspace, path)]
    _order(changes)
    return changes


def together(several: Iterable[Changes]) -> Changes:
    """What was made in all of several parts of a workspace."""
    whole = Changes()
    for changes in several:
        whole.found += changes.found
        whole.deleted += changes.deleted
        whole.notes += changes.notes
    _order(whole)
    return whole


def resource_paths(changes: Changes, root_directory: str | None) -> tuple[dict[str, Found], list[str]]:
    """Path in the resource -> file, and the deleted paths of the code.

    Below the repository's directory paths are relative to it, others to the workspace root. Where that makes two
    files one, the one outside the repository is kept as `spell/<its path>`.
    """
    prefix = None if root_directory is None else f"{root_directory}/"
    placed: dict[str, Found] = {}
    outside: list[Found] = []
    for found in changes.found:
        if prefix is not None and found.path.startswith(prefix):
            placed[found.path.removeprefix(prefix)] = found
        else:
            outside.append(found)
    directories = {directory for path in placed for directory in _above(path)}
    for found in outside:
        path = found.path
        while path in placed or path in directories or any(above in placed for above in _above(path)):
            path = f"spell/{path}"
        placed[path] = found
        directories.update(_above(path))
    deleted = [
        path.removeprefix(prefix)
        for path in changes.deleted
        if prefix is not None and path.startswith(prefix)
    ]
    return placed, deleted


def said_of_deleted(changes: Changes, root_directory: str | None) -> list[str]:
    """A sentence about the files that `resource_paths` calls deleted, where there are any."""
    gone = [path for path in changes.deleted if root_directory and path.startswith(f"{root_directory}/")]
    if not gone:
        return []
    named = ", ".join(_shown(path) for path in gone[:NAMED_MAX])
    more = f" and {len(gone) - NAMED_MAX} more" if len(gone) > NAMED_MAX else ""
    return [f"{len(gone)} file{'s were' if len(gone) > 1 else ' was'} deleted: {named}{more}"]


def manifest_bytes(placed: Mapping[str, Found], deleted: Iterable[str]) -> int:
    """How long the manifest of some files is as JSON; a little longer where a name has signs that are escaped."""
    size = sum(len(path.encode()) + len('"",') for path in deleted)
    for path, found in placed.items():
        size += _ENTRY_BYTES + len(path.encode()) + len(str(found.size)) + len(str(found.mode))
        # A time has as many digits as it needs.
        size += len(".123456") if found.mtime_ns // 1000 % 1_000_000 else 0
        size += 0 if found.link is None else len(found.link.encode()) + len('""') - len("null")
    return size


def _above(path: str) -> list[str]:
    """The directories that a path is in."""
    return [path[:at] for at, character in enumerate(path) if character == "/"]


def _visible(root: Path, changes: Changes, abort: Abort, at: str = "") -> Iterator[tuple[str, Entry]]:
    """What may be saved at all; what may not is noted once. Paths are those in the workspace, of which `root` is the
    part `at`.
    """

    def full(inner: str) -> str:
        return f"{at}/{inner}" if at else inner

    def stays(inner: str) -> bool:
        abort.check()
        path = full(inner)
        name = path.rpartition("/")[2]
        if name == ".git":
            return False
        why = _unsayable(name) or too_long(path)
        if why:
            changes.notes.append(not_saved(path, why))
        return not why

    for entry in beneath.entries(root, stays, lambda inner, error: _unread(changes, full(inner), error)):
        yield full(entry.path), entry


def not_saved(path: str, why: str) -> str:
    """The line that says that something was left out."""
    return f"Not saved: {_shown(path)} ({why})"


def too_long(path: str) -> str | None:
    """Why a path cannot be saved, if it is that."""
    long = len(os.fsencode(path)) > PATH_BYTES_MAX
    return f"its path has more than {PATH_BYTES_MAX:,} bytes" if long else None


def _unread(changes: Changes, path: str, error: OSError) -> None:
    if error.errno in SHORT:
        raise error
    changes.notes.append(not_saved(path, f"it cannot be read: {problem(error)}"))


def _unsayable(name: str) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return "its name holds control characters" if _HIDDEN.search(name) else None


def _shown(path: str) -> str:
    readable = os.fsencode(path).decode(errors="backslashreplace")
    clean = _HIDDEN.sub(lambda match: f"\\x{ord(match[0]):02x}", readable)
    if len(clean) > _SHOWN_CHARS_MAX:
        clean = f"{clean[:_SHOWN_BEGINNING]}…{clean[-_SHOWN_END:]}"
    return f"'/spell/{clean}'"


def _add(changes: Changes, path: str, entry: Entry, root: Path, lower: Lower) -> None:
    """Note what is at a path, below `root`, if it is new or changed."""
    status, link = entry.status, None
    if stat.S_ISLNK(status.st_mode):
        link = os.readlink(entry.name, dir_fd=entry.above)
        if _unsayable(link):
            changes.notes.append(not_saved(path, "it links to a path that cannot be written down"))
            return
        same = lower.link(path) == link
    elif stat.S_ISREG(status.st_mode):
        same = _same_content(entry, lower, path)
    else:
        changes.notes.append(not_saved(path, "neither a file nor a link"))
        return
    if not same:
        size = len(os.fsencode(link)) if link is not None else status.st_size
        mode = stat.S_IMODE(status.st_mode)
        changes.found.append(Found(path, entry.path, mode, size, status.st_mtime_ns, link, str(root)))


def _same_content(entry: Entry, lower: Lower, path: str) -> bool:
    status = lower.status(path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != entry.status.st_size:
        return False
    try:
        with (
            os.fdopen(open_readable(entry.name, entry.above), "rb") as one,
            os.fdopen(lower.open(path), "rb") as other,
        ):
            while chunk := one.read(_COMPARE_BYTES):
                if chunk != other.read(_COMPARE_BYTES):
                    return False
    except OSError:
        # Which of them cannot be read shows when this one is saved.
        return False
    return True


def _is_file(above: Lower, path: str) -> bool:
    """Whether a file, or something else that is no directory, has taken the place of one that is hidden."""
    return above.status(path) is not None and not above.is_directory(path)


def _gone(workspace: Path, path: str) -> bool:
    """Whether a file of the code is not there any more: it may have become a directory, or a parent of it a link."""
    try:
        if any((workspace / parent).is_symlink() for parent in Path(path).parents):
            return True
        return not os.path.lexists(workspace / path) or is_directory(workspace / path)
    except OSError:
        return False


def _opaque(entry: Entry) -> bool:
    place = f"/proc/self/fd/{entry.above}/{entry.name}"
    for name in _OPAQUE:
        try:
            if os.getxattr(place, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def _order(changes: Changes) -> None:
    changes.found.sort(key=attrgetter("path"))
    changes.deleted = sorted(set(changes.deleted))
