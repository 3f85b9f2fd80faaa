"""HTTP for environments: list, show, remove, plan, and runs again in the environment they had."""

import re

from aiohttp import web
from pydantic import TypeAdapter

from spell_gateway import asked
from spell_gateway.builder import Builder
from spell_gateway.room import FULL
from spell_gateway.routes import Param, Route
from spell_gateway.runs import Runs, idempotency_key
from spell_gateway.shapes import Collection, RunPlan, User
from spell_proto.environments import EnvironmentDetail, EnvironmentList, FrameworkList, Removed, UseView
from spell_proto.errors import InvalidError, RefusedError, shown
from spell_proto.http import json_response
from spell_proto.spec import RunRequest
from spell_proto.views import RunView

REQUEST = TypeAdapter(RunRequest)
COLLECTION = TypeAdapter(Collection)
NO_RUN = {404: "no such run, or somebody else's"}
NO_ENVIRONMENT = {404: "no such environment", 409: "environment_ambiguous: give more of the key"}
ADMIN = {403: "only administrators may"}
KEY = Param(
    "Idempotency-Key",
    "The same key again gives the same run.",
    {"type": "string", "minLength": 1, "maxLength": 128},
    "header",
)
_KEY = re.compile(r"[0-9a-f]{4,64}", re.ASCII)


class EnvironmentsApi:
    """Answers under /api/environments, and what runs have to do with them."""

    def __init__(self, runs: Runs, builder: Builder) -> None:
        self._runs = runs
        self._builder = builder

    async def listed(self, request: web.Request, user: User) -> web.Response:
        del request, user  # they are shared by everybody
        return json_response(await self._builder.listed())

    async def shown(self, request: web.Request, user: User) -> web.Response:
        del user
        return json_response(await self._builder.detail(_key(request)))

    async def frameworks(self, request: web.Request, user: User) -> web.Response:
        del request, user
        return json_response(await self._builder.frameworks())

    async def remove(self, request: web.Request, user: User) -> web.Response:
        _only_admins(user)
        return json_response(await self._builder.remove(_key(request)))

    async def collect(self, request: web.Request, user: User) -> web.Response:
        _only_admins(user)
        wanted = await asked.body(request, COLLECTION)
        return json_response(await self._builder.collect(everything=wanted.everything))

    async def of_run(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._runs.used_by(user, asked.run_id(request)))

    async def plan(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._runs.plan(user, await asked.body(request, REQUEST)))

    async def again(self, request: web.Request, user: User) -> web.Response:
        key = idempotency_key(request.headers.get("Idempotency-Key"))
        made = await self._runs.again(user, asked.run_id(request), key)
        return json_response(made.run, status=200 if made.replayed else 201)

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("POST", "/api/runs/plan", self.plan, "Say what creating a run would do", "runs", RunPlan, RunRequest, also=FULL),
            Route("POST", "/api/runs/{id}/rerun", self.again, "Make a run that is exactly what another one was", "runs", RunView, None, (KEY,), 201, NO_RUN | FULL | {200: "the run that an earlier request with this key made"}),
            Route("GET", "/api/runs/{id}/environment", self.of_run, "Show the environment of a run", "environments", UseView, also=NO_RUN),
            Route("GET", "/api/frameworks", self.frameworks, "List what a framework may be", "environments", FrameworkList),
            Route("GET", "/api/environments", self.listed, "List environments, the last used first", "environments", EnvironmentList),
            Route("POST", "/api/environments/collect", self.collect, "Remove environments that there is no room for", "environments", Removed, Collection, also=ADMIN),
            Route("GET", "/api/environments/{key}", self.shown, "Show an environment with its lock", "environments", EnvironmentDetail, also=NO_ENVIRONMENT),
            Route("DELETE", "/api/environments/{key}", self.remove, "Remove an environment that no run uses", "environments", Removed, also=NO_ENVIRONMENT | ADMIN),
        ]
        # fmt: on


def _key(request: web.Request) -> str:
    given = request.match_info["key"]
    if not _KEY.fullmatch(given):
        raise InvalidError(
            "environment_key_invalid",
            f"key: {shown(given)} is not the key of an environment: 4 to 64 of the digits 0-9 and a-f",
            field="key",
        )
    return given


def _only_admins(user: User) -> None:
    if not user.admin:
        refused = RefusedError("admin_only", "only an administrator may do this")
        refused.status = 403
        raise refused
