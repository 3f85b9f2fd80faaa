"""HTTP for files: of runs, uploads, and what is published."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, TypeAdapter

from spell_gateway import asked
from spell_gateway.files import Files
from spell_gateway.outlet import no_such_part, relay
from spell_gateway.resources import disposition
from spell_gateway.routes import BYTES, FLAG, PARTS, RANGE, Param, Route
from spell_gateway.shapes import ResourceList, Usage, User
from spell_gateway.storage import Storage
from spell_gateway.usage import UsageOf
from spell_proto import blob_packs
from spell_proto.errors import RefusedError
from spell_proto.http import json_response
from spell_proto.shapes import Shape

RECURSIVE = Param("recursive", "1: all files below, with their paths; no directories.", FLAG)
REFUSED = {
    404: "no such file, or somebody else's",
    409: "the run still goes on, or the path is a directory",
    422: "no path",
}


TOGETHER = (
    "Files of the resource that the path names, or is in, by their SHA-256. The answer is entries: the SHA-256 of a file "
    "(32 bytes), its length (4 bytes, big-endian), its bytes. What is not in the resource, is longer than "
    f"{blob_packs.BLOB_BYTES_MAX:,} bytes, or does not look whole is left out: asked for by itself, it says why."
)


class FewDigests(Shape):
    """SHA-256 of files, in hex: as many as are sent together."""

    digests: Annotated[
        tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...],
        Field(max_length=blob_packs.PACK_BLOBS_MAX),
    ]


DIGESTS = TypeAdapter(FewDigests)


class FilesApi:
    """Answers about bytes that are kept."""

    def __init__(self, files: Files, usage: UsageOf, storage: Storage) -> None:
        self._files = files
        self._usage = usage
        self._storage = storage

    async def content(self, request: web.Request, user: User) -> web.StreamResponse:
        owner_id, entry = await self._files.find(user, request.match_info["path"])
        tag = f'"{entry.sha256}"'
        headers = {
            "ETag": tag,
            "Content-Type": BYTES,
            "Content-Disposition": disposition(entry.path.rpartition("/")[2]),
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Cache-Control": "private, no-cache",
        }
        known = [item.strip() for item in request.headers.get("If-None-Match", "").split(",")]
        if tag in known or known == ["*"]:
            return web.Response(status=304, headers=headers)
        part = {}
        # A range of a file that is another one by now would be patched into the wrong bytes.
        if "Range" in request.headers and request.headers.get("If-Range", tag) == tag:
            part = {"Range": request.headers["Range"]}
        try:
            async with self._storage.blob(request.method, owner_id, entry.sha256, part) as found:
                return await relay(request, found, headers)
        except RefusedError as error:
            if error.status != 416:
                raise
            return no_such_part(entry.size)

    async def several(self, request: web.Request, user: User) -> web.StreamResponse:
        owner_id, tree = await self._files.around(user, request.match_info["path"])
        digests = (await asked.body(request, DIGESTS)).digests
        wanted = tuple(digest for digest in digests if digest in tree.digests)
        async with self._storage.blobs(owner_id, wanted) as found:
            return await relay(request, found, {"Content-Type": BYTES, "Cache-Control": "private, no-cache"})

    async def listing(self, request: web.Request, user: User) -> web.Response:
        recursive = asked.flag(request, "recursive", default=False)
        path = request.match_info.get("path", "")
        return json_response(await self._files.listing(user, path, recursive=recursive))

    async def usage(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._usage.at(user, request.match_info.get("path", "")))

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("GET", "/api/files/{path:[\\s\\S]*}", self.content, "Get a file", "files", (BYTES,), None, (RANGE,), also=REFUSED | PARTS | {304: "it has not changed"}),
            Route("POST", "/api/files/{path:[\\s\\S]*}", self.several, "Get small files together", "files", (BYTES,), FewDigests, also=REFUSED, text=TOGETHER),
            Route("GET", "/api/resources", self.listing, "List what there is", "files", ResourceList, None, (RECURSIVE,)),
            Route("GET", "/api/resources/{path:[\\s\\S]*}", self.listing, "List files", "files", ResourceList, None, (RECURSIVE,), also=REFUSED),
            Route("GET", "/api/usage", self.usage, "How much your runs and uploads have kept", "files", Usage),
            Route("GET", "/api/usage/{path:[\\s\\S]*}", self.usage, "How much is at a path, and in each thing in it", "files", Usage, also=REFUSED),
        ]
        # fmt: on
