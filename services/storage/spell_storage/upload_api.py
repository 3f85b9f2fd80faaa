"""Routes under /uploads and /links."""

import asyncio

import asyncpg
from aiohttp import web
from pydantic import TypeAdapter

from spell_proto import blob_packs
from spell_proto.http import json_response, parse_json, read_json
from spell_proto.uploads import LinkList, LinkRequest, UploadList, UploadRequest
from spell_proto.views import MANIFEST_BYTES_MAX
from spell_storage import answers
from spell_storage.blobs import Blobs
from spell_storage.incoming import Incoming
from spell_storage.links import Links
from spell_storage.manifests import MANIFEST
from spell_storage.objects import Objects
from spell_storage.tus_api import TusRoutes
from spell_storage.unpacker import Unpacker
from spell_storage.uploads import Uploads

_REQUEST: TypeAdapter[UploadRequest] = TypeAdapter(UploadRequest)
_LINK: TypeAdapter[LinkRequest] = TypeAdapter(LinkRequest)
_MANIFESTS_AT_ONCE = 2


class UploadRoutes:
    """Handlers of /uploads."""

    def __init__(self, uploads: Uploads, incoming: Incoming) -> None:
        self._uploads = uploads
        self._incoming = incoming
        self._manifests = asyncio.Semaphore(_MANIFESTS_AT_ONCE)

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/uploads", self.begin)
        app.router.add_get("/uploads", self.all)
        app.router.add_get("/uploads/named", self.at)
        app.router.add_delete("/uploads/named", self.remove)
        app.router.add_get("/uploads/{id}", self.one)
        app.router.add_post("/uploads/{id}/pack", self.pack)
        app.router.add_post("/uploads/{id}/complete", self.complete)

    async def begin(self, request: web.Request) -> web.Response:
        wanted = await read_json(request, _REQUEST)
        upload, made = await self._uploads.begin(answers.owner(request), wanted)
        return json_response(upload, status=201 if made else 200)

    async def all(self, request: web.Request) -> web.Response:
        return json_response(UploadList(uploads=await self._uploads.all(answers.owner(request))))

    async def at(self, request: web.Request) -> web.Response:
        return json_response(await self._uploads.at(answers.owner(request), request.query.get("path", "")))

    async def one(self, request: web.Request) -> web.Response:
        return json_response(await self._uploads.one(answers.owner(request), _id(request)))

    async def pack(self, request: web.Request) -> web.Response:
        owner_id, upload_id = answers.owner(request), _id(request)
        await self._uploads.one(owner_id, upload_id)
        body = await answers.body(request, blob_packs.PACK_BYTES_MAX)
        await self._incoming.bring_all(owner_id, upload_id, blob_packs.unpack(body))
        return web.Response(status=204)

    async def complete(self, request: web.Request) -> web.Response:
        owner_id, upload_id = answers.owner(request), _id(request)
        await self._uploads.one(owner_id, upload_id)
        async with self._manifests:
            data = await answers.body(request, MANIFEST_BYTES_MAX)
            manifest = await asyncio.to_thread(parse_json, data, MANIFEST) if data else None
        return json_response(await self._uploads.complete(owner_id, upload_id, manifest))

    async def remove(self, request: web.Request) -> web.Response:
        await self._uploads.remove(answers.owner(request), request.query.get("path", ""))
        return json_response({})


class LinkRoutes:
    """Handlers of /links."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/links", self.all)
        app.router.add_get("/links/{alias}", self.one)
        app.router.add_put("/links/{alias}", self.add)
        app.router.add_delete("/links/{alias}", self.remove)

    async def all(self, request: web.Request) -> web.Response:
        return json_response(LinkList(links=await self._links.all(answers.owner(request))))

    async def one(self, request: web.Request) -> web.Response:
        return json_response(await self._links.one(answers.owner(request), request.match_info["alias"]))

    async def add(self, request: web.Request) -> web.Response:
        wanted = await read_json(request, _LINK)
        alias = request.match_info["alias"]
        return json_response(await self._links.add(answers.owner(request), alias, wanted.target))

    async def remove(self, request: web.Request) -> web.Response:
        await self._links.remove(answers.owner(request), request.match_info["alias"])
        return json_response({})


def _id(request: web.Request) -> int:
    return answers.number(request.match_info["id"], "id", least=1)


def upload_routes(
    pool: asyncpg.Pool, objects: Objects, blobs: Blobs
) -> tuple[Incoming, tuple[UploadRoutes, LinkRoutes, TusRoutes]]:
    """What is on its way, and all routes of uploads and links."""
    incoming = Incoming(pool, objects, blobs)
    uploads = Uploads(pool, blobs, incoming, Unpacker(incoming, blobs))
    return incoming, (UploadRoutes(uploads, incoming), LinkRoutes(Links(pool)), TusRoutes(uploads, incoming))
