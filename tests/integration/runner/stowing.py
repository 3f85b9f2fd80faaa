"""Puts resources into the storage of a machine room, as a run would have made them."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from integration.runner.room import Room
from spell_proto import http
from spell_proto.mounts import Mount
from spell_proto.views import Manifest, ManifestEntry, ManifestStored

_STORED = TypeAdapter(ManifestStored)
AT = datetime(2001, 9, 9, 1, 46, 40, 123456, tzinfo=UTC)


async def stow(
    here: Room, files: dict[str, bytes], links: dict[str, str] | None = None, mode: int = 0o644
) -> str:
    """Store files of these contents; the digest of their manifest."""
    owner = here.client.owner
    entries = []
    contents = [(path, data, None) for path, data in files.items()]
    contents += [(path, target.encode(), target) for path, target in (links or {}).items()]
    async with http.Caller(here.services.storage_url) as caller:
        for path, data, link in contents:
            digest = hashlib.sha256(data).hexdigest()
            async with caller.open("PUT", f"/blobs/{digest}", params=owner, data=data):
                pass
            entry = ManifestEntry(
                path=path, size=len(data), sha256=digest, mode=mode, modified_at=AT, link=link
            )
            entries.append(entry)
        manifest = Manifest(entries=tuple(sorted(entries, key=lambda entry: entry.path)))
        stored = await caller.call("PUT", "/manifests", _STORED, params=owner, body=manifest)
    return stored.digest


def mount(here: Room, manifest: str, target: str, path: str = "", *, is_file: bool = False) -> dict[str, Any]:
    """A mount as the gateway hands it on."""
    return Mount(
        resource="runs/1",
        target=target,
        owner_id=here.client.owner["owner_id"],
        manifest=manifest,
        path=path,
        is_file=is_file,
    ).model_dump()
