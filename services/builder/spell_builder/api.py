"""The builder's HTTP API, as the other services call it."""

import contextlib
from collections.abc import Mapping

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from spell_builder.builder import Builder
from spell_builder.errors import BuildFailedError
from spell_builder.flight import Flight, GivenUpError, Ready
from spell_builder.frameworks import Frameworks
from spell_builder.inventory import Inventory
from spell_builder.stored_api import StoredRoutes, told
from spell_proto import http, logs, service
from spell_proto.engines import LOCAL, Engine
from spell_proto.environments import UseAsked
from spell_proto.errors import NotFoundError, shown
from spell_proto.shapes import Shape
from spell_proto.spec import EnvironmentRequest
from spell_proto.views import Health

log = logs.get()


class EnsureRequest(Shape):
    """The body of `POST /environments/ensure`."""

    run_id: int
    environment: EnvironmentRequest
    engine: Engine = LOCAL


_ENSURE: TypeAdapter[EnsureRequest] = TypeAdapter(EnsureRequest)
_ENVIRONMENT: TypeAdapter[EnvironmentRequest] = TypeAdapter(EnvironmentRequest)
_USE: TypeAdapter[UseAsked] = TypeAdapter(UseAsked)


def application(
    builders: Mapping[Engine, Builder],
    inventory: Inventory,
    frameworks: Frameworks,
    *more: StoredRoutes,
) -> web.Application:
    """The application, ready to be served."""
    handlers = _Handlers(builders, inventory, frameworks)
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
    for routes in more:
        routes.add_to(app)
    return app


class _Handlers:
    def __init__(
        self,
        builders: Mapping[Engine, Builder],
        inventory: Inventory,
        frameworks: Frameworks,
    ) -> None:
        self._frameworks = frameworks
        self._builders = builders
        self._inventory = inventory

    async def health(self, _request: web.Request) -> web.StreamResponse:
        return http.json_response(Health(service="builder", version=service.version(), ok=True))

    async def resolved(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        builder = self._asked(request)
        ready = await builder.known(digest)
        if ready is None:
            raise NotFoundError("environment_unknown", f"no environment is ready for {shown(digest)}")
        run_id = request.query.get("run_id")
        if run_id is not None and not await self._noted(builder, int(run_id), ready, digest):
            raise NotFoundError("environment_unknown", "it was removed just now")
        on_its_way = _on_its_way(builder, ready.key)
        return http.json_response({"key": ready.key, "path": ready.path, **on_its_way})

    def _asked(self, request: web.Request) -> Builder:
        """The builder for the engine that a question is about."""
        engine = request.query.get("engine", LOCAL)
        found = next((builder for name, builder in self._builders.items() if name == engine), None)
        if found is None:
            raise NotFoundError("engine_unknown", f"environments are not made for the engine {shown(engine)}")
        return found

    async def _noted(self, builder: Builder, run_id: int, ready: Ready, digest: str) -> bool:
        """Note a use. False where the environment was removed while that was done: the caller has to ask again."""
        await self._inventory.used(run_id, ready.key, builder.digest(digest), reused=ready.cached)
        return builder.there(ready.key)

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
        return http.json_response(
            await self._asked(request).plan(await http.read_json(request, _ENVIRONMENT))
        )

    async def verify(self, request: web.Request) -> web.StreamResponse:
        asked = request.query.get("request")
        if asked is None:
            return http.json_response(await self._inventory.verify(None))
        keys = [await builder.became(asked) for builder in self._builders.values()]
        return http.json_response(await self._inventory.verify(next(filter(None, keys), "")))

    async def check(self, request: web.Request) -> web.StreamResponse:
        """Whether this builder can try to make an environment: a refusal names the part that it cannot."""
        return http.json_response(
            await self._asked(request).check(await http.read_json(request, _ENVIRONMENT))
        )

    async def frameworks(self, _request: web.Request) -> web.StreamResponse:
        return http.json_response(self._frameworks.listed())

    async def ensure(self, request: web.Request) -> web.StreamResponse:
        """Stream the lines of the build, then its outcome. A stream without outcome means: ask again."""
        asked = await http.read_json(request, _ENSURE)
        builder = self._builders[asked.engine]
        flight = builder.ensure(asked.environment)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        # The caller may go at any time: then this handler is cancelled, and nobody waits here any more.
        with flight.awaited(), contextlib.suppress(ConnectionError):
            await response.prepare(request)
            try:
                async for part in told(flight):
                    await response.write(part)
                await response.write(await self._outcome(builder, flight, asked))
                await response.write_eof()
            except GivenUpError as error:
                log.info("an environment is not made now", run_id=asked.run_id, problem=str(error))
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _outcome(self, builder: Builder, flight: Flight, asked: EnsureRequest) -> bytes:
        try:
            ready = flight.outcome()
        except BuildFailedError as error:
            return orjson.dumps({"failed": {"message": str(error)}}) + b"\n"
        # Directories for nothing are always kept; images are not.
        noted = asked.engine != LOCAL or not asked.environment.bare
        if noted and not await self._noted(builder, asked.run_id, ready, asked.environment.digest()):
            raise GivenUpError("it was removed just now")
        outcome = {
            "key": ready.key,
            "path": ready.path,
            "cached": ready.cached,
            **_on_its_way(builder, ready.key),
        }
        return orjson.dumps({"ready": outcome}) + b"\n"


def _on_its_way(builder: Builder, key: str) -> dict[str, bool]:
    """That an environment is yet to be stored for other machines, where it is. The run waits for that in the end."""
    return {"pushing": True} if builder.pushing(key) else {}
