"""Rows ⇄ types, and the writes that change runs. Every write is one statement of a transaction its caller holds."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from spell_proto import checks, database, subjects
from spell_proto.codec import encode
from spell_proto.commands import BuildEnvironment
from spell_proto.engines import engine_for, engines_needed
from spell_proto.events import CodeFetched, LogTotals, RunIntentChanged, RunMoved, SnapshotSaved
from spell_proto.spec import CodeLocation, RunSpec
from spell_proto.state import Intent, Reason, RunState
from spell_proto.views import LogView, QueueReason, RunView, SnapshotView, TransitionView
from spell_scheduler.lifecycle import Logged, Run

SQL = database.queries("spell_scheduler", "runs.sql")
SPEC = TypeAdapter(RunSpec)
FETCHED = TypeAdapter(CodeFetched)
_CURSOR = re.compile(r"(?P<xid>[0-9]{1,19})-(?P<run_id>[0-9]{1,18})-(?P<version>[0-9]{1,9})", re.ASCII)

#: An asyncpg connection or pool connection; the stubs disagree about which is which.
Connection = Any
#: A row: an asyncpg.Record, which is a mapping in all but its type stubs.
Row = Any


@dataclass(frozen=True, slots=True)
class Post:
    """A message that must reach a stream: a row of the outbox."""

    run_id: int
    version: int
    stream: str
    subject: str
    payload: bytes
    resend: int = 0

    @property
    def message_id(self) -> str:
        return f"{self.run_id}:{self.version}:{self.resend}"


def run_of(row: Row) -> Run:
    """The mutable columns of a row."""
    log, fetched = row["log"], row["fetched"]
    return Run(
        id=row["id"],
        owner_id=row["owner_id"],
        state=RunState(row["state"]),
        intent=Intent(row["intent"]),
        intent_reason=_reason(row["intent_reason"]),
        reason=_reason(row["reason"]),
        message=row["message"],
        version=row["version"],
        attempt=row["attempt"],
        fence=row["fence"],
        machine_id=row["machine_id"],
        boot_id=row["boot_id"],
        spot=row["spot"],
        steps=row["steps"],
        exit_code=row["exit_code"],
        exit_cause=row["exit_cause"],
        timeout_seconds=row["timeout_seconds"],
        deadline=row["deadline"],
        fetched=None if fetched is None else FETCHED.validate_python(fetched, strict=False),
        image=row["image"],
        engine=row["engine"],
        gpus=tuple(row["gpus"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        manifest=row["manifest"],
        saved_files=row["saved_files"],
        saved_bytes=row["saved_bytes"],
        log=None if log is None else LogTotals(**log),
        saves=row["saves"],
        saves_met=row["saves_met"],
        save_problem=row["save_problem"],
        saved_changed=row["saved_changed"],
        save_notes=tuple(row["save_notes"]),
    )


def _reason(value: str | None) -> Reason | None:
    return None if value is None else Reason(value)


def spec_of(row: Row) -> RunSpec:
    """The spec of a run, with the values of its environment variables, and its image as it was pinned."""
    spec = SPEC.validate_python(row["spec"], strict=False)
    return spec if row["image"] is None else spec.model_copy(update={"docker_image": row["image"]})


def view_of(row: Row, *, queue_reason: QueueReason | None = None, snapshots: Sequence[Row] = ()) -> RunView:
    """A run as its owner sees it: no value of an environment variable leaves the scheduler this way."""
    run = run_of(row)
    spec = spec_of(row)
    hidden = spec.model_copy(
        update={"env": dict.fromkeys(spec.env, ""), "code": spec.code or _fetched_code(run, spec)}
    )
    seconds = None
    if run.started_at is not None and run.ended_at is not None:
        seconds = (run.ended_at - run.started_at).total_seconds()
    return RunView(
        id=run.id,
        owner_id=run.owner_id,
        creator=row["creator"],
        state=run.state,
        intent=run.intent,
        reason=run.reason,
        message=run.message,
        version=run.version,
        attempt=run.attempt,
        machine_id=run.machine_id,
        machine_reachable=row["machine_reachable"],
        spec=hidden,
        labels=tuple(row["labels"]),
        exit_code=run.exit_code,
        created_at=row["created_at"],
        archived_at=row.get("archived_at"),
        started_at=run.started_at,
        ended_at=run.ended_at,
        run_seconds=seconds,
        manifest=run.manifest,
        saved_files=run.saved_files,
        saved_bytes=run.saved_bytes,
        log=None if run.log is None else LogView(**run.log.model_dump()),
        queue_reason=queue_reason,
        engine=run.engine,
        gpus=run.gpus,
        saves=run.saves,
        saves_met=run.saves_met,
        save_problem=run.save_problem,
        saved_changed=run.saved_changed,
        save_notes=run.save_notes,
        snapshots=tuple(snapshot_of(one) for one in snapshots),
    )


def snapshot_of(row: Row) -> SnapshotView:
    """A row of the snapshots as its reader sees it."""
    members = ("number", "asked", "manifest", "files", "bytes", "at")
    return SnapshotView(**{name: row[name] for name in members}, notes=tuple(row["notes"]))


def brief(view: RunView) -> RunView:
    """A run in a list: without notes and the texts of files that go with it, which may be long."""
    if view.save_notes:
        view = view.model_copy(update={"save_notes": ()})
    environment = view.spec.environment
    if environment.requirements is None:
        return view
    environment = environment.model_copy(update={"requirements": None, "constraints": None})
    return view.model_copy(update={"spec": view.spec.model_copy(update={"environment": environment})})


def _fetched_code(run: Run, spec: RunSpec) -> CodeLocation | None:
    if run.fetched is None or spec.github is None:
        return None
    return CodeLocation(
        repository_id=run.fetched.repository_id,
        repository=run.fetched.repository,
        commit=run.fetched.commit,
        tree=run.fetched.tree,
        root_directory=checks.github_directory(spec.github.url),
        cwd=".",
    )


def needs_text(spec: RunSpec) -> str:
    """The engines of which one must be where the run goes, as its row has them; empty where it does not matter."""
    return ",".join(sorted(engines_needed(spec.docker_image, spec.environment, outside=spec.outside) or ()))


def needs_of(row: Row) -> frozenset[str]:
    """The same as a set."""
    return frozenset(filter(None, row["needs"].split(",")))


def repository_of(spec: RunSpec) -> str | None:
    """The name of the repository that a run's code is from, as `spell ps` shows it."""
    if spec.code is not None:
        return spec.code.repository
    return None if spec.github is None else checks.github_directory(spec.github.url)


def transition_of(row: Row) -> TransitionView:
    """A row of the log as its readers see it."""
    before = row["before"]
    return TransitionView(
        run_id=row["run_id"],
        owner_id=row["owner_id"],
        version=row["version"],
        kind=row["kind"],
        before=None if before is None else RunState(before),
        after=RunState(row["after"]),
        intent=Intent(row["intent"]),
        attempt=row["attempt"],
        actor=row["actor"],
        reason=_reason(row["reason"]),
        exit_code=row["exit_code"],
        at=row["at"],
    )


def fact_post(logged: Logged, cause: str) -> Post:
    """The public fact of a row of the log."""
    message: RunMoved | RunIntentChanged
    if logged.kind == "moved":
        message = RunMoved(
            run_id=logged.run_id,
            owner_id=logged.owner_id,
            version=logged.version,
            before=logged.before,
            after=logged.after,
            intent=logged.intent,
            attempt=logged.attempt,
            reason=logged.reason,
            exit_code=logged.exit_code,
            at=logged.at,
            cause=cause,
        )
    else:
        assert logged.reason is not None
        message = RunIntentChanged(
            run_id=logged.run_id,
            owner_id=logged.owner_id,
            version=logged.version,
            state=logged.after,
            intent=logged.intent,
            reason=logged.reason,
            at=logged.at,
            cause=cause,
        )
    subject = subjects.event(logged.run_id, message.kind)
    return Post(logged.run_id, logged.version, subjects.EVENTS.name, subject, encode(message))


def build_post(run_id: int, spec: RunSpec, engines: Collection[str]) -> Post:
    """The request to build a queued run's environment ahead of time, for machines that have some engines."""
    engine = engine_for(spec.environment, spec.docker_image, engines, outside=spec.outside)
    message = BuildEnvironment(
        run_id=run_id, environment=spec.environment, engine=engine, cause=f"run {run_id}"
    )
    return Post(run_id, 1, subjects.COMMANDS.name, subjects.COMMANDS_FOR_BUILDER, encode(message))


def _run_json(before: Run, after: Run) -> dict[str, Any]:
    members = {name: getattr(after, name) for name in Run.__dataclass_fields__}
    members["log"] = None if after.log is None else after.log.model_dump()
    members["fetched"] = None if after.fetched is None else after.fetched.model_dump(mode="json")
    # No text of Postgres holds a NUL, and a machine's words must not stop its run from ending.
    members["image"] = after.image and after.image.replace("\0", "\ufffd")
    members["save_problem"] = after.save_problem and after.save_problem.replace("\0", "\ufffd")
    members["message"] = after.message and after.message.replace("\0", "\ufffd")
    members["seen_version"] = before.version
    members["seen_fence"] = before.fence
    return members


def _logged_json(logged: Logged) -> dict[str, Any]:
    return {name: getattr(logged, name) for name in Logged.__dataclass_fields__}


def _snapshot_json(run: Run, taken: SnapshotSaved) -> dict[str, Any]:
    members = taken.model_dump(include={"number", "asked", "manifest", "files", "bytes", "at", "notes"})
    return {"run_id": run.id, "owner_id": run.owner_id, "attempt": run.attempt, **members}


def _post_json(post: Post) -> dict[str, Any]:
    return {
        "run_id": post.run_id,
        "version": post.version,
        "stream": post.stream,
        "subject": post.subject,
        "payload": post.payload.decode(),
    }


async def write_decided(
    connection: Connection,
    changes: Sequence[tuple[Run, Run]],
    logged: Iterable[Logged],
    posts: Sequence[Post],
    snapshots: Iterable[tuple[Run, SnapshotSaved]] = (),
) -> set[int]:
    """Compare-and-set `before` → `after` for each pair; the ids for which nobody else had been faster."""
    rows = await connection.fetch(
        SQL["write_decided"],
        [_run_json(before, after) for before, after in changes],
        [_logged_json(row) for row in logged],
        [_post_json(post) for post in posts],
        [_snapshot_json(run, taken) for run, taken in snapshots],
    )
    return {row["id"] for row in rows}


async def insert_created(
    connection: Connection, runs: Sequence[dict[str, Any]], logged: Sequence[Logged], posts: Sequence[Post]
) -> None:
    """New runs with the first row of their log and their messages."""
    await connection.execute(
        SQL["insert_created"],
        list(runs),
        [_logged_json(row) for row in logged],
        [_post_json(post) for post in posts],
    )


async def mark_published(connection: Connection, posts: Sequence[Post]) -> None:
    """The bus has stored these."""
    done = [{"run_id": post.run_id, "version": post.version, "stream": post.stream} for post in posts]
    await connection.execute(SQL["mark_published"], done)


def parse_cursor(text: str) -> tuple[str, int, int]:
    """A cursor of the transition log as (xid, run id, version). Raises ValueError for anything else."""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return found["xid"], int(found["run_id"]), int(found["version"])


def now_of(rows: Sequence[Row]) -> datetime:
    """The database's clock, as a query brought it along."""
    at = rows[0]["now"]
    assert isinstance(at, datetime)
    return at
