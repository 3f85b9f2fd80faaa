"""The builder's HTTP API, as the other services call it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from spell_builder.builder import Builder
from spell_builder.errors import BuildFailedError
from spell_builder.flight import Flight, GivenUpError
from spell_proto import http, logs, service
from spell_proto.errors import NotFoundError, shown
from spell_proto.spec import EnvironmentRequest, Shape
from spell_proto.views import Health

log = logs.get()

KEEP_ALIVE_SECONDS = 10.0


class EnsureRequest(Shape):
    """The body of `POST /environments/ensure`."""

    run_id: int
    environment: EnvironmentRequest


_ENSURE: TypeAdapter[EnsureRequest] = TypeAdapter(EnsureRequest)
_ENVIRONMENT: TypeAdapter[EnvironmentRequest] = TypeAdapter(EnvironmentRequest)


def application(builder: Builder) -> web.Application:
    """The application, ready to be served."""
    handlers = _Handlers(builder)
    app = web.Application(middlewares=[http.errors_to_answers])
    app.add_routes(
        [
            web.get("/health", handlers.health),
            web.post("/environments/check", handlers.check),
            web.post("/environments/ensure", handlers.ensure),
            web.get("/environments/resolved/{digest}", handlers.resolved),
            web.get("/verify", handlers.verify),
        ]
    )
    return app


class _Handlers:
    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    async def health(self, _request: web.Request) -> web.StreamResponse:
        return http.json_response(Health(service="builder", version=service.version(), ok=True))

    async def resolved(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        ready = await self._builder.known(digest)
        if ready is None:
            raise NotFoundError("environment_unknown", f"no environment is ready for {shown(digest)}")
        return http.json_response({"key": ready.key, "path": ready.path})

    async def verify(self, request: web.Request) -> web.StreamResponse:
        return http.json_response(await self._builder.verify(request.query.get("request")))

    async def check(self, request: web.Request) -> web.StreamResponse:
        """Whether this builder can try to make an environment: a refusal names the part that it cannot."""
        await self._builder.check(await http.read_json(request, _ENVIRONMENT))
        return http.json_response({})

    async def ensure(self, request: web.Request) -> web.StreamResponse:
        """Stream the lines of the build, then its outcome. A stream without outcome means: ask again."""
        asked = await http.read_json(request, _ENSURE)
        flight = self._builder.ensure(asked.environment)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        # The caller may go at any time: then this handler is cancelled, and nobody waits here any more.
        with flight.awaited(), contextlib.suppress(ConnectionError):
            await response.prepare(request)
            try:
                async for part in _told(flight):
                    await response.write(part)
                await response.write_eof()
            except GivenUpError as error:
                log.info("an environment is not made now", run_id=asked.run_id, problem=str(error))
                if request.transport is not None:
                    request.transport.abort()
        return response


async def _told(flight: Flight) -> AsyncIterator[bytes]:
    seen = 0
    while not flight.over or seen < len(flight.lines):
        lines = await flight.more(seen, KEEP_ALIVE_SECONDS)
        seen += len(lines)
        members: list[dict[str, Any]] = [{"line": line.text, "level": line.level} for line in lines]
        if members or not flight.over:
            yield b"".join(orjson.dumps(member) + b"\n" for member in members or [{}])
    try:
        ready = flight.outcome()
    except BuildFailedError as error:
        yield orjson.dumps({"failed": {"message": str(error)}}) + b"\n"
    else:
        outcome = {"key": ready.key, "path": ready.path, "cached": ready.cached}
        yield orjson.dumps({"ready": outcome}) + b"\n"
