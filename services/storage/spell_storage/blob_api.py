"""Routes under /blobs and /manifests."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from aiohttp import web
from pydantic import Field, TypeAdapter

from spell_proto import blob_packs
from spell_proto.errors import InvalidError, shown
from spell_proto.http import json_response, parse_json
from spell_proto.shapes import Shape
from spell_proto.views import MANIFEST_BYTES_MAX
from spell_storage import answers, manifests, nearby
from spell_storage.blobs import SMALL_BYTES_MAX, Blobs
from spell_storage.objects import PIECE_BYTES

_DIGESTS_BYTES_MAX = 8 << 20
_MANIFESTS_AT_ONCE = 2
#: Each holds a thread for as long as it reads and writes.
_COPIES_AT_ONCE = 4
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class _Digests(Shape):
    digests: tuple[str, ...]


class _Look(Shape):
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    sums: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]


class _Looks(Shape):
    files: tuple[_Look, ...]


_DIGESTS: TypeAdapter[_Digests] = TypeAdapter(_Digests)
_LOOKS: TypeAdapter[_Looks] = TypeAdapter(_Looks)


class BlobRoutes:
    """Handlers of /blobs and /manifests."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._copies = asyncio.Semaphore(_COPIES_AT_ONCE)
        self._manifests = asyncio.Semaphore(_MANIFESTS_AT_ONCE)

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/blobs/missing", self.missing)
        app.router.add_post("/blobs/new", self.new)
        app.router.add_post("/blobs/pack", self.put_pack)
        app.router.add_post("/blobs/unpack", self.get_pack)
        app.router.add_post("/blobs/file", self.take_file)
        app.router.add_put("/blobs/{sha256}", self.put)
        app.router.add_post("/blobs/{sha256}/file", self.put_file)
        app.router.add_get("/blobs/{sha256}", self.get)
        app.router.add_put("/manifests", self.put_manifest)
        app.router.add_get("/manifests/{digest}", self.get_manifest)

    async def missing(self, request: web.Request) -> web.Response:
        owner_id, digests = answers.owner(request), await _digests(request)
        return json_response({"missing": await self._blobs.missing(owner_id, digests)})

    async def new(self, request: web.Request) -> web.Response:
        owner_id = answers.owner(request)
        files = parse_json(await answers.body(request, _DIGESTS_BYTES_MAX), _LOOKS).files
        looks = [(look.size, bytes.fromhex(look.sums)) for look in files]
        return json_response({"new": await self._blobs.certainly_new(owner_id, looks)})

    async def put(self, request: web.Request) -> web.Response:
        owner_id = answers.owner(request)
        digest = answers.sha256(request.match_info["sha256"], "sha256")
        if request.content_length is not None and request.content_length <= SMALL_BYTES_MAX:
            await self._blobs.put(owner_id, digest, await request.read())
        else:
            await self._blobs.put_stream(owner_id, digest, pieces_of(request))
        return web.Response(status=201, body=b"{}", content_type="application/json")

    async def put_file(self, request: web.Request) -> web.Response:
        owner_id, query = answers.owner(request), request.query
        digest = answers.sha256(request.match_info["sha256"], "sha256")
        number, size = (answers.number(query.get(name), name) for name in ("file", "size"))
        with nearby.opened(request, number, query.get("identity", "")) as file:
            async with self._copies:
                await self._blobs.put_file(owner_id, digest, file, size)
        return web.Response(status=201, body=b"{}", content_type="application/json")

    async def take_file(self, request: web.Request) -> web.Response:
        owner_id, query = answers.owner(request), request.query
        number = answers.number(query.get("file"), "file")
        with nearby.opened(request, number, query.get("identity", "")) as file:
            async with self._copies:
                digest = await self._blobs.take_file(owner_id, file, query.get("version", ""))
        return json_response({"sha256": digest}, status=201)

    async def put_pack(self, request: web.Request) -> web.Response:
        owner_id = answers.owner(request)
        body = await answers.body(request, blob_packs.PACK_BYTES_MAX)
        await self._blobs.put_all(owner_id, blob_packs.unpack(body))
        return web.Response(status=201, body=b"{}", content_type="application/json")

    async def get_pack(self, request: web.Request) -> web.StreamResponse:
        """Small blobs together. What is not plainly whole is left out, and so is what is large."""
        owner_id, digests = answers.owner(request), await _digests(request)
        blob_packs.check_count(digests)
        pieces = self._blobs.together(owner_id, digests)
        return await answers.streamed(request, pieces, {"Content-Type": answers.BYTES})

    async def get(self, request: web.Request) -> web.StreamResponse:
        digest = answers.sha256(request.match_info["sha256"], "sha256")
        blob = await self._blobs.find(answers.owner(request), digest)
        return await answers.range_response(
            request,
            blob.size,
            lambda first, length: self._blobs.stream(blob, first, length),
            {"ETag": f'"{digest}"'},
        )

    async def put_manifest(self, request: web.Request) -> web.Response:
        owner_id = answers.owner(request)
        async with self._manifests:
            data = await answers.body(request, MANIFEST_BYTES_MAX)
            manifest = await asyncio.to_thread(manifests.read, data)
            del data
            beyond = request.query.get("beyond") == "1"
            stored = await self._blobs.put_canonical(owner_id, manifest, beyond=beyond)
        return web.Response(body=orjson.dumps(stored.model_dump()), content_type="application/json")

    async def get_manifest(self, request: web.Request) -> web.Response:
        digest = answers.sha256(request.match_info["digest"], "digest")
        data = await self._blobs.manifest(answers.owner(request), digest)
        return web.Response(body=data, content_type="application/json", headers={"ETag": f'"{digest}"'})


async def _digests(request: web.Request) -> tuple[str, ...]:
    digests = parse_json(await answers.body(request, _DIGESTS_BYTES_MAX), _DIGESTS).digests
    for digest in digests:
        if not _SHA256.fullmatch(digest):
            raise InvalidError(
                "sha256_invalid", f"digests: {shown(digest)} is not 64 hex digits", field="digests"
            )
    return digests


async def pieces_of(request: web.Request) -> AsyncIterator[bytes]:
    """The body in pieces of about `PIECE_BYTES`: crossing into the object store has a price per piece."""
    gathered: list[bytes] = []
    size = 0
    while data := await request.content.readany():
        gathered.append(data)
        size += len(data)
        if size >= PIECE_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)
