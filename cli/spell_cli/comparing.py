"""How the files of two resources differ. Pure."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from spell_cli.answers import Entry
from spell_cli.tables import safe
from spell_cli.times import human_size

#: Larger files, and files that are no text, are compared by size alone.
TEXT_BYTES_MAX = 256 * 1024


class Change(NamedTuple):
    """A file that is in both, and not the same."""

    path: str
    before: Entry
    after: Entry


class Difference(NamedTuple):
    """What one has and the other has not, and what is in both. `same` counts what does not differ."""

    added: list[Entry]
    removed: list[Entry]
    changed: list[Change]
    same: int


def compare(before: Sequence[Entry], after: Sequence[Entry]) -> Difference:
    """Files and links are the same with the same content and mode, whenever they were made."""
    old, new = ({entry["path"]: entry for entry in entries} for entries in (before, after))
    both = sorted(old.keys() & new.keys())
    changed = [Change(path, old[path], new[path]) for path in both if not _same(old[path], new[path])]
    return Difference(
        added=[new[path] for path in sorted(new.keys() - old.keys())],
        removed=[old[path] for path in sorted(old.keys() - new.keys())],
        changed=changed,
        same=len(both) - len(changed),
    )


def _same(one: Entry, other: Entry) -> bool:
    if one["link"] is not None:
        return one["link"] == other["link"]
    return all(one[name] == other[name] for name in ("size", "sha256", "mode", "link"))


def rows(difference: Difference) -> list[str]:
    """A line for each file that differs, by path, and the counts."""
    marked = [(entry["path"], "+", _size(entry)) for entry in difference.added]
    marked += [(entry["path"], "-", _size(entry)) for entry in difference.removed]
    marked += [(change.path, "~", _became(change)) for change in difference.changed]
    found = [f"{mark} {safe(path)}  {text}" for path, mark, text in sorted(marked)]
    counts = (
        f"{len(difference.added)} added, {len(difference.removed)} removed, {len(difference.changed)} changed"
    )
    return [*found, f"{counts}, {difference.same} the same"]


def _size(entry: Entry) -> str:
    return f"→ {safe(entry['link'])}" if entry["link"] is not None else human_size(entry["size"] or 0)


def _became(change: Change) -> str:
    before, after = change.before, change.after
    parts = []
    if before["sha256"] != after["sha256"] or before["link"] != after["link"]:
        sizes = _size(before), _size(after)
        parts.append(" became ".join(sizes) if sizes[0] != sizes[1] else f"{sizes[0]}, other content")
    if before["mode"] != after["mode"]:
        parts.append(f"mode {before['mode'] or 0:o} became {after['mode'] or 0:o}")
    return ", ".join(parts)


def is_small_text(change: Change) -> bool:
    """Whether a change may be one of text: what both are has to be looked at."""
    return all(
        entry["link"] is None and (entry["size"] or 0) <= TEXT_BYTES_MAX
        for entry in (change.before, change.after)
    ) and (change.before["sha256"] != change.after["sha256"])


def text_of(data: bytes) -> list[str] | None:
    """The lines of a file; None where it is no text."""
    if b"\0" in data:
        return None
    try:
        return data.decode().splitlines()
    except UnicodeDecodeError:
        return None


def text_difference(names: tuple[str, str], before: bytes, after: bytes) -> list[str]:
    """The lines in which two texts differ, as `diff -u` has them; none where one is no text."""
    old, new = text_of(before), text_of(after)
    if old is None or new is None:
        return []
    found = difflib.unified_diff(old, new, safe(names[0]), safe(names[1]), lineterm="")
    return [safe(line.replace("\t", "    ")) for line in found]
