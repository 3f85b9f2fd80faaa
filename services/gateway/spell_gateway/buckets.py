"""Buckets of others as the gateway sees them: typed calls to storage, which alone knows what they are read with (shell)."""

from contextlib import AbstractAsyncContextManager

import aiohttp
from pydantic import TypeAdapter

from spell_proto.buckets import BucketList, BucketView
from spell_proto.http import Caller
from spell_proto.shapes import Shape

BUCKET = TypeAdapter(BucketView)
BUCKETS = TypeAdapter(BucketList)
NOTHING: TypeAdapter[dict[str, None]] = TypeAdapter(dict[str, None])
#: Credentials are tried before they are stored.
TRIED_SECONDS_MAX = 60.0

Response = AbstractAsyncContextManager[aiohttp.ClientResponse]


class Buckets:
    """What storage knows of buckets."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def all(self) -> BucketList:
        return await self._caller.call("GET", "/buckets", BUCKETS)

    async def put(self, url: str, given: Shape) -> BucketView:
        return await self._caller.call(
            "PUT", "/buckets", BUCKET, params={"url": url}, body=given, seconds=TRIED_SECONDS_MAX
        )

    async def delete(self, url: str) -> None:
        await self._caller.call("DELETE", "/buckets", NOTHING, params={"url": url})

    def listing(self, url: str, *, recursive: bool) -> Response:
        """JSON lines of what is there, the last of which says how many there were."""
        params = {"url": url, "recursive": int(recursive)}
        return self._caller.open("GET", "/buckets/list", params=params, stream=True)

    def object(self, method: str, url: str, etag: str | None, headers: dict[str, str]) -> Response:
        params = {"url": url, "etag": etag}
        return self._caller.open(method, "/buckets/object", params=params, headers=headers, stream=True)
