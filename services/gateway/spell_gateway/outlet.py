"""Long answers: bytes to a client that may be slow, gone, or stuck (shell)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from spell_proto import logs
from spell_proto.errors import RefusedError, SpellError
from spell_proto.http import refusal_response

log = logs.get()

#: A client that takes nothing for so long is cut off; it may come back and go on where it was.
STALLED_SECONDS_MAX = 300.0
#: A service that sends nothing for so long in the middle of an answer has hung.
SILENT_SECONDS_MAX = 30.0
#: Small records that follow each other are sent together up to this size: a write costs more than a record.
GATHERED_BYTES_MAX = 64 * 1024
PASSED_ON = ("Content-Length", "Content-Range", "Accept-Ranges")


class ClientLeftError(SpellError):
    """Whoever asked is gone."""


class Outlet:
    """Where the bytes of an answer go."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._gathered: list[bytes] = []
        self._size = 0

    async def gather(self, data: bytes) -> None:
        """Send bytes together with what comes right after them: at the next `flush`, or when they are many."""
        self._gathered.append(data)
        self._size += len(data)
        if self._size >= GATHERED_BYTES_MAX:
            await self.flush()

    async def flush(self) -> None:
        """Send what was gathered."""
        if self._gathered:
            await self.write(self._take())

    def _take(self) -> bytes:
        data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
        self._gathered, self._size = [], 0
        return data

    async def end(self) -> None:
        """The answer is complete."""
        await self._response.write_eof(self._take() if self._gathered else b"")

    async def write(self, data: bytes) -> None:
        """Send bytes now; wait while the client has enough to read.

        Raises:
            ClientLeftError: there is nobody to send to.
        """
        try:
            async with asyncio.timeout(STALLED_SECONDS_MAX):
                await self._response.write(data)
        except (ConnectionError, TimeoutError) as error:
            raise ClientLeftError from error

    def cut(self) -> None:
        """Drop the connection: what was promised cannot be kept, and the client must be able to tell."""
        if self._request.transport is not None:
            self._request.transport.abort()


@asynccontextmanager
async def outlet(request: web.Request, response: web.StreamResponse) -> AsyncIterator[Outlet]:
    """Begin an answer. From here on nothing else can be said, so an error cuts the connection."""
    await response.prepare(request)
    out = Outlet(request, response)
    try:
        yield out
        await out.end()
    except (ClientLeftError, ConnectionError):
        out.cut()
    except (RefusedError, aiohttp.ClientError, TimeoutError) as error:
        log.warning("an answer broke off", path=request.path, problem=repr(error))
        out.cut()
    except Exception:
        log.exception("an answer broke off", path=request.path)
        out.cut()


async def relay(
    request: web.Request, upstream: aiohttp.ClientResponse, headers: dict[str, str]
) -> web.StreamResponse:
    """Hand on the bytes of another service, with their range."""
    passed = {name: upstream.headers[name] for name in PASSED_ON if name in upstream.headers}
    response = web.StreamResponse(status=upstream.status, headers={**passed, **headers})
    async with outlet(request, response) as out:
        if request.method != "HEAD":
            async for chunk in chunks(upstream):
                await out.write(chunk)
    return response


def no_such_part(size: int) -> web.Response:
    """The answer to a range outside of what there is."""
    refused = RefusedError("range_not_satisfiable", f"Range: there are {size} bytes", field="Range")
    refused.status = 416
    answer = refusal_response(refused)
    answer.headers["Content-Range"] = f"bytes */{size}"
    return answer


async def chunks(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body of an answer as it comes. Raises TimeoutError when nothing comes any more."""
    while True:
        async with asyncio.timeout(SILENT_SECONDS_MAX):
            chunk = await upstream.content.readany()
        if not chunk:
            return
        yield chunk
