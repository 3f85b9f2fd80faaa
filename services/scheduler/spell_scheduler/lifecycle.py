"""What a fact means for a run: `decide(run, fact, now)` returns the run as it is afterwards, what to log, what to order.

Pure: no clock, no network, no database. Everything that may arrive twice, late, out of order or never arrives
here; what is stale or already known changes nothing. The legality of each move is checked against
`spell_proto.state`, the one table.

Precedence (design.md section 4): a command that ended before TERM or KILL was delivered ended by itself, and
its exit counts; otherwise a kill beats a stop beats a condition or time limit. A kill that is committed before
the run is final ends it as Killed, without a manifest. A machine that is reclaimed with notice ends its runs by TERM
as a stop does: of a stop and such a notice, the one that came first counts.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from spell_proto.commands import EndAttempt, SaveAttempt, StartAttempt
from spell_proto.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    AttemptReport,
    CodeFetched,
    CommandExited,
    CommandStarted,
    ImagePinned,
    LogTotals,
    MountingStarted,
    OutputsSaved,
    SnapshotFailed,
    SnapshotSaved,
    Step,
)
from spell_proto.state import (
    ACTIVE,
    BEFORE_RUNNING,
    FINAL,
    KEEPING_FILES,
    REASON_TEXT,
    SAVED,
    Intent,
    Reason,
    RunState,
    check_transition,
    harder,
)
from spell_scheduler import ends


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a decision about a run depends on; the mutable columns of its row.

    `steps` is the number of the last step of the attempt that was applied. `fence` grows with every machine the
    run is given to or taken from. `intent_reason` says why the intent hardened. `fetched` is what the URL of a run
    without a local commit turned out to be, `image` its Docker image with a digest.
    Its command was started with `engine`, on `gpus`. Of it, `saves` snapshots were asked for, and something has come of
    `saves_met`: that the last one could not be had is its `save_problem`.
    """

    id: int
    owner_id: int
    state: RunState = RunState.REQUESTED
    intent: Intent = Intent.RUN
    intent_reason: Reason | None = None
    reason: Reason | None = None
    message: str | None = None
    version: int = 1
    attempt: int = 1
    fence: int = 0
    machine_id: str | None = None
    boot_id: str | None = None
    spot: bool = False
    steps: int = 0
    exit_code: int | None = None
    exit_cause: str | None = None
    timeout_seconds: int | None = None
    deadline: datetime | None = None
    fetched: CodeFetched | None = None
    image: str | None = None
    engine: str | None = None
    gpus: tuple[str, ...] = ()
    started_at: datetime | None = None
    ended_at: datetime | None = None
    manifest: str | None = None
    saved_files: int | None = None
    saved_bytes: int | None = None
    log: LogTotals | None = None
    saves: int = 0
    saves_met: int = 0
    save_problem: str | None = None
    saved_changed: int | None = None
    save_notes: tuple[str, ...] = ()


# ---- facts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """A slot of this machine is the run's from now on."""

    machine_id: str
    boot_id: str
    spot: bool
    fence: int


@dataclass(frozen=True, slots=True)
class EndAsked:
    """Somebody wants the run stopped or killed."""

    intent: Literal[Intent.STOP, Intent.KILL]
    reason: Reason
    actor: str


@dataclass(frozen=True, slots=True)
class SaveAsked:
    """Somebody wants a snapshot of what the run has made so far."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The clock may have passed the run's deadline."""


@dataclass(frozen=True, slots=True)
class MachineGone:
    """The run's machine is lost, or has restarted without it. `fence` is new: what the machine says later is void."""

    reason: Reason
    fence: int


Fact = Admitted | EndAsked | SaveAsked | Expired | MachineGone | AttemptReport


@dataclass(frozen=True, slots=True)
class Logged:
    """A row of the transition log: a move, or a change of intent (`before` and `after` are equal then)."""

    run_id: int
    owner_id: int
    version: int
    kind: Literal["moved", "intent"]
    before: RunState | None
    after: RunState
    intent: Intent
    attempt: int
    fence: int
    actor: str
    reason: Reason | None
    exit_code: int | None
    at: datetime


Order = StartAttempt | EndAttempt | SaveAttempt


@dataclass(frozen=True, slots=True)
class Decision:
    """The run afterwards, the rows to log, hints for its machine, and snapshots that it has from now on. `note` says why
    a fact changed nothing.
    """

    run: Run
    logged: tuple[Logged, ...] = ()
    orders: tuple[Order, ...] = ()
    snapshots: tuple[SnapshotSaved, ...] = ()
    note: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.logged)


def created(run: Run, actor: str, now: datetime) -> Logged:
    """The first row of a new run's log."""
    check_transition(None, run.state)
    return _row(run, "moved", None, run.state, actor, None, now)


def decide(run: Run, fact: Fact, now: datetime) -> Decision:
    """What `fact` means for `run` at `now` (database time)."""
    if run.state in FINAL:
        return Decision(run, note="final")
    match fact:
        case Admitted():
            return _admit(run, fact, now)
        case EndAsked():
            return _end(run, fact, now)
        case SaveAsked():
            return _save(run)
        case Expired():
            return _expire(run, now)
        case MachineGone():
            return _lose(run, fact, now)
        case AttemptReport():
            return _report(run, fact, now)


# ---- admission, intent, time, loss ---------------------------------------------------------------------------


def _admit(run: Run, fact: Admitted, now: datetime) -> Decision:
    if run.state is not RunState.REQUESTED:
        return Decision(run, note="already admitted")
    given = replace(
        run, machine_id=fact.machine_id, boot_id=fact.boot_id, spot=fact.spot, fence=fact.fence, steps=0
    )
    after, row = _move(given, RunState.BUILDING, "scheduler", now)
    return Decision(after, (row,), (StartAttempt(run_id=run.id, attempt=run.attempt, fence=after.fence),))


def _end(run: Run, fact: EndAsked, now: datetime) -> Decision:
    wanted = harder(run.intent, fact.intent)
    if wanted is run.intent:
        return Decision(run, orders=_end_orders(run), note="already asked")
    asked = replace(run, intent=wanted, intent_reason=fact.reason)
    if run.state is RunState.REQUESTED:
        reason = Reason.KILLED_BY_USER if wanted is Intent.KILL else Reason.STOPPED_BEFORE_RUNNING
        after, row = _move(asked, RunState.KILLED, fact.actor, now, reason=reason)
        return Decision(after, (row,))
    after = replace(asked, version=run.version + 1)
    row = _row(after, "intent", run.state, run.state, fact.actor, fact.reason, now)
    return Decision(after, (row,), _end_orders(after))


def _end_orders(run: Run) -> tuple[Order, ...]:
    if run.state not in ACTIVE or run.intent is Intent.RUN:
        return ()
    return (EndAttempt(run_id=run.id, attempt=run.attempt, fence=run.fence, intent=run.intent),)


def may_save(run: Run) -> bool:
    """Whether a snapshot may be asked for. Its command may run for a while before we hear of that."""
    at_work = run.state is RunState.RUNNING or (run.state in ACTIVE and run.state in BEFORE_RUNNING)
    return at_work and run.intent is Intent.RUN


def _save(run: Run) -> Decision:
    if not may_save(run):
        return Decision(run, note="not running")
    # Not the same one for two who ask: the first may have been begun before the second had something to save.
    after = replace(run, saves=run.saves + 1)
    order = SaveAttempt(run_id=run.id, attempt=run.attempt, fence=run.fence, saves=after.saves)
    return Decision(after, orders=(order,))


def _expire(run: Run, now: datetime) -> Decision:
    over = run.deadline is not None and now >= run.deadline
    if run.state is not RunState.RUNNING or run.intent is not Intent.RUN or not over:
        return Decision(run, note="not expired")
    return _end(run, EndAsked(Intent.STOP, Reason.TIMEOUT, "scheduler"), now)


def _lose(run: Run, fact: MachineGone, now: datetime) -> Decision:
    if run.state not in ACTIVE:
        return Decision(run, note="has no machine")
    state, reason = ends.of_loss(run.intent, fact.reason, spot=run.spot)
    after, row = _move(replace(run, fence=fact.fence), state, "scheduler", now, reason=reason)
    return Decision(after, (row,))


# ---- reports of the machine ----------------------------------------------------------------------------------


def _report(run: Run, report: AttemptReport, now: datetime) -> Decision:
    ours = (run.machine_id, run.attempt, run.fence)
    if run.state not in ACTIVE or (report.machine_id, report.attempt, report.fence) != ours:
        return Decision(run, note="fenced")
    if report.first_step > run.steps + 1:
        return Decision(run, note="gap")
    logged: list[Logged] = []
    taken: list[SnapshotSaved] = []
    for step in report.steps[run.steps + 1 - report.first_step :]:
        if isinstance(step, SnapshotSaved) and run.state is RunState.RUNNING:
            taken.append(step)
        run, rows = _step(replace(run, steps=run.steps + 1), step, f"machine {report.machine_id}", now)
        logged.extend(rows)
        if run.state in FINAL:
            break
    if not logged and not taken:
        return Decision(run, note="known")
    return Decision(run, tuple(logged), snapshots=tuple(taken))


def _step(run: Run, step: Step, actor: str, now: datetime) -> tuple[Run, list[Logged]]:
    """One step of an attempt. A step that makes no sense here is passed over, unless it says that all is over."""
    match step:
        case CodeFetched() if run.state is RunState.BUILDING:
            return replace(run, fetched=step), []
        case ImagePinned() if run.state is RunState.BUILDING:
            return replace(run, image=step.image), []
        case MountingStarted() if run.state is RunState.BUILDING:
            after, row = _move(run, RunState.MOUNTING, actor, now)
        case CommandStarted() if run.state in BEFORE_RUNNING:
            limit = run.timeout_seconds
            deadline = None if limit is None else now + timedelta(seconds=limit)
            started = replace(run, started_at=step.at, deadline=deadline, engine=step.engine, gpus=step.gpus)
            after, row = _move(started, RunState.RUNNING, actor, now)
        case SnapshotSaved() if run.state is RunState.RUNNING:
            return replace(run, saves_met=max(run.saves_met, step.asked), save_problem=None), []
        case SnapshotFailed() if run.state is RunState.RUNNING:
            return replace(run, saves_met=max(run.saves_met, step.asked), save_problem=step.message), []
        case CommandExited() if run.state is RunState.RUNNING:
            exited = replace(run, exit_code=step.exit_code, exit_cause=step.exit_cause)
            after, row = _move(exited, RunState.SAVING, actor, now)
        case OutputsSaved() if run.state is RunState.SAVING:
            after, row = _move(_with_files(run, step), RunState.PUSHING, actor, now)
        case AttemptFinished():
            after, row = _finish(replace(run, log=step.log), step, actor, now)
        case AttemptFailed():
            after, row = _fail(replace(run, log=step.log), step.reason, step.message, step, actor, now)
        case AttemptKilled():
            after, row = _killed(replace(run, log=step.log), step, actor, now)
        case _:
            return run, []
    return after, [row]


def _finish(run: Run, step: AttemptFinished, actor: str, now: datetime) -> tuple[Run, Logged]:
    if run.state is not RunState.PUSHING:
        message = f"its machine reported the end while the run was {run.state}"
        return _fail(run, Reason.SAVE_FAILED, message, step, actor, now)
    if run.intent is Intent.KILL:
        return _move(run, RunState.KILLED, actor, now, reason=Reason.KILLED_BY_USER, ended_at=step.at)
    if run.exit_cause == "stop":
        reason = run.intent_reason or Reason.STOPPED_BY_USER
        return _move(run, RunState.STOPPED, actor, now, reason=reason, ended_at=step.at)
    return _move(run, RunState.COMPLETE, actor, now, ended_at=step.at)


def _fail(
    run: Run, reason: Reason, message: str, step: Step, actor: str, now: datetime
) -> tuple[Run, Logged]:
    state, why = ends.of_failure(run.intent, run.state, reason, spot=run.spot)
    run = replace(run, message=message if why is reason else None)
    return _move(run, state, actor, now, reason=why, ended_at=step.at)


def _killed(run: Run, step: AttemptKilled, actor: str, now: datetime) -> tuple[Run, Logged]:
    state, reason = ends.of_kill(run.intent, run.state, spot=run.spot)
    unasked = "its machine ended it although nobody had asked" if state is RunState.FAILED else None
    return _move(replace(run, message=unasked), state, actor, now, reason=reason, ended_at=step.at)


def _with_files(run: Run, saved: OutputsSaved) -> Run:
    return replace(
        run,
        manifest=saved.manifest,
        saved_files=saved.files,
        saved_bytes=saved.bytes,
        saved_changed=saved.changed,
        save_notes=saved.notes,
    )


# ---- rows ----------------------------------------------------------------------------------------------------


def _move(
    run: Run,
    state: RunState,
    actor: str,
    now: datetime,
    *,
    reason: Reason | None = None,
    ended_at: datetime | None = None,
) -> tuple[Run, Logged]:
    check_transition(run.state, state)
    before = run.state
    after = replace(run, state=state, version=run.version + 1)
    if state in FINAL:
        # Both ends of the run by one clock where there is one: its machine's.
        end = ended_at or now
        after = replace(after, reason=reason, ended_at=max(end, run.started_at) if run.started_at else end)
        if reason is not None and after.message is None:
            after = replace(after, message=REASON_TEXT[reason])
        if state not in SAVED and not (state is RunState.FAILED and reason in KEEPING_FILES):
            after = replace(
                after, manifest=None, saved_files=None, saved_bytes=None, saved_changed=None, save_notes=()
            )
    return after, _row(after, "moved", before, state, actor, reason, now)


def _row(
    run: Run,
    kind: Literal["moved", "intent"],
    before: RunState | None,
    after: RunState,
    actor: str,
    reason: Reason | None,
    now: datetime,
) -> Logged:
    return Logged(
        run_id=run.id,
        owner_id=run.owner_id,
        version=run.version,
        kind=kind,
        before=before,
        after=after,
        intent=run.intent,
        attempt=run.attempt,
        fence=run.fence,
        actor=actor,
        reason=reason,
        exit_code=run.exit_code,
        at=now,
    )
