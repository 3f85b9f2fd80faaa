"""HTTP for buckets of others: what is in them, and which private ones have credentials. No answer holds a secret."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, TypeAdapter

from spell_gateway import asked
from spell_gateway.accounts import Accounts
from spell_gateway.auth import only_admins
from spell_gateway.buckets import Buckets
from spell_gateway.outlet import relay
from spell_gateway.resources import disposition
from spell_gateway.routes import ADMIN, BYTES, FLAG, LINES, PARTS, RANGE, Param, Route
from spell_gateway.shapes import User
from spell_proto import resources
from spell_proto.buckets import BucketList, BucketView
from spell_proto.errors import InvalidError, shown
from spell_proto.http import json_response
from spell_proto.resources import InBucket
from spell_proto.shapes import Shape


class BucketGiven(Shape):
    """What a bucket is read with: an access key for s3, the JSON key of a service account for gs. A bucket of s3 without a
    key is read as the role of the cluster. It is tried before it is stored.
    """

    access_key_id: Annotated[str | None, Field(max_length=128)] = None
    secret_access_key: Annotated[str | None, Field(max_length=256)] = None
    service_account_key: Annotated[str | None, Field(max_length=16_384)] = None


GIVEN = TypeAdapter(BucketGiven)
URL = Param("url", "s3://BUCKET[/KEY] or gs://BUCKET[/KEY].", {"type": "string", "maxLength": 4096})
ETAG = Param("etag", "Answer 409 if the object is not this one any more.", {"type": "string"})
RECURSIVE = Param("recursive", "1: all objects below; otherwise one level.", FLAG)
REFUSED = {
    403: "it may not be read",
    404: "no such bucket or object",
    422: "no bucket",
    424: "it does not answer",
}
CHANGED = {409: "it is another object by now"}
LISTED = (
    "One JSON object per line: `key`, `size`, `etag`, `modified_at`; `size` is null where `key` is what longer keys begin "
    "with. The last line is `end`, the number of lines before it: without it the listing broke off. Empty lines mean "
    "nothing."
)


class BucketsApi:
    """Answers about buckets."""

    def __init__(self, accounts: Accounts, buckets: Buckets) -> None:
        self._accounts = accounts
        self._buckets = buckets

    async def all(self, request: web.Request, user: User) -> web.Response:
        del request  # nothing in it matters
        only_admins(user)
        return json_response(await self._buckets.all())

    async def put(self, request: web.Request, user: User) -> web.Response:
        only_admins(user)
        bucket = _bucket(request)
        given = await asked.body(request, GIVEN, secret=True)
        # On record before it happens: what is done is never without its record, whatever breaks in between.
        await self._accounts.note(user, "bucket credentials sent", bucket)
        return json_response(await self._buckets.put(bucket, given))

    async def delete(self, request: web.Request, user: User) -> web.Response:
        only_admins(user)
        bucket = _bucket(request)
        await self._accounts.note(user, "bucket credentials withdrawn", bucket)
        await self._buckets.delete(bucket)
        return web.Response(status=204)

    async def listing(self, request: web.Request, user: User) -> web.StreamResponse:
        del user  # everybody may read what any of them may
        recursive = asked.flag(request, "recursive", default=False)
        async with self._buckets.listing(_named(request).url, recursive=recursive) as found:
            return await relay(request, found, {"Content-Type": LINES})

    async def content(self, request: web.Request, user: User) -> web.StreamResponse:
        del user
        named = _named(request)
        etag = request.query.get("etag")
        part = {"Range": request.headers["Range"]} if "Range" in request.headers else {}
        headers = {
            "Content-Type": BYTES,
            "Content-Disposition": disposition(resources.base_name(named)),
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Cache-Control": "private, no-cache",
        }
        async with self._buckets.object(request.method, named.url, etag, part) as found:
            if "ETag" in found.headers:
                headers["ETag"] = found.headers["ETag"]
            return await relay(request, found, headers)

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("GET", "/api/buckets", self.all, "List the private buckets with stored credentials", "files", BucketList, also=ADMIN),
            Route("GET", "/api/buckets/list", self.listing, "List what is in a bucket", "files", (LINES,), None, (URL, RECURSIVE), also=REFUSED, text=LISTED),
            Route("GET", "/api/buckets/object", self.content, "Get an object of a bucket", "files", (BYTES,), None, (URL, ETAG, RANGE), also=REFUSED | CHANGED | PARTS),
            Route("PUT", "/api/buckets/{scheme}/{bucket}", self.put, "Store credentials for a bucket, if it takes them; they are never shown again", "files", BucketView, BucketGiven, also=ADMIN | {404: "no such bucket"}),
            Route("DELETE", "/api/buckets/{scheme}/{bucket}", self.delete, "Delete the credentials for a bucket", "files", None, status=204, also=ADMIN | {404: "none are stored for it"}),
        ]
        # fmt: on


def _named(request: web.Request) -> InBucket:
    url = request.query.get("url", "")
    found = resources.parse(url, field="url", code="bucket_invalid")
    if not isinstance(found, InBucket):
        raise InvalidError(
            "bucket_invalid", f"url: {shown(url)} names no bucket, as s3://team-data does", field="url"
        )
    return found


def _bucket(request: web.Request) -> str:
    scheme, bucket = request.match_info["scheme"], request.match_info["bucket"]
    found = resources.parse(f"{scheme}://{bucket}", field="bucket", code="bucket_invalid")
    assert isinstance(found, InBucket), "nothing else has a scheme"
    if found.key:
        raise InvalidError("bucket_invalid", f"bucket: {shown(bucket)} is in a bucket", field="bucket")
    return found.url
