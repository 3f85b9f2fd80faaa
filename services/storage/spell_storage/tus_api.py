"""Routes of files on their way into an upload: tus 1.0.0 with creation, creation-with-upload and termination.

See https://tus.io/protocols/resumable-upload. `Upload-Metadata` holds the `path` of the file in UTF-8, and its `sha256`
where the sender knows it: what its owner has here already need not be sent.
"""

import base64
import binascii

from aiohttp import web

from spell_proto.errors import InvalidError, RefusedError, shown
from spell_proto.uploads import BYTES_MAX, TUS_VERSION
from spell_storage import answers
from spell_storage.blobs import SMALL_BYTES_MAX
from spell_storage.incoming import Incoming, IncomingFile
from spell_storage.manifest_rules import path_problem
from spell_storage.uploads import Uploads

_BODY = "application/offset+octet-stream"


class TusRoutes:
    """Handlers of /uploads/{id}/files."""

    def __init__(self, uploads: Uploads, incoming: Incoming) -> None:
        self._uploads = uploads
        self._incoming = incoming

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/uploads/{id}/files", self.create)
        app.router.add_head("/uploads/{id}/files/{file}", self.head)
        app.router.add_patch("/uploads/{id}/files/{file}", self.patch)
        app.router.add_delete("/uploads/{id}/files/{file}", self.remove)

    async def create(self, request: web.Request) -> web.Response:
        owner_id, upload_id = answers.owner(request), _number(request, "id")
        upload = await self._uploads.one(owner_id, upload_id)
        _check_version(request)
        length = answers.number(request.headers.get("Upload-Length"), "Upload-Length", most=BYTES_MAX)
        path, announced = _metadata(request.headers.get("Upload-Metadata", ""))
        has_bytes = request.body_exists and _has_bytes(request)
        small = length <= SMALL_BYTES_MAX and not upload.compressed
        if small and has_bytes and announced is not None:
            data = await answers.body(request, SMALL_BYTES_MAX)
            if len(data) == length:
                file = await self._incoming.bring(owner_id, upload_id, path, announced, data)
            else:
                # What is not all of it is asked for again.
                file = await self._incoming.create(owner_id, upload_id, path, length, announced)
        else:
            file = await self._incoming.create(owner_id, upload_id, path, length, announced)
            if has_bytes and not file.whole:
                file = await self._incoming.append(owner_id, file, 0, request.content.iter_any())
        location = f"/uploads/{upload_id}/files/{file.id}"
        return web.Response(status=201, headers=_said(file) | {"Location": location})

    async def head(self, request: web.Request) -> web.Response:
        file = await self._file(request)
        _check_version(request)
        return web.Response(
            headers=_said(file) | {"Upload-Length": str(file.length), "Cache-Control": "no-store"}
        )

    async def patch(self, request: web.Request) -> web.Response:
        file = await self._file(request)
        _check_version(request)
        offset = answers.number(request.headers.get("Upload-Offset"), "Upload-Offset", most=BYTES_MAX)
        if not _has_bytes(request):
            refused = RefusedError("content_type", f"body: {_BODY} is allowed")
            refused.status = 415
            raise refused
        file = await self._incoming.append(answers.owner(request), file, offset, request.content.iter_any())
        return web.Response(status=204, headers=_said(file))

    async def remove(self, request: web.Request) -> web.Response:
        file = await self._file(request)
        _check_version(request)
        await self._incoming.remove(file)
        return web.Response(status=204, headers={"Tus-Resumable": TUS_VERSION})

    async def _file(self, request: web.Request) -> IncomingFile:
        upload_id, file_id = _number(request, "id"), _number(request, "file")
        return await self._incoming.find(answers.owner(request), upload_id, file_id)


def _number(request: web.Request, name: str) -> int:
    return answers.number(request.match_info[name], name, least=1)


def _said(file: IncomingFile) -> dict[str, str]:
    return {"Tus-Resumable": TUS_VERSION, "Upload-Offset": str(file.received)}


def _has_bytes(request: web.Request) -> bool:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _BODY


def _check_version(request: web.Request) -> None:
    version = request.headers.get("Tus-Resumable")
    if version != TUS_VERSION:
        refused = RefusedError(
            "tus_version", f"Tus-Resumable: {shown(version)}: {TUS_VERSION} is spoken here"
        )
        refused.status = 412
        raise refused


def _metadata(text: str) -> tuple[str, str | None]:
    """The path of a file, and the SHA-256 it will have if that is known."""
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, _, value = pair.strip().partition(" ")
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _metadata_wrong(f"{shown(name)} is not UTF-8 in base64") from None
    path = found.get("path", "")
    if not path:
        raise _metadata_wrong("a path is needed")
    problem = path_problem(path)
    if problem is not None:
        raise _metadata_wrong(problem)
    announced = found.get("sha256")
    return path, None if announced is None else answers.sha256(announced, "sha256")


def _metadata_wrong(why: str) -> InvalidError:
    return InvalidError("metadata_invalid", f"Upload-Metadata: {why}", field="Upload-Metadata")
