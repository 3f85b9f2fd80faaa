"""What a bucket holds, as files and directories: objects that only mark a directory are left out. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from spell_proto.buckets import ObjectEntry

#: What the store's client says of an object.
ObjectMeta = Mapping[str, Any]


class Markers:
    """Passes on objects in the order of their keys, but not those that consoles make for a directory: empty ones whose key
    ends with a slash, which the store's client takes away.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._held: ObjectEntry | None = None

    def feed(self, objects: Iterable[ObjectMeta]) -> list[ObjectEntry]:
        """The entries that are known to be files by now."""
        ready: list[ObjectEntry] = []
        for found in objects:
            entry = object_entry(found)
            held, self._held = self._held, entry
            if held is None:
                continue
            if held.key == entry.key:
                # An object beside a directory of its name: the marker comes after it.
                self._held = held
            elif not (held.size == 0 and entry.key.startswith(f"{held.key}/")) and held.key != self._prefix:
                ready.append(held)
        return ready

    def end(self) -> list[ObjectEntry]:
        """The last one."""
        held, self._held = self._held, None
        return [] if held is None or held.key == self._prefix else [held]


def level(prefix: str, directories: Iterable[str], objects: Iterable[ObjectMeta]) -> list[ObjectEntry]:
    """One level of a bucket, sorted: objects, and what the keys below it begin with."""
    found = {entry.key: entry for entry in map(object_entry, objects) if entry.key != prefix}
    beside = [
        ObjectEntry(key=key.rstrip("/"), size=None, etag=None, modified_at=None)
        for key in directories
        if key.rstrip("/") != prefix
    ]
    below = {entry.key for entry in beside}
    files = [entry for entry in found.values() if not (entry.size == 0 and entry.key in below)]
    return sorted([*files, *beside], key=lambda entry: (entry.key, entry.size is None))


def object_entry(found: ObjectMeta) -> ObjectEntry:
    """An object as our listings have it."""
    return ObjectEntry(
        key=found["path"], size=found["size"], etag=found["e_tag"], modified_at=found["last_modified"]
    )
