"""Buckets of others as the gateway sees them: typed calls to storage, which alone knows what they are read with (shell)."""

import asyncio
from contextlib import AbstractAsyncContextManager

import aiohttp
from pydantic import TypeAdapter

from spell_proto import logs
from spell_proto.buckets import BucketList, BucketView
from spell_proto.errors import NotFoundError, RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.shapes import Shape

log = logs.get()

BUCKET = TypeAdapter(BucketView)
BUCKETS = TypeAdapter(BucketList)
NOTHING: TypeAdapter[dict[str, None]] = TypeAdapter(dict[str, None])
#: Credentials are tried before they are stored.
TRIED_SECONDS_MAX = 60.0
#: What does not show at once will show when it is mounted.
GLANCE_SECONDS_MAX = 3.0
NOTHING_LISTED = b'{"end":0}\n'

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

    async def glance(self, url: str) -> None:
        """See that there is something at a URL, as far as that shows at once.

        Raises:
            RefusedError: there is nothing, or it may not be read.
        """
        try:
            async with asyncio.timeout(GLANCE_SECONDS_MAX), self.listing(url, recursive=False) as found:
                async for line in found.content:
                    if line == NOTHING_LISTED:
                        raise NotFoundError("bucket_empty", "there is nothing in it")
                    if line.strip():
                        return
        except (UnavailableError, aiohttp.ClientError, TimeoutError) as error:
            log.info("a bucket could not be looked at", bucket=url, problem=repr(error))
        except RefusedError as error:
            if error.code != "bucket_unreachable":
                raise
            log.info("a bucket does not answer", bucket=url)

    def listing(self, url: str, *, recursive: bool) -> Response:
        """JSON lines of what is there, the last of which says how many there were."""
        params = {"url": url, "recursive": int(recursive)}
        return self._caller.open("GET", "/buckets/list", params=params, stream=True)

    def object(self, method: str, url: str, etag: str | None, headers: dict[str, str]) -> Response:
        params = {"url": url, "etag": etag}
        return self._caller.open(method, "/buckets/object", params=params, headers=headers, stream=True)
