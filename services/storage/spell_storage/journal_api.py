"""Routes under /journals: append, state, bytes, output, tail."""

import asyncio
from typing import get_args

import orjson
from aiohttp import web

from spell_proto.errors import InvalidError, shown
from spell_proto.http import json_response
from spell_storage import answers
from spell_storage.appender import Appender
from spell_storage.chunks import JournalId, read_parts
from spell_storage.journals import Journals, Stream

#: What one request may bring.
APPEND_BYTES_MAX = 16 << 20
#: Bodies above the first figure are taken a few at a time, so that memory stays bounded.
_LARGE_BYTES = 256 * 1024
_LARGE_AT_ONCE = 8


class JournalRoutes:
    """Handlers of /journals."""

    def __init__(self, journals: Journals, appender: Appender) -> None:
        self._journals = journals
        self._appender = appender
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    def add_to(self, app: web.Application) -> None:
        one = "/journals/{run_id}/{attempt}"
        app.router.add_post("/journals", self.append)
        app.router.add_get(one, self.state)
        app.router.add_get(one + "/bytes", self.bytes)
        app.router.add_get(one + "/output", self.output)
        app.router.add_get(one + "/tail", self.tail)

    async def append(self, request: web.Request) -> web.Response:
        if request.content_length is not None and request.content_length <= _LARGE_BYTES:
            return await self._append(request)
        async with self._large:
            return await self._append(request)

    async def _append(self, request: web.Request) -> web.Response:
        parts = read_parts(await answers.body(request, APPEND_BYTES_MAX))
        states = await self._appender.append(parts)
        ends = [
            {
                "run_id": journal.run_id,
                "attempt": journal.attempt,
                "end": states[journal].end,
                "sealed": states[journal].sealed,
            }
            for journal in parts
        ]
        return web.Response(body=orjson.dumps({"ends": ends}), content_type="application/json")

    async def state(self, request: web.Request) -> web.Response:
        journal = _journal(request)
        state = await self._journals.find(journal)
        return json_response(
            {
                "run_id": journal.run_id,
                "attempt": journal.attempt,
                "end": state.end if state else 0,
                "sealed": state.sealed if state else False,
                "stdout_bytes": state.stdout_bytes if state else 0,
                "stderr_bytes": state.stderr_bytes if state else 0,
            }
        )

    async def bytes(self, request: web.Request) -> web.StreamResponse:
        journal = _journal(request)
        offset = answers.number(request.query.get("offset"), "offset", default=0)
        limit = answers.number(request.query.get("limit"), "limit", default=2**62)
        return await answers.streamed(
            request, self._journals.bytes_from(journal, offset, limit), {"Content-Type": answers.BYTES}
        )

    async def output(self, request: web.Request) -> web.StreamResponse:
        journal = _journal(request)
        stream = _stream(request)
        state = await self._journals.find(journal)
        counts = (state.stdout_bytes, state.stderr_bytes) if state else (0, 0)
        size = {"stdout": counts[0], "stderr": counts[1], "all": sum(counts)}[stream]
        return await answers.range_response(
            request,
            size,
            lambda first, length: self._journals.output(journal, stream, first, length),
        )

    async def tail(self, request: web.Request) -> web.Response:
        lines = answers.number(request.query.get("lines"), "lines", default=10)
        return json_response({"offset": await self._journals.tail(_journal(request), lines)})


def _journal(request: web.Request) -> JournalId:
    return JournalId(
        answers.number(request.match_info["run_id"], "run_id", least=1),
        answers.number(request.match_info["attempt"], "attempt", most=2**31 - 1),
    )


def _stream(request: web.Request) -> Stream:
    given = request.query.get("stream", "all")
    for stream in get_args(Stream):
        if given == stream:
            found: Stream = stream
            return found
    raise InvalidError(
        "stream_invalid", f"stream: {shown(given)}: stdout, stderr or all is allowed", field="stream"
    )
