"""Uploads and runs with files, made straight in storage: for tests of what is found of them."""

import hashlib

from pydantic import TypeAdapter

from integration.gateway.wire import now
from spell_proto import http
from spell_proto.uploads import UploadView
from spell_proto.views import Manifest, ManifestEntry, ManifestStored

UPLOAD = TypeAdapter(UploadView)
STORED = TypeAdapter(ManifestStored)
PLATFORM = 0


async def manifest_of(storage, owner_id, files):
    """A manifest of these files, whose blobs are there; a `str` is a link."""
    entries = []
    for path, content in files.items():
        link = content if isinstance(content, str) else None
        data = b"" if link is not None else content
        digest = hashlib.sha256(data).hexdigest()
        async with storage.open("PUT", f"/blobs/{digest}", params={"owner_id": owner_id}, data=data):
            pass
        entries.append(
            ManifestEntry(path=path, size=len(data), sha256=digest, mode=0o640, modified_at=now(), link=link)
        )
    return Manifest(entries=tuple(sorted(entries, key=lambda entry: entry.path)))


async def bring(stage, owner_id, name, files):
    """A complete upload of an owner; of nobody it is published."""
    async with http.Caller(stage.sockets["storage"]) as storage:
        asked = {"owner_id": owner_id}
        upload = await storage.call("POST", "/uploads", UPLOAD, params=asked, body={"name": name})
        manifest = await manifest_of(storage, owner_id, files)
        path = f"/uploads/{upload.id}/complete"
        return await storage.call("POST", path, UPLOAD, params=asked, body=manifest)


async def run_with(stage, client, files, machine_type, deleted=()):
    """The id of a run that saved these files, and deleted those."""
    async with stage.machine(machine_type) as machine:
        run = await client.create(machine_type)
        attempt = await machine.take(run["id"])
        await attempt.begin()
        asked = {"owner_id": run["owner_id"]}
        manifest = await manifest_of(machine.storage, run["owner_id"], files)
        manifest = manifest.model_copy(update={"deleted": tuple(deleted)})
        stored = await machine.storage.call("PUT", "/manifests", STORED, params=asked, body=manifest)
        totals = attempt.seal()
        await attempt.store()
        await attempt.finish(totals, stored.digest, stored.files, stored.bytes)
        await client.until_final(run["id"])
    return run["id"]
