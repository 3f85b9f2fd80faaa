"""What the routes have in common: numbers out of paths and queries, bodies with a bound, byte ranges as answers."""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from aiohttp import web

from spell_proto.errors import InvalidError, RefusedError, shown
from spell_proto.git import PLATFORM
from spell_storage import ranges

#: An answer on its way. It is closed when the client goes away, and with it the file or process behind it.
Pieces = AsyncGenerator[bytes, None]
BYTES = "application/octet-stream"
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
#: Pieces are gathered up to this before they are written to a socket.
_WRITE_BYTES_MIN = 256 * 1024


def number(
    text: str | None, name: str, *, least: int = 0, most: int = 2**53, default: int | None = None
) -> int:
    """A whole number of a path or query.

    Raises:
        InvalidError: it is missing without a default, is no number, or is out of range.
    """
    if text is None and default is not None:
        return default
    if text is None or not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidError(
            "number_invalid", f"{name}: {shown(text)} is no whole number from {least} to {most}", field=name
        )
    return int(text)


def owner(request: web.Request) -> int:
    """Whose things a request is about: a user's, or the platform's own."""
    given = request.match_info.get("owner_id") or request.query.get("owner_id")
    return number(given, "owner_id", least=PLATFORM)


def sha256(text: str | None, name: str) -> str:
    """A SHA-256 in hex."""
    if text is None or not _SHA256.fullmatch(text):
        raise InvalidError("sha256_invalid", f"{name}: {shown(text)} is not 64 hex digits", field=name)
    return text


async def body(request: web.Request, bytes_max: int) -> bytes:
    """The body of a request.

    Raises:
        RefusedError: 413, it is longer than `bytes_max`.
    """
    if request.content_length is None or request.content_length <= bytes_max:
        data = await request.read()
        if len(data) <= bytes_max:
            return data
    refused = RefusedError("body_too_large", f"body: at most {bytes_max} bytes are allowed")
    refused.status = 413
    raise refused


async def range_response(
    request: web.Request,
    size: int,
    pieces: Callable[[int, int], Pieces],
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    """Answer with the bytes the request asks for: 200, 206 or 416. `pieces(first, length)` yields exactly those."""
    sent = {"Accept-Ranges": "bytes", "Content-Type": BYTES, **(headers or {})}
    wanted = request.headers.get("Range")
    if "If-Range" in request.headers and request.headers["If-Range"] != sent.get("ETag"):
        wanted = None
    part = ranges.requested(wanted, size)
    if part is None:
        sent["Content-Range"] = f"bytes */{size}"
        return web.Response(status=416, headers=sent)
    if part.partial:
        sent["Content-Range"] = part.content_range(size)
    status = 206 if part.partial else 200
    if request.method == "HEAD":
        response = web.StreamResponse(status=status, headers=sent)
        response.content_length = part.length
        await response.prepare(request)
        return response
    return await streamed(request, pieces(part.first, part.length), sent, status=status, length=part.length)


async def streamed(
    request: web.Request,
    pieces: Pieces,
    headers: dict[str, str],
    *,
    status: int = 200,
    length: int | None = None,
    at_once: bool = False,
) -> web.StreamResponse:
    """Answer with pieces as they come; in one go when they are few, unless each is wanted `at_once`. When something goes wrong on the way the
    connection breaks: no short answer ever looks like a whole one.
    """
    response: web.StreamResponse | None = None
    gathered: list[bytes] = []
    size = sent = 0
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                gathered.append(piece)
                size += len(piece)
                if size - sent < _WRITE_BYTES_MIN and not at_once:
                    continue
                if response is None:
                    response = web.StreamResponse(status=status, headers=headers)
                    response.content_length = length
                    await response.prepare(request)
                await response.write(b"".join(gathered))
                gathered, sent = [], size
        if length is not None and size != length:
            raise RuntimeError(f"{length} bytes were promised and {size} were there")  # noqa: TRY301 -- breaks the connection below
        if response is None:
            return web.Response(status=status, headers=headers, body=b"".join(gathered))
        await response.write_eof(b"".join(gathered))
    except Exception:
        if response is not None and request.transport is not None:
            request.transport.abort()
        raise
    return response
