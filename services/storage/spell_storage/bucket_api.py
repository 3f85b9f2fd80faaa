"""Routes under /buckets: what is stored for private ones, and their objects, listed and read as they come."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from spell_proto.buckets import BucketList, ListingEnd, ObjectEntry
from spell_proto.errors import InvalidError, RefusedError, shown
from spell_proto.http import json_response, read_json
from spell_proto.shapes import Shape
from spell_storage import answers, ranges
from spell_storage.buckets import Buckets

LINES = "application/x-ndjson"
#: A listing that has nothing to say for so long sends an empty line: who waits knows that we are there.
QUIET_SECONDS_MAX = 5.0
_ETAG = re.compile(r"[!-~]{1,1024}", re.ASCII)


class _NewCredentials(Shape):
    access_key_id: str | None = None
    secret_access_key: str | None = None
    service_account_key: str | None = None


_NEW: TypeAdapter[_NewCredentials] = TypeAdapter(_NewCredentials)


class BucketRoutes:
    """Handlers of /buckets."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/buckets", self.all)
        app.router.add_put("/buckets", self.put)
        app.router.add_delete("/buckets", self.remove)
        app.router.add_get("/buckets/list", self.listing)
        app.router.add_get("/buckets/object", self.object)

    async def all(self, _request: web.Request) -> web.Response:
        return json_response(BucketList(buckets=await self._buckets.all()))

    async def put(self, request: web.Request) -> web.Response:
        new = await read_json(request, _NEW, secret=True)
        return json_response(
            await self._buckets.put(
                _url(request), new.access_key_id, new.secret_access_key, new.service_account_key
            )
        )

    async def remove(self, request: web.Request) -> web.Response:
        await self._buckets.remove(_url(request))
        return json_response({})

    async def listing(self, request: web.Request) -> web.StreamResponse:
        """JSON lines, of which the last says how many there were: without it the listing broke off."""
        pages = self._buckets.listing(_url(request), recursive=request.query.get("recursive") == "1")
        return await answers.streamed(request, lines_of(pages), {"Content-Type": LINES}, at_once=True)

    async def object(self, request: web.Request) -> web.StreamResponse:
        url, etag = _url(request), _etag(request)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(await self._buckets.size(url))})
        part: ranges.Range | None = None
        if "Range" in request.headers:
            # What a range asks for depends on how long the object is.
            size = await self._buckets.size(url)
            part = ranges.requested(request.headers["Range"], size)
            if part is None:
                raise _no_such_part(size)
        partial = part is not None and part.partial
        wanted = (part.first, part.first + part.length) if part is not None and partial else None
        found = await self._buckets.open(url, etag, wanted)
        headers = {"Accept-Ranges": "bytes", "Content-Type": answers.BYTES}
        if found.etag:
            headers["ETag"] = found.etag
        if partial:
            headers["Content-Range"] = f"bytes {found.first}-{found.end - 1}/{found.size}"
        return await answers.streamed(
            request, found.pieces, headers, status=206 if partial else 200, length=found.end - found.first
        )


def _url(request: web.Request) -> str:
    url = request.query.get("url")
    if url is None:
        raise InvalidError("bucket_invalid", "url: it is missing", field="url")
    return url


def _etag(request: web.Request) -> str | None:
    etag = request.query.get("etag")
    if etag is not None and not _ETAG.fullmatch(etag):
        raise InvalidError("etag_invalid", f"etag: {shown(etag)} is none", field="etag")
    return etag


def _no_such_part(size: int) -> RefusedError:
    refused = RefusedError("range_not_satisfiable", f"Range: there are {size} bytes", field="Range")
    refused.status = 416
    return refused


async def lines_of(
    pages: AsyncGenerator[list[ObjectEntry], None], quiet_seconds: float = QUIET_SECONDS_MAX
) -> AsyncGenerator[bytes, None]:
    """A listing as lines, with a sign of life when a page takes long."""
    count = 0
    async with aclosing(pages):
        while True:
            waiting = asyncio.ensure_future(anext(pages, None))
            try:
                while not (await asyncio.wait({waiting}, timeout=quiet_seconds))[0]:
                    yield b"\n"
                page = await waiting
            finally:
                waiting.cancel()
            if page is None:
                break
            count += len(page)
            yield b"".join(orjson.dumps(entry.model_dump()) + b"\n" for entry in page)
    yield orjson.dumps(ListingEnd(end=count).model_dump()) + b"\n"
