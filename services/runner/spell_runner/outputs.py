# ruff: noqa: PTH115 -- walks and opens by descriptor and lstat, which pathlib has no names for
"""Which files of a workspace are new or changed: by the upper layer of its overlay, or by a baseline.

New and changed regular files and links count, links as links. Equal content never counts, `.git` never, and what
is neither file, link nor directory is left out with a note. Nothing is ever followed out of the workspace.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from spell_runner.lower import Lower, Part
from spell_runner.workspace import Abort, is_directory, open_readable, signature, walk

_HIDDEN = re.compile("[\x00-\x1f\x7f\x80-\x9f]")
_COMPARE_BYTES = 1 << 20
#: What stands in a manifest for a file of which there is nothing to say.
_ENTRY_BYTES = len(
    '{"path":"","size":,"sha256":"","mode":,"modified_at":"2026-01-01T00:00:00+00:00","link":null},'
) + len("0" * 64)
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")


@dataclass(frozen=True, slots=True)
class Found:
    """A new or changed file. `path` is relative to the workspace root, `source` is where its bytes are."""

    path: str
    source: str
    mode: int
    size: int
    mtime_ns: int
    link: str | None = None


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
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if not lower.is_directory(path):
                changes.deleted += lower.files(path, abort)
            elif _opaque(entry.path):
                changes.deleted += [gone for gone in lower.files(path, abort) if not _is_file(above, gone)]
        elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            changes.deleted += lower.files(path, abort)
        else:
            if lower.is_directory(path):
                changes.deleted += lower.files(path, abort)
            _add(changes, path, entry, status, lower)
    _order(changes)
    return changes


def in_copy(workspace: Path, lower: Lower, baseline: dict[str, list[int]], abort: Abort) -> Changes:
    """What differs from a baseline, by signature first and by content where that differs."""
    changes = Changes()
    seen: set[str] = set()
    for path, entry in _visible(workspace, changes, abort):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            continue
        seen.add(path)
        if baseline.get(path) != signature(status):
            _add(changes, path, entry, status, lower)
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


def _visible(
    root: Path, changes: Changes, abort: Abort, at: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What may be saved at all; what may not is noted once. Paths are those in the workspace, of which `root` is the
    part `at`.
    """
    refused: set[str] = set()
    for inner, entry in walk(root):
        abort.check()
        path = f"{at}/{inner}" if at else inner
        parent, _, name = path.rpartition("/")
        if parent in refused or name == ".git":
            refused.add(path)
            continue
        problem = _unsayable(name)
        if problem:
            refused.add(path)
            changes.notes.append(f"Not saved: {_shown(path)} ({problem})")
            continue
        yield path, entry


def _unsayable(name: str) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return "its name holds control characters" if _HIDDEN.search(name) else None


def _shown(path: str) -> str:
    readable = os.fsencode(path).decode(errors="backslashreplace")
    return "'/spell/" + _HIDDEN.sub(lambda match: f"\\x{ord(match[0]):02x}", readable) + "'"


def _add(changes: Changes, path: str, entry: os.DirEntry[str], status: os.stat_result, lower: Lower) -> None:
    link = None
    if stat.S_ISLNK(status.st_mode):
        link = os.readlink(entry.path)
        if _unsayable(link):
            changes.notes.append(
                f"Not saved: {_shown(path)} (it links to a path that cannot be written down)"
            )
            return
        same = lower.link(path) == link
    elif stat.S_ISREG(status.st_mode):
        same = _same_content(entry.path, status.st_size, lower, path)
    else:
        changes.notes.append(f"Not saved: {_shown(path)} (neither a file nor a link)")
        return
    if not same:
        size = len(os.fsencode(link)) if link is not None else status.st_size
        mode = stat.S_IMODE(status.st_mode)
        changes.found.append(Found(path, entry.path, mode, size, status.st_mtime_ns, link))


def _same_content(source: str, size: int, lower: Lower, path: str) -> bool:
    status = lower.status(path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != size:
        return False
    with os.fdopen(open_readable(source), "rb") as one, os.fdopen(lower.open(path), "rb") as other:
        while chunk := one.read(_COMPARE_BYTES):
            if chunk != other.read(_COMPARE_BYTES):
                return False
    return True


def _is_file(above: Lower, path: str) -> bool:
    """Whether a file, or something else that is no directory, has taken the place of one that is hidden."""
    return above.status(path) is not None and not above.is_directory(path)


def _gone(workspace: Path, path: str) -> bool:
    """Whether a file of the code is not there any more: it may have become a directory, or a parent of it a link."""
    if any((workspace / parent).is_symlink() for parent in Path(path).parents):
        return True
    return not os.path.lexists(workspace / path) or is_directory(workspace / path)


def _opaque(path: str) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def _order(changes: Changes) -> None:
    changes.found.sort(key=attrgetter("path"))
    changes.deleted = sorted(set(changes.deleted))
