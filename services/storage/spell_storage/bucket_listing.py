"""What a bucket holds, as files and directories: objects that only mark a directory are left out. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from spell_proto.buckets import ObjectEntry

#: What the store's client says of an object.
ObjectMeta = Mapping[str, Any]
#: No character comes after it.
_LAST = "\U0010ffff"


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


class Level:
    """Makes one level of a bucket out of all objects below `prefix`, which come in the order of their keys: objects, and what
    the keys below it begin with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._start = f"{prefix}/" if prefix else ""
        self._held: ObjectEntry | None = None
        self._directory: str | None = None

    @property
    def beyond(self) -> str | None:
        """A key behind all others of the directory in which the last objects were: the rest of it tells nothing new."""
        return None if self._directory is None else f"{self._directory}/{_LAST}"

    def feed(self, objects: Iterable[ObjectMeta]) -> list[ObjectEntry]:
        """The entries that are known by now."""
        ready: list[ObjectEntry] = []
        for found in objects:
            name, slash, _ = found["path"].removeprefix(self._start).partition("/")
            key = f"{self._start}{name}"
            if slash and key != self._directory:
                self._directory = key
                # An empty object of its name right before it only marks it.
                if self._held is not None and (self._held.key, self._held.size) == (key, 0):
                    self._held = None
                ready += [*self.end(), directory(key)]
            elif not slash and found["path"] != self._prefix:
                self._directory = None
                if self._held is None or self._held.key != key:
                    ready += self.end()
                    self._held = object_entry(found)
        return ready

    def end(self) -> list[ObjectEntry]:
        """The last one."""
        held, self._held = self._held, None
        return [] if held is None else [held]


def level(prefix: str, directories: Iterable[str], objects: Iterable[ObjectMeta]) -> list[ObjectEntry]:
    """One level of a bucket as the bucket itself tells it, in the same order."""
    beside = [directory(key.rstrip("/")) for key in directories if key.rstrip("/") != prefix]
    below = {entry.key for entry in beside}
    found = {entry.key: entry for entry in map(object_entry, objects) if entry.key != prefix}
    files = [entry for entry in found.values() if not (entry.size == 0 and entry.key in below)]
    return sorted([*files, *beside], key=rank)


def rank(entry: ObjectEntry) -> str:
    """Where an entry stands among others, as its keys do."""
    return f"{entry.key}/" if entry.size is None else entry.key


def directory(key: str) -> ObjectEntry:
    """What longer keys begin with."""
    return ObjectEntry(key=key, size=None, etag=None, modified_at=None)


def object_entry(found: ObjectMeta) -> ObjectEntry:
    """An object as our listings have it."""
    return ObjectEntry(
        key=found["path"], size=found["size"], etag=found["e_tag"], modified_at=found["last_modified"]
    )
