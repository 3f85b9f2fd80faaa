"""The one form of a manifest, over which its digest is taken: equal content, equal digest (pure).

A manifest may have hundreds of thousands of files. Objects for all of them at once would be twenty times its JSON, and
made in one go they would keep every other thread waiting: it is read, checked and written a portion at a time.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from itertools import pairwise

from pydantic import TypeAdapter

from spell_proto.errors import InvalidError, shown
from spell_proto.http import parse_json
from spell_proto.spec import canonical_json
from spell_proto.views import Manifest, ManifestEntry

MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
_ENTRIES: TypeAdapter[tuple[ManifestEntry, ...]] = TypeAdapter(tuple[ManifestEntry, ...])
_PORTION = 500
_DECODER = json.JSONDecoder()
_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Canonical:
    """The JSON of a manifest, how many files it has and of how many bytes, and the size of each blob that it needs."""

    data: bytes
    files: int
    bytes: int
    sizes: Mapping[str, int]


def read(data: bytes) -> Canonical:
    """The canonical form of the JSON of a manifest.

    Raises:
        RefusedError: it is no JSON.
        InvalidError: it is no manifest, or manifest_invalid.
    """
    try:
        text = data.decode()
        spans, deleted = _members(text)
    except (ValueError, IndexError, RecursionError):
        # It is wrong, or in a form that nobody writes: whoever reads it as a whole says so.
        return of(parse_json(data, MANIFEST))
    rest = parse_json(f'{{"entries":[],"deleted":{deleted}}}'.encode(), MANIFEST)
    portions = (parse_json(f"[{text[first:last]}]".encode(), _ENTRIES) for first, last in spans)
    return _written((entry for portion in portions for entry in portion), rest.deleted)


def of(manifest: Manifest) -> Canonical:
    """The canonical form of a manifest. Raises InvalidError: manifest_invalid."""
    return _written(manifest.entries, manifest.deleted)


def digests(manifest: Manifest) -> list[str]:
    """The blobs that a manifest needs, each once. A link is all in the manifest."""
    return list(dict.fromkeys(entry.sha256 for entry in manifest.entries if entry.link is None))


def check_sizes(manifest: Canonical, sizes: Mapping[str, int]) -> None:
    """See that files have the sizes of their blobs, by digest.

    Raises:
        InvalidError: manifest_invalid.
    """
    wrong = {digest for digest, size in manifest.sizes.items() if size != sizes[digest]}
    if not wrong:
        return
    for entry in json.loads(manifest.data)["entries"]:
        if entry["link"] is None and entry["sha256"] in wrong:
            found = sizes[entry["sha256"]]
            raise _invalid(f"{shown(entry['path'])} has {found} bytes, not {entry['size']}")


def _written(entries: Iterable[ManifestEntry], deleted: Iterable[str]) -> Canonical:
    """Sorted by path, with times in UTC and one form of links. Raises InvalidError for paths that no directory could hold."""
    written: list[tuple[str, bytes]] = []
    sizes: dict[str, int] = {}
    files = total = 0
    for given in entries:
        update = {"modified_at": given.modified_at.astimezone(UTC), **_of_link(given.link)}
        entry = given.model_copy(update=update)
        _check_path(entry.path)
        written.append((entry.path, canonical_json(entry.model_dump())))
        if entry.link is None:
            files, total = files + 1, total + entry.size
            if sizes.setdefault(entry.sha256, entry.size) != entry.size:
                raise _invalid(f"{shown(entry.path)} has the bytes of another file, of another size")
    written.sort()
    for (before, _), (path, _) in pairwise(written):
        if path == before:
            raise _invalid(f"the path {shown(path)} is there twice")
    gone = sorted(set(deleted))
    for path in gone:
        _check_path(path)
    joined = b",".join(data for _, data in written)
    return Canonical(b'{"deleted":%b,"entries":[%b]}' % (canonical_json(gone), joined), files, total, sizes)


def _check_path(path: str) -> None:
    if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise _invalid(f"{shown(path)} is not a path below a resource")


def _members(text: str) -> tuple[list[tuple[int, int]], str]:
    """Where portions of the entries are in the JSON of a manifest, and the JSON of what it says of deleted paths.

    Raises:
        ValueError, IndexError, RecursionError: it is not as it should be.
    """
    spans: list[tuple[int, int]] | None = None
    deleted: str | None = None
    position = _past("{", text, 0)
    while True:
        name, position = _DECODER.raw_decode(text, position)
        position = _past(":", text, position)
        if name == "entries" and spans is None:
            spans, position = _spans(text, position)
        elif name == "deleted" and deleted is None:
            first = position
            _, position = _DECODER.raw_decode(text, position)
            deleted = text[first:position]
        else:
            raise ValueError(name)
        position = _space(text, position)
        if text[position] == "}":
            break
        position = _past(",", text, position)
    if spans is None or _space(text, position + 1) != len(text):
        raise ValueError(text[position : position + 20])
    return spans, deleted or "[]"


def _spans(text: str, position: int) -> tuple[list[tuple[int, int]], int]:
    """The portions of an array of objects, and what comes behind it."""
    spans: list[tuple[int, int]] = []
    position = _past("[", text, position)
    if text[position] == "]":
        return spans, position + 1
    while True:
        first = position
        for _ in range(_PORTION):
            _, last = _DECODER.raw_decode(text, position)
            position = _space(text, last)
            if text[position] == "]":
                return [*spans, (first, last)], position + 1
            position = _past(",", text, position)
        spans.append((first, last))


def _past(sign: str, text: str, position: int) -> int:
    """Where something begins after a sign that has to be next."""
    position = _space(text, position)
    if text[position] != sign:
        raise ValueError(text[position : position + 20])
    return _space(text, position + 1)


def _space(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _of_link(link: str | None) -> dict[str, object]:
    if link is None:
        return {}
    said = os.fsencode(link)
    return {"size": len(said), "sha256": hashlib.sha256(said).hexdigest()}


def _invalid(what: str) -> InvalidError:
    return InvalidError("manifest_invalid", f"entries: {what}", field="entries")
