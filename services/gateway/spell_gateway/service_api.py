"""HTTP about the service itself: health, status, verdicts, descriptions."""

from aiohttp import web

from spell_gateway import asked
from spell_gateway.health import Doctor
from spell_gateway.routes import JSON, WHOLE, Param, Route
from spell_gateway.shapes import StatusView, User
from spell_proto.http import json_response
from spell_proto.views import Health, Verdict


class ServiceApi:
    """Answers about the service. `documents` are bodies by path, each a description in JSON."""

    def __init__(self, doctor: Doctor, documents: dict[str, bytes]) -> None:
        self._doctor = doctor
        self._documents = documents

    async def health(self, request: web.Request) -> web.Response:
        del request  # nothing in it matters
        return json_response(self._doctor.own_health())

    async def document(self, request: web.Request) -> web.Response:
        return web.Response(body=self._documents[request.path], content_type=JSON)

    async def status(self, request: web.Request, user: User) -> web.Response:
        del request
        return json_response(await self._doctor.status(user))

    async def verify(self, request: web.Request, user: User) -> web.Response:
        run_id = asked.optional_number(request, "run_id")
        return json_response(await self._doctor.verify(user, run_id))

    def routes(self) -> list[Route]:
        run = Param("run_id", "Only this run; else all of yours, the newest 1000 with their bytes.", WHOLE)
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("GET", "/api/health", None, "Say whether the gateway works", "service", Health, open_handler=self.health),
            Route("GET", "/api/openapi.json", None, "Get this document", "service", (JSON,), open_handler=self.document),
            Route("GET", "/api/asyncapi.json", None, "Get the description of all messages", "service", (JSON,), open_handler=self.document),
            Route("GET", "/api/status", self.status, "Show limits, counts and services", "service", StatusView),
            Route("GET", "/api/verify", self.verify, "Check what must always hold", "service", Verdict, None, (run,), also={404: "no such run"}),
        ]
        # fmt: on
