"""HTTP for runs: create, list, show, end, label, log."""

from aiohttp import web
from pydantic import TypeAdapter

from spell_gateway import asked
from spell_gateway.outlet import no_such_part, relay
from spell_gateway.room import FULL
from spell_gateway.routes import BYTES, PARTS, RANGE, WHOLE, Param, Route
from spell_gateway.runs import Runs, idempotency_key
from spell_gateway.scheduler import Ending, Scheduler
from spell_gateway.shapes import Batch, BatchOutcome, User
from spell_gateway.storage import Storage
from spell_proto import checks
from spell_proto.errors import RefusedError
from spell_proto.http import json_response
from spell_proto.spec import RunRequest
from spell_proto.views import (
    ArchiveOutcome,
    EndOutcome,
    MachineTypeList,
    RunList,
    RunView,
    SaveOutcome,
    TransitionList,
)

REQUEST = TypeAdapter(RunRequest)
BATCH = TypeAdapter(Batch)
NO_RUN = {404: "no such run, or somebody else's"}
CLASHES = {
    200: "the run that an earlier request with this key made",
    404: "resource_not_found: what is to be mounted is not there, or somebody else's",
    409: "commit_unknown: push it first; idempotency_conflict: the key was used for another request; "
    "resource_not_ready: what is to be mounted is yet to be saved",
    **FULL,
}
PAGE = (
    Param("limit", "How many at most, 1 to 1000.", {"type": "integer", "default": 50}),
    Param(
        "label", "Only runs with this label; repeated: with any of them.", {"type": "string"}, repeated=True
    ),
    Param("repository", "Only runs of the repository of this name.", {"type": "string"}),
    Param("before", "Only runs with a smaller id: the way to the next page.", WHOLE),
)
KEY = Param(
    "Idempotency-Key",
    "The same key and body again give the same run.",
    {"type": "string", "minLength": 1, "maxLength": 128},
    "header",
)
STREAM = Param(
    "stream", "Which output.", {"type": "string", "enum": ["all", "stdout", "stderr"], "default": "all"}
)


class RunsApi:
    """Answers under /api/runs."""

    def __init__(self, runs: Runs, scheduler: Scheduler, storage: Storage) -> None:
        self._runs = runs
        self._scheduler = scheduler
        self._storage = storage

    async def create(self, request: web.Request, user: User) -> web.Response:
        key = idempotency_key(request.headers.get("Idempotency-Key"))
        made = await self._runs.create(user, await asked.body(request, REQUEST), key)
        return json_response(made.run, status=200 if made.replayed else 201)

    async def listed(self, request: web.Request, user: User) -> web.Response:
        limit = asked.limit(request, 50)
        found = await self._scheduler.runs(
            user.id,
            limit=limit,
            labels=checks.labels(asked.texts(request, "label", checks.LABEL_COUNT_MAX)),
            repository=asked.optional_text(request, "repository", checks.REPOSITORY_CHARS_MAX),
            before=asked.optional_number(request, "before"),
        )
        response = json_response(found)
        response.headers.update(asked.limit_note(request, limit))
        return response

    async def shown(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._scheduler.run(user.id, asked.run_id(request)))

    async def transitions(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._scheduler.transitions(user.id, asked.run_id(request)))

    async def stop(self, request: web.Request, user: User) -> web.Response:
        return await self._end(request, user, "stop")

    async def kill(self, request: web.Request, user: User) -> web.Response:
        return await self._end(request, user, "kill")

    async def _end(self, request: web.Request, user: User, ending: Ending) -> web.Response:
        return json_response(await self._scheduler.end(user.id, asked.run_id(request), ending))

    async def save(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._scheduler.save(user.id, asked.run_id(request)))

    async def stop_all(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._runs.end_all(user, await asked.body(request, BATCH), "stop"))

    async def kill_all(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._runs.end_all(user, await asked.body(request, BATCH), "kill"))

    async def archive(self, request: web.Request, user: User) -> web.Response:
        asked_for = (await asked.body(request, BATCH)).run_ids
        return json_response(await self._scheduler.archive(user.id, asked_for))

    async def add_label(self, request: web.Request, user: User) -> web.Response:
        label = checks.label(request.match_info["label"])
        return json_response(await self._scheduler.label("PUT", user.id, asked.run_id(request), label))

    async def remove_label(self, request: web.Request, user: User) -> web.Response:
        label = checks.label(request.match_info["label"])
        return json_response(await self._scheduler.label("DELETE", user.id, asked.run_id(request), label))

    async def machine_types(self, request: web.Request, user: User) -> web.Response:
        del request, user  # the list is the same for everybody
        return json_response(await self._runs.machine_types())

    async def log(self, request: web.Request, user: User) -> web.StreamResponse:
        stream = asked.choice(request, "stream", ("all", "stdout", "stderr"))
        run = await self._scheduler.run(user.id, asked.run_id(request))
        # A run that never came to a machine has no journal; storage answers for the empty one.
        headers = {"Range": request.headers["Range"]} if "Range" in request.headers else {}
        kind = {"Content-Type": BYTES, "X-Content-Type-Options": "nosniff"}
        try:
            async with self._storage.output(request.method, run.id, run.attempt, stream, headers) as found:
                return await relay(request, found, kind)
        except RefusedError as error:
            if error.status != 416:
                raise
            return no_such_part(await self._storage.output_bytes(run.id, run.attempt, stream))

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("POST", "/api/runs", self.create, "Create a run", "runs", RunView, RunRequest, (KEY,), 201, CLASHES),
            Route("GET", "/api/runs", self.listed, "List runs, newest first", "runs", RunList, None, PAGE),
            Route("POST", "/api/runs/stop", self.stop_all, "Stop several runs", "runs", BatchOutcome, Batch),
            Route("POST", "/api/runs/kill", self.kill_all, "Kill several runs", "runs", BatchOutcome, Batch),
            Route("POST", "/api/runs/archive", self.archive, "Archive runs that have ended: their files may go", "runs", ArchiveOutcome, Batch),
            Route("GET", "/api/runs/{id}", self.shown, "Show a run", "runs", RunView, also=NO_RUN),
            Route("GET", "/api/runs/{id}/transitions", self.transitions, "Show how a run moved", "runs", TransitionList, also=NO_RUN),
            Route("POST", "/api/runs/{id}/stop", self.stop, "Stop a run and keep its files", "runs", EndOutcome, also=NO_RUN),
            Route("POST", "/api/runs/{id}/kill", self.kill, "Kill a run", "runs", EndOutcome, also=NO_RUN),
            Route("POST", "/api/runs/{id}/save", self.save, "Save what a run has made so far", "runs", SaveOutcome, also=NO_RUN | {409: "run_not_running"}),
            Route("PUT", "/api/runs/{id}/labels/{label}", self.add_label, "Label a run", "runs", RunView, also=NO_RUN),
            Route("DELETE", "/api/runs/{id}/labels/{label}", self.remove_label, "Take a label off a run", "runs", RunView, also=NO_RUN),
            Route("GET", "/api/runs/{id}/log", self.log, "Get the output of a run", "logs", (BYTES,), None, (STREAM, RANGE), also=NO_RUN | PARTS),
            Route("GET", "/api/machine-types", self.machine_types, "List machine types", "service", MachineTypeList),
        ]
        # fmt: on
