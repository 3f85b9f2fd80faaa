"""The one form of a manifest, over which its digest is taken: equal content, equal digest (pure)."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from datetime import UTC

from pydantic import TypeAdapter

from spell_proto.errors import InvalidError, shown
from spell_proto.views import Manifest, ManifestEntry

MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def canonical(manifest: Manifest) -> Manifest:
    """The manifest sorted by path, with times in UTC. Size and SHA-256 of a link are those of what it says.

    Raises:
        InvalidError: manifest_invalid, for paths that no directory could hold.
    """
    entries = sorted(
        (
            entry.model_copy(
                update={"modified_at": entry.modified_at.astimezone(UTC), **_of_link(entry.link)}
            )
            for entry in manifest.entries
        ),
        key=lambda entry: entry.path,
    )
    deleted = sorted(set(manifest.deleted))
    before = None
    for path in [entry.path for entry in entries]:
        if path == before:
            raise _invalid(f"the path {shown(path)} is there twice")
        before = path
    for path in (*(entry.path for entry in entries), *deleted):
        if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
            raise _invalid(f"{shown(path)} is not a path below a resource")
    return manifest.model_copy(update={"entries": tuple(entries), "deleted": tuple(deleted)})


def _of_link(link: str | None) -> dict[str, object]:
    if link is None:
        return {}
    said = os.fsencode(link)
    return {"size": len(said), "sha256": hashlib.sha256(said).hexdigest()}


def digests(manifest: Manifest) -> list[str]:
    """The blobs that a manifest needs, each once. A link is all in the manifest."""
    return list(dict.fromkeys(entry.sha256 for entry in manifest.entries if entry.link is None))


def check_sizes(files: Iterable[ManifestEntry], sizes: Mapping[str, int]) -> None:
    """See that files have the sizes of their blobs, by digest.

    Raises:
        InvalidError: manifest_invalid.
    """
    for file in files:
        if file.size != sizes[file.sha256]:
            raise _invalid(f"{shown(file.path)} has {sizes[file.sha256]} bytes, not {file.size}")


def _invalid(what: str) -> InvalidError:
    return InvalidError("manifest_invalid", f"entries: {what}", field="entries")
