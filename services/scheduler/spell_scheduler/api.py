"""The scheduler's internal HTTP: questions and creations of the other services, answered after commit."""

from typing import Any, Literal

from aiohttp import web
from pydantic import TypeAdapter

from spell_proto import checks, http, service
from spell_proto.bus import Bus
from spell_proto.environments import RunsAsked
from spell_proto.errors import (
    ConflictError,
    GoneError,
    InvalidError,
    NotFoundError,
    RefusedError,
    SettingsError,
    UnavailableError,
    shown,
)
from spell_proto.scrubbing import ManifestNames
from spell_proto.spec import AttemptSpec
from spell_proto.state import FINAL, Intent, Reason, RunState
from spell_proto.views import (
    ArchiveOutcome,
    CommitsAsked,
    CommitsInUse,
    EndOutcome,
    Health,
    MachineTypeList,
    MachineTypeView,
    ManifestsAsked,
    ManifestsInUse,
    OwnerSummary,
    QueueReason,
    RunList,
    RunView,
    SaveOutcome,
    TransitionList,
)
from spell_scheduler import runs, verify
from spell_scheduler.creation import Creation, Made, NewRun, conflict
from spell_scheduler.lifecycle import EndAsked, SaveAsked, may_save
from spell_scheduler.runs import SQL
from spell_scheduler.store import Store

NEW_RUN = TypeAdapter(NewRun)
MADE = TypeAdapter(Made)
COMMITS_ASKED = TypeAdapter(CommitsAsked)
MANIFESTS_ASKED = TypeAdapter(ManifestsAsked)
RUNS_ASKED = TypeAdapter(RunsAsked)
FIRST_CURSOR = "0-0-0"
PAGE_MAX = 1000


class Api:
    """The routes. Every answer about runs is limited to one owner."""

    def __init__(self, store: Store, creation: Creation, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._creation = creation
        self._machine_types = _machine_types(store.settings.machine_types)

    def routes(self) -> list[web.RouteDef]:
        run = "/runs/{run_id:[0-9]+}"
        return [
            web.get("/health", self.health),
            web.post("/runs", self.create),
            web.post("/runs/made", self.made),
            web.get("/runs", self.list_runs),
            web.get(run, self.get_run),
            web.get(run + "/spec", self.run_spec),
            web.get(run + "/transitions", self.run_log),
            web.post(run + "/{verb:stop|kill}", self.end_run),
            web.post("/runs/archive", self.archive),
            web.post(run + "/save", self.save_run),
            web.put(run + "/labels/{label}", self.add_label),
            web.delete(run + "/labels/{label}", self.remove_label),
            web.get("/transitions", self.log_after),
            web.get("/owners/{owner_id:[0-9]+}", self.owner),
            web.get("/machine-types", self.machine_types),
            web.get("/attempts/{run_id:[0-9]+}/{attempt:[0-9]+}", self.attempt),
            web.post("/commits/in-use", self.commits_in_use),
            web.post("/manifests/in-use", self.manifests_in_use),
            web.post("/manifests/let-go", self.manifests_let_go),
            web.post("/manifests/runs", self.runs_with_manifests),
            web.post("/runs/active", self.active_runs),
            web.get("/verify", self.verify),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        await self._store.pool.fetchval("SELECT 1")
        return http.json_response(Health(service="scheduler", version=service.version(), ok=True))

    async def create(self, request: web.Request) -> web.Response:
        new = await http.read_json(request, NEW_RUN)
        row, existed = await self._creation.create(new)
        return http.json_response(await self._view_of(row), 200 if existed else 201)

    async def made(self, request: web.Request) -> web.Response:
        asked = await http.read_json(request, MADE)
        row = await self._store.pool.fetchrow(SQL["run_of_key"], asked.owner_id, asked.idempotency_key)
        if row is None:
            raise NotFoundError("run_not_found", "no run was made with this key")
        if row["request_sha256"] != asked.request_sha256:
            raise conflict(asked.idempotency_key, row["id"])
        return http.json_response(await self._view(row["id"], asked.owner_id))

    async def list_runs(self, request: web.Request) -> web.Response:
        limit = min(_number(request, "limit", 50) or 1, PAGE_MAX)
        before = request.query.get("before")
        rows = await self._store.pool.fetch(
            SQL["list_runs"],
            _owner(request),
            request.query.getall("label", None),
            request.query.get("repository"),
            None if before is None else _number(request, "before"),
            limit + 1,
            self._store.settings.reachable_seconds,
        )
        reasons = await self._queue_reasons(rows[:limit])
        views = tuple(
            runs.brief(runs.view_of(row, queue_reason=reasons.get(row["id"]))) for row in rows[:limit]
        )
        return http.json_response(RunList(runs=views, more=len(rows) > limit))

    async def get_run(self, request: web.Request) -> web.Response:
        return http.json_response(await self._view(_run_id(request), _owner(request)))

    async def run_spec(self, request: web.Request) -> web.Response:
        """What a run was, with the values of its variables and the code that it got: enough to run it again."""
        row = await self._row(_run_id(request), _owner(request))
        code = runs.view_of(row).spec.code
        return http.json_response(runs.spec_of(row).model_copy(update={"code": code}))

    async def run_log(self, request: web.Request) -> web.Response:
        rows = await self._store.pool.fetch(SQL["run_log"], _run_id(request), _owner(request))
        if not rows:
            raise _not_found(_run_id(request))
        views = tuple(runs.transition_of(row) for row in rows)
        last = views[-1]
        run = await self._view(last.run_id, last.owner_id) if last.after in FINAL else None
        cursors = tuple(str(view.version) for view in views)
        machine_id = rows[-1]["machine_id"]
        return http.json_response(
            TransitionList(
                transitions=views, cursors=cursors, cursor=cursors[-1], run=run, machine_id=machine_id
            )
        )

    async def end_run(self, request: web.Request) -> web.Response:
        before = await self._row(_run_id(request), _owner(request))
        if request.match_info["verb"] == "stop":
            asked = EndAsked(Intent.STOP, Reason.STOPPED_BY_USER, f"user {before['creator']}")
        else:
            asked = EndAsked(Intent.KILL, Reason.KILLED_BY_USER, f"user {before['creator']}")
        outcome: Literal["ending", "ended", "already_final"] = "ending"
        if RunState(before["state"]) in FINAL:
            outcome = "already_final"
        else:
            after = await self._store.apply([(before["id"], asked)], f"{request.match_info['verb']} request")
            if after[before["id"]].state in FINAL:
                outcome = "ended" if after[before["id"]].state is RunState.KILLED else "already_final"
        view = await self._view(before["id"], before["owner_id"])
        return http.json_response(EndOutcome(outcome=outcome, run=view))

    async def archive(self, request: web.Request) -> web.Response:
        asked = await http.read_json(request, RUNS_ASKED)
        rows = await self._store.pool.fetch(SQL["archive"], _owner(request), list(asked.run_ids), [*FINAL])
        became = {row["id"]: row["outcome"] for row in rows}
        names = ("archived", "already_archived", "active", "unknown")
        ids = {
            name: tuple(one for one in sorted({*asked.run_ids}) if became.get(one, "unknown") == name)
            for name in names
        }
        return http.json_response(ArchiveOutcome(**ids))

    async def save_run(self, request: web.Request) -> web.Response:
        before = await self._row(_run_id(request), _owner(request))
        after = (await self._store.apply([(before["id"], SaveAsked())], "save request"))[before["id"]]
        if not may_save(after):
            text = (
                f"is {after.state}"
                if after.intent is Intent.RUN or after.state in FINAL
                else "is being ended"
            )
            raise ConflictError(
                "run_not_running",
                f"run {after.id} {text}; a snapshot is taken of one that is running",
                field="run_id",
            )
        view = await self._view(after.id, after.owner_id)
        return http.json_response(SaveOutcome(asked=after.saves, run=view))

    async def add_label(self, request: web.Request) -> web.Response:
        row, label = await self._row(_run_id(request), _owner(request)), request.match_info["label"]
        most = checks.LABEL_COUNT_MAX
        await self._store.pool.execute(SQL["add_label"], row["id"], row["owner_id"], label, most)
        view = await self._view(row["id"], row["owner_id"])
        if label not in view.labels:
            raise InvalidError(
                "too_many_labels",
                f"run {row['id']} has {most} labels already, no more are allowed",
                field="label",
            )
        return http.json_response(view)

    async def remove_label(self, request: web.Request) -> web.Response:
        row, label = await self._row(_run_id(request), _owner(request)), request.match_info["label"]
        if label not in row["labels"]:
            raise NotFoundError(
                "label_not_found", f"run {row['id']} has no label {shown(label)}", field="label"
            )
        await self._store.pool.execute(SQL["remove_label"], row["id"], row["owner_id"], label)
        return http.json_response(await self._view(row["id"], row["owner_id"]))

    async def log_after(self, request: web.Request) -> web.Response:
        cursor = request.query.get("after") or FIRST_CURSOR
        try:
            xid, run_id, version = runs.parse_cursor(cursor)
        except ValueError:
            raise RefusedError(
                "cursor_invalid",
                f"after: {shown(cursor)} is no cursor; the 'cursor' of an event is one",
                field="after",
            ) from None
        limit = min(_number(request, "limit", 500) or 1, PAGE_MAX)
        rows = await self._store.pool.fetch(SQL["log_after"], _owner(request), xid, run_id, version, limit)
        cursors = tuple(f"{row['xid_text']}-{row['run_id']}-{row['version']}" for row in rows)
        views = tuple(runs.transition_of(row) for row in rows)
        last = cursors[-1] if cursors else cursor
        return http.json_response(TransitionList(transitions=views, cursors=cursors, cursor=last))

    async def owner(self, request: web.Request) -> web.Response:
        return http.json_response(await self._summary(int(request.match_info["owner_id"])))

    async def machine_types(self, _request: web.Request) -> web.Response:
        known = await self._known_types()
        names = dict.fromkeys([*self._machine_types, *sorted(known)])
        views = tuple(
            known.get(name) or MachineTypeView(name=name, machines=0, slots=0, slots_used=0) for name in names
        )
        return http.json_response(MachineTypeList(machine_types=views, default=self._machine_types[0]))

    async def _known_types(self) -> dict[str, MachineTypeView]:
        """Every type that a machine ever had, by its name."""
        rows = await self._store.pool.fetch(SQL["machine_types"], self._store.settings.reachable_seconds)
        views = [
            MachineTypeView(
                name=row["machine_type"],
                machines=row["machines"],
                slots=row["slots"],
                slots_used=row["slots_used"] if row["machines"] else 0,
                engines=tuple(row["engines"]),
                gpus=row["gpus"],
                gpu_models=tuple(row["gpu_models"]),
                run_bytes_max=row["run_bytes_max"],
                run_files_max=row["run_files_max"],
            )
            for row in rows
        ]
        return {view.name: view for view in views}

    async def attempt(self, request: web.Request) -> web.Response:
        run_id, number = _run_id(request), int(request.match_info["attempt"])
        row = await self._store.pool.fetchrow(
            SQL["attempt_of_run"], run_id, number, _number(request, "fence")
        )
        if row is None:
            raise GoneError("attempt_over", f"attempt {number} of run {run_id} is over, or is not yours")
        run = runs.run_of(row)
        answer = AttemptSpec(
            run_id=run.id,
            attempt=run.attempt,
            fence=run.fence,
            owner_id=run.owner_id,
            intent=run.intent,
            spec=runs.spec_of(row),
        )
        return http.json_response(answer)

    async def commits_in_use(self, request: web.Request) -> web.Response:
        asked = await http.read_json(request, COMMITS_ASKED)
        rows = await self._store.pool.fetch(SQL["commits_in_use"], asked.owner_id, list(asked.commits))
        return http.json_response(CommitsInUse(commits=tuple(row["name"] for row in rows)))

    async def manifests_in_use(self, request: web.Request) -> web.Response:
        """Refused until every machine that lives has been heard: one may have saved files that it could not report."""
        asked = await http.read_json(request, MANIFESTS_ASKED)
        if not self._store.machines_heard:
            raise UnavailableError("unavailable", "machines may have something to report; try again later")
        rows = await self._store.pool.fetch(SQL["manifests_in_use"], asked.owner_id, list(asked.digests))
        return http.json_response(ManifestsInUse(digests=tuple(row["digest"] for row in rows)))

    async def manifests_let_go(self, request: web.Request) -> web.Response:
        """Those that were named, by runs that are archived by now: nobody is about to name them."""
        asked = await http.read_json(request, MANIFESTS_ASKED)
        rows = await self._store.pool.fetch(SQL["manifests_let_go"], asked.owner_id, list(asked.digests))
        return http.json_response(ManifestsInUse(digests=tuple(row["digest"] for row in rows)))

    async def runs_with_manifests(self, request: web.Request) -> web.Response:
        """What some manifests are called, below runs/."""
        asked = await http.read_json(request, MANIFESTS_ASKED)
        rows = await self._store.pool.fetch(SQL["runs_with_manifest"], asked.owner_id, list(asked.digests))
        return http.json_response(ManifestNames(runs=tuple((row["manifest"], row["name"]) for row in rows)))

    async def active_runs(self, request: web.Request) -> web.Response:
        """Those of some runs that have not ended, whoever owns them."""
        asked = await http.read_json(request, RUNS_ASKED)
        rows = await self._store.pool.fetch(SQL["active_runs"], list(asked.run_ids), [*FINAL])
        return http.json_response(RunsAsked(run_ids=tuple(row["id"] for row in rows)))

    async def verify(self, request: web.Request) -> web.Response:
        run_id = request.query.get("run_id")
        wanted = None if run_id is None else _number(request, "run_id")
        return http.json_response(await verify.verdict(self._store.pool, self._bus, _owner(request), wanted))

    async def _summary(self, owner_id: int) -> OwnerSummary:
        row = await self._store.pool.fetchrow(SQL["owner_summary"], owner_id, self._store.settings.runs_max)
        assert row is not None, "an aggregate always has a row"
        return OwnerSummary(**dict(row))

    async def _row(self, run_id: int, owner_id: int) -> Any:
        row = await self._store.pool.fetchrow(
            SQL["get_run"], run_id, owner_id, self._store.settings.reachable_seconds
        )
        if row is None:
            raise _not_found(run_id)
        return row

    async def _view(self, run_id: int, owner_id: int) -> RunView:
        return await self._view_of(await self._row(run_id, owner_id))

    async def _view_of(self, row: Any) -> RunView:
        reasons = await self._queue_reasons([row])
        snapshots = []
        if row["saves_met"] or row["spec"].get("save_every_seconds") is not None:
            snapshots = await self._store.pool.fetch(SQL["snapshots_of_run"], row["id"], row["owner_id"])
        return runs.view_of(row, queue_reason=reasons.get(row["id"]), snapshots=snapshots)

    async def _queue_reasons(self, rows: Any) -> dict[int, QueueReason]:
        """Why requested runs wait, for those among `rows` that do."""
        queued = [row for row in rows if row["state"] == RunState.REQUESTED]
        if not queued:
            return {}
        summary = await self._summary(queued[0]["owner_id"])
        known = await self._known_types()
        reasons: dict[int, QueueReason] = {}
        for row in queued:
            kind, needs = known.get(row["machine_type"]), runs.needs_of(row)
            if kind is None or not kind.machines:
                reasons[row["id"]] = "no_machine"
            elif not (needs or set(kind.engines)) & set(kind.engines):
                reasons[row["id"]] = "no_engine"
            elif summary.active >= summary.runs_max:
                reasons[row["id"]] = "owner_limit"
            else:
                reasons[row["id"]] = "no_slot"
        return reasons


def application(store: Store, creation: Creation, bus: Bus) -> web.Application:
    """The scheduler's HTTP application."""
    app = web.Application(middlewares=[http.errors_to_answers], client_max_size=http.BODY_BYTES_MAX)
    app.add_routes(Api(store, creation, bus).routes())
    return app


def _machine_types(setting: str) -> list[str]:
    names = [name.strip() for name in setting.split(",") if name.strip()]
    for name in names:
        try:
            checks.machine_type_name(name)
        except InvalidError as error:
            raise SettingsError(f"the setting SPELL_MACHINE_TYPES: {error}") from None
    return names or ["CPU"]


def _run_id(request: web.Request) -> int:
    return min(int(request.match_info["run_id"][:20]), 2**62)


def _owner(request: web.Request) -> int:
    return _number(request, "owner_id")


def _number(request: web.Request, name: str, default: int | None = None) -> int:
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidError("number_invalid", f"{name}: {shown(text)} is not a whole number", field=name)
    return int(text)


def _not_found(run_id: int) -> NotFoundError:
    return NotFoundError("run_not_found", f"Run {run_id} does not exist", field="run_id")
