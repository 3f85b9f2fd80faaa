"""HTTP for uploads: begun, their files brought over tus 1.0.0, completed, taken away. Operators publish the same way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from aiohttp import web
from pydantic import Field, TypeAdapter

from spell_gateway import asked
from spell_gateway.accounts import Accounts
from spell_gateway.auth import only_admins
from spell_gateway.resolving import Resolver
from spell_gateway.resources import not_there
from spell_gateway.routes import FLAG, WHOLE, Param, Route
from spell_gateway.shapes import User
from spell_gateway.storage import Body, Missing, Storage
from spell_proto import blob_packs, resources
from spell_proto.errors import InvalidError, NotFoundError, RefusedError
from spell_proto.git import PLATFORM
from spell_proto.http import json_response
from spell_proto.resources import Listing, Public, Upload
from spell_proto.shapes import Shape
from spell_proto.uploads import UploadList, UploadRequest, UploadView
from spell_proto.views import Manifest

REQUEST = TypeAdapter(UploadRequest)
#: Headers of tus that are handed on, each way.
ASKED = ("Content-Type", "Tus-Resumable", "Upload-Length", "Upload-Metadata", "Upload-Offset")
TOLD = ("Cache-Control", "Tus-Resumable", "Upload-Length", "Upload-Offset")
NO_UPLOAD = {403: "only administrators may publish", 404: "no such upload, or somebody else's"}
TAKEN = {409: "upload_exists: there is one of that name already", 413: "quota_exceeded"}
INCOMPLETE = {409: "upload_incomplete, or upload_file_changed: send it again"}
TUS = {
    409: "offset_conflict, or upload_file_changed",
    412: "another version of tus",
    415: "another media type",
    423: "it is being sent already",
}
PUBLIC = Param("public", "1: what is to be published, by an administrator.", FLAG)
TEXT = {"type": "string"}
VERSION = Param("Tus-Resumable", "1.0.0", TEXT, "header")
LENGTH = Param("Upload-Length", "How long the file is.", WHOLE, "header")
OFFSET = Param("Upload-Offset", "Where these bytes belong.", WHOLE, "header")
METADATA = Param(
    "Upload-Metadata", "`path`, and `sha256` in hex if it is known, each in base64.", TEXT, "header"
)
TUS_TEXT = (
    "Location says where the file is sent to, Upload-Offset how much of it is here: all of it, where its SHA-256 is that "
    "of bytes you have brought before. The same path again gives the same place. A body of "
    "application/offset+octet-stream is the beginning of the file."
)
COMPLETE_TEXT = (
    "The body is the manifest of the upload. Without one it has the files that were sent, under the paths that they were "
    "sent with. A compressed upload has what is below `upload/` in the file `upload.tar.gz`. Repeating it changes nothing."
)
PACK_TEXT = (
    "The body is any number of entries: the SHA-256 of a file (32 bytes), its length (4 bytes, big-endian), its bytes; "
    f"at most {blob_packs.PACK_BLOBS_MAX} files of at most {blob_packs.BLOB_BYTES_MAX:,} bytes, and "
    f"{blob_packs.PACK_BYTES_MAX:,} bytes in all. All of them are taken, or none. The manifest of the upload says what they "
    "are called. Repeating it changes nothing."
)
PACK = {413: "quota_exceeded, or body_too_large", 422: "pack_invalid, or digest_mismatch"}
DIGESTS_MAX = 10_000
#: A client that sends nothing for so long in the middle of a file is gone.
STALLED_SECONDS_MAX = 60.0
SMALL_BYTES_MAX = 512 * 1024


class Digests(Shape):
    """SHA-256 of files, in hex."""

    digests: Annotated[
        tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...], Field(max_length=DIGESTS_MAX)
    ]


DIGESTS = TypeAdapter(Digests)


class UploadsApi:
    """Answers under /api/uploads, and takes uploads away."""

    def __init__(self, accounts: Accounts, resolver: Resolver, storage: Storage) -> None:
        self._accounts = accounts
        self._resolver = resolver
        self._storage = storage

    async def begin(self, request: web.Request, user: User) -> web.Response:
        owner_id = _owner(request, user)
        wanted = await asked.body(request, REQUEST)
        if owner_id == PLATFORM:
            await self._accounts.note(user, "publishing begun", wanted.name)
        return json_response(await self._storage.begin_upload(owner_id, wanted))

    async def all(self, request: web.Request, user: User) -> web.Response:
        del request  # nothing in it matters
        return json_response(await self._storage.uploads(user.id))

    async def one(self, request: web.Request, user: User) -> web.Response:
        upload_id = asked.row_id(request, "upload")
        return json_response(await self._storage.upload(_owner(request, user), upload_id))

    async def missing(self, request: web.Request, user: User) -> web.Response:
        owner_id, upload_id = _owner(request, user), asked.row_id(request, "upload")
        await self._storage.upload(owner_id, upload_id)
        digests = (await asked.body(request, DIGESTS)).digests
        return json_response(Missing(missing=await self._storage.missing(owner_id, digests)))

    async def pack(self, request: web.Request, user: User) -> web.Response:
        upload_id, owner_id = asked.row_id(request, "upload"), _owner(request, user)
        await self._storage.send_pack(owner_id, upload_id, await _pack(request))
        return web.Response(status=204)

    async def complete(self, request: web.Request, user: User) -> web.Response:
        owner_id, upload_id = _owner(request, user), asked.row_id(request, "upload")
        body = _arriving(request) if request.body_exists else None
        return json_response(await self._storage.complete_upload(owner_id, upload_id, body))

    async def send(self, request: web.Request, user: User) -> web.Response:
        """Creation, HEAD, PATCH and DELETE of tus."""
        upload_id, file = asked.row_id(request, "upload"), request.match_info.get("file")
        path = f"/uploads/{upload_id}/files" + (
            "" if file is None else f"/{asked.row_id(request, 'file', part='file')}"
        )
        headers = {name: request.headers[name] for name in ASKED if name in request.headers}
        body = await _body(request) if request.body_exists and request.method != "HEAD" else None
        owner_id = _owner(request, user)
        async with self._storage.send_file(request.method, owner_id, path, headers, body) as found:
            told = {name: found.headers[name] for name in TOLD if name in found.headers}
            if "Location" in found.headers:
                public = "?public=1" if owner_id == PLATFORM else ""
                told["Location"] = f"/api{found.headers['Location']}{public}"
            return web.Response(status=found.status, headers=told)

    async def delete(self, request: web.Request, user: User) -> web.Response:
        path = request.match_info["path"]
        resource = resources.parse(path)
        if isinstance(resource, Upload) and not resource.path:
            await self._remove(user.id, resource.name, resource.text)
        elif isinstance(resource, Public) and user.admin:
            await self._accounts.note(user, "published data removed", resource.path)
            await self._remove(PLATFORM, resource.path, resource.text)
        else:
            if not isinstance(resource, Listing):
                # What is not there is not there, whatever else is wrong with it.
                await self._resolver.resolve(user.id, resource)
            raise InvalidError("upload_needed", "You must specify an uploaded resource.", field="path")
        return web.Response(status=204)

    async def _remove(self, owner_id: int, name: str, text: str) -> None:
        try:
            await self._storage.remove_upload(owner_id, name)
        except NotFoundError:
            raise not_there(text) from None

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("POST", "/api/uploads", self.begin, "Begin an upload, or go on with one", "files", UploadView, UploadRequest, (PUBLIC,), also=TAKEN | {403: NO_UPLOAD[403]}),
            Route("GET", "/api/uploads", self.all, "List complete uploads", "files", UploadList),
            Route("GET", "/api/uploads/{id}", self.one, "Show an upload", "files", UploadView, None, (PUBLIC,), also=NO_UPLOAD),
            Route("POST", "/api/uploads/{id}/missing", self.missing, "Which files have to be sent", "files", Missing, Digests, (PUBLIC,), also=NO_UPLOAD),
            Route("POST", "/api/uploads/{id}/files", self.send, "Begin to send a file, or go on (tus 1.0.0 creation)", "files", None, None, (PUBLIC, LENGTH, METADATA, VERSION), 201, NO_UPLOAD | TUS, text=TUS_TEXT),
            Route("HEAD", "/api/uploads/{id}/files/{file}", self.send, "How much of a file has arrived (tus)", "files", None, None, (PUBLIC, VERSION), also=NO_UPLOAD | TUS),
            Route("PATCH", "/api/uploads/{id}/files/{file}", self.send, "Send bytes of a file (tus)", "files", None, None, (PUBLIC, OFFSET, VERSION), 204, NO_UPLOAD | TUS),
            Route("DELETE", "/api/uploads/{id}/files/{file}", self.send, "Take a file out of an upload that is not complete (tus)", "files", None, None, (PUBLIC, VERSION), 204, NO_UPLOAD | TUS),
            Route("POST", "/api/uploads/{id}/pack", self.pack, "Send small files together", "files", None, None, (PUBLIC,), 204, NO_UPLOAD | PACK, text=PACK_TEXT),
            Route("POST", "/api/uploads/{id}/complete", self.complete, "Make an upload a resource", "files", UploadView, Manifest, (PUBLIC,), also=NO_UPLOAD | INCOMPLETE, text=COMPLETE_TEXT),
            Route("DELETE", "/api/resources/{path:[\\s\\S]*}", self.delete, "Take an upload away, or what was published", "files", None, status=204, also=NO_UPLOAD),
        ]
        # fmt: on


def _owner(request: web.Request, user: User) -> int:
    """Whose upload it is: the user's, or nobody's, which an administrator publishes."""
    if not asked.flag(request, "public", default=False):
        return user.id
    only_admins(user)
    return PLATFORM


async def _body(request: web.Request) -> Body | bytes:
    """What is sent; what is small is handed on in one go."""
    size = request.content_length
    if size is None or size > SMALL_BYTES_MAX:
        return _arriving(request)
    async with asyncio.timeout(STALLED_SECONDS_MAX):
        return await request.read()


async def _pack(request: web.Request) -> bytes:
    """A body that is a pack, as long as one may be."""
    held = bytearray()
    async for data in _arriving(request):
        held += data
        if len(held) > blob_packs.PACK_BYTES_MAX:
            refused = RefusedError(
                "body_too_large", f"body: at most {blob_packs.PACK_BYTES_MAX} bytes are allowed"
            )
            refused.status = 413
            raise refused
    return bytes(held)


async def _arriving(request: web.Request) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(STALLED_SECONDS_MAX):
            data = await request.content.readany()
        if not data:
            return
        yield data
