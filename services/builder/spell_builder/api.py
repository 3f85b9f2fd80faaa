"""The builder's HTTP API, as the other services call it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from spell_builder.builder import Builder
from spell_builder.errors import BuildFailedError
from spell_builder.flight import Flight, GivenUpError, Ready
from spell_builder.frameworks import Frameworks
from spell_builder.inventory import Inventory
from spell_proto import http, logs, service
from spell_proto.environments import UseAsked
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
_USE: TypeAdapter[UseAsked] = TypeAdapter(UseAsked)


def application(builder: Builder, inventory: Inventory, frameworks: Frameworks) -> web.Application:
    """The application, ready to be served."""
    handlers = _Handlers(builder, inventory, frameworks)
    app = web.Application(middlewares=[http.errors_to_answers])
    app.add_routes(
        [
            web.get("/health", handlers.health),
            web.post("/environments/check", handlers.check),
            web.post("/environments/ensure", handlers.ensure),
            web.get("/environments/resolved/{digest}", handlers.resolved),
            web.post("/environments/plan", handlers.plan),
            web.post("/environments/use", handlers.use),
            web.post("/environments/collect", handlers.collect),
            web.get("/environments", handlers.listed),
            web.get("/environments/{key:[0-9a-f]{4,64}}", handlers.detail),
            web.delete("/environments/{key:[0-9a-f]{4,64}}", handlers.remove),
            web.get("/frameworks", handlers.frameworks),
            web.get("/verify", handlers.verify),
        ]
    )
    return app


class _Handlers:
    def __init__(self, builder: Builder, inventory: Inventory, frameworks: Frameworks) -> None:
        self._frameworks = frameworks
        self._builder = builder
        self._inventory = inventory

    async def health(self, _request: web.Request) -> web.StreamResponse:
        return http.json_response(Health(service="builder", version=service.version(), ok=True))

    async def resolved(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        ready = await self._builder.known(digest)
        if ready is None:
            raise NotFoundError("environment_unknown", f"no environment is ready for {shown(digest)}")
        run_id = request.query.get("run_id")
        if run_id is not None and not await self._noted(int(run_id), ready, digest):
            raise NotFoundError("environment_unknown", "it was removed just now")
        return http.json_response({"key": ready.key, "path": ready.path})

    async def _noted(self, run_id: int, ready: Ready, digest: str) -> bool:
        """Note a use. False where the environment was removed while that was done: the caller has to ask again."""
        await self._inventory.used(run_id, ready.key, digest, reused=ready.cached)
        return self._builder.there(ready.key)

    async def listed(self, _request: web.Request) -> web.StreamResponse:
        return http.json_response(await self._inventory.listed())

    async def detail(self, request: web.Request) -> web.StreamResponse:
        return http.json_response(await self._inventory.detail(request.match_info["key"]))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        return http.json_response(await self._inventory.remove(request.match_info["key"]))

    async def collect(self, request: web.Request) -> web.StreamResponse:
        everything = request.query.get("everything") == "1"
        return http.json_response(await self._inventory.collect(everything=everything))

    async def use(self, request: web.Request) -> web.StreamResponse:
        return http.json_response(await self._inventory.use(await http.read_json(request, _USE)))

    async def plan(self, request: web.Request) -> web.StreamResponse:
        return http.json_response(await self._builder.plan(await http.read_json(request, _ENVIRONMENT)))

    async def verify(self, request: web.Request) -> web.StreamResponse:
        return http.json_response(await self._builder.verify(request.query.get("request")))

    async def check(self, request: web.Request) -> web.StreamResponse:
        """Whether this builder can try to make an environment: a refusal names the part that it cannot."""
        return http.json_response(await self._builder.check(await http.read_json(request, _ENVIRONMENT)))

    async def frameworks(self, _request: web.Request) -> web.StreamResponse:
        return http.json_response(self._frameworks.listed())

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
                await response.write(await self._outcome(flight, asked))
                await response.write_eof()
            except GivenUpError as error:
                log.info("an environment is not made now", run_id=asked.run_id, problem=str(error))
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _outcome(self, flight: Flight, asked: EnsureRequest) -> bytes:
        try:
            ready = flight.outcome()
        except BuildFailedError as error:
            return orjson.dumps({"failed": {"message": str(error)}}) + b"\n"
        if not asked.environment.bare and not await self._noted(
            asked.run_id, ready, asked.environment.digest()
        ):
            raise GivenUpError("it was removed just now")
        outcome = {"key": ready.key, "path": ready.path, "cached": ready.cached}
        return orjson.dumps({"ready": outcome}) + b"\n"


async def _told(flight: Flight) -> AsyncIterator[bytes]:
    seen = 0
    while not flight.over or seen < len(flight.lines):
        lines = await flight.more(seen, KEEP_ALIVE_SECONDS)
        seen += len(lines)
        members: list[dict[str, Any]] = [{"line": line.text, "level": line.level} for line in lines]
        if members or not flight.over:
            yield b"".join(orjson.dumps(member) + b"\n" for member in members or [{}])
