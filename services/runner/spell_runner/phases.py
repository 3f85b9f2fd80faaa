"""What to do next for an attempt, and which steps to report: a function of what is on disk and of what is wanted.

Theory of operation
-------------------
The life of an attempt is a loop: gather the `Facts`, `decide`, do it, again. Everything a decision depends on is
on disk, so a runner that was killed at any line goes on from where the disk says it was. Nothing here waits,
reads or writes.

An attempt passes through: nothing yet -> asked (the engine was told to start) -> claimed (a shim has it, or it was
cancelled) -> started -> exited -> saved -> concluded -> sealed -> over. The *claim* is the one point of no return:
whoever takes it first, the shim or a cancellation, decides whether the command ever runs.

Precedence, as in design.md section 4: a command that ended before TERM or KILL was delivered ended by itself;
a kill that arrives before everything is saved and pushed ends the attempt as killed all the same. A reboot before
everything is saved loses the attempt, even one whose exit is written down: its files were never synced.

A spot machine that is `reclaimed` ends its attempts as a stop does, saved and all, and fails them with a reason of their
own. Of a stop and the notice, what reached the command first counts. What was saved waits for no environment then.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from spell_proto.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    CommandExited,
    CommandStarted,
    ExitCause,
    LogTotals,
    OutputsSaved,
    Step,
)
from spell_proto.state import REASON_TEXT, Intent, Reason

#: What goes into a verdict has its room kept on the disk.
MESSAGE_CHARS_MAX = 1000
TERMINAL = (AttemptFinished, AttemptFailed, AttemptKilled)
_CAUSES: dict[str, ExitCause] = {"stop": "stop", "reclaim": "reclaim"}


class Status(StrEnum):
    """Where the command of an attempt is, as its engine sees it."""

    ABSENT = "absent"  # the engine has not been told to start it
    ASKED = "asked"  # it has been told, and nobody has claimed the attempt yet
    CANCELLED = "cancelled"  # claimed by a cancellation: it never starts
    RUNNING = "running"  # claimed, and what watches it lives
    EXITED = "exited"  # over, and written down
    LOST = "lost"  # what watched it is gone, and has written nothing down


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended. `error` says why it could not even be started.

    `reason` is set where something else made it end, and `message` says more: the run fails with it.
    """

    at: datetime
    exit_code: int
    cause: str
    stdout_bytes: int
    stderr_bytes: int
    dropped_bytes: int
    sha256: str
    journal_bytes: int
    error: str | None
    reason: Reason | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What an engine knows of a command."""

    status: Status
    started_at: datetime | None = None
    exit: Exit | None = None


class Outcome(StrEnum):
    """How an attempt ends."""

    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end an attempt has come to; a failure has its reason and its sentence."""

    outcome: Outcome
    reason: Reason | None = None
    message: str = ""


KILLED = Verdict(Outcome.KILLED)
FINISHED = Verdict(Outcome.FINISHED)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a decision depends on. `verdict` is set once it is written down. `pushing` while the environment of
    an attempt that is saved may not have reached the shared cache, `reclaimed` once its machine has had notice.
    """

    intent: Intent
    steps: tuple[Step, ...]
    look: Look
    same_boot: bool
    verdict: Verdict | None = None
    pushing: bool = False
    reclaimed: bool = False


# ---- what to do ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepare:
    """Get the environment, the code and the workspace ready, then ask the engine to start."""


@dataclass(frozen=True, slots=True)
class Start:
    """Ask the engine (again) to start what is ready."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The command runs: wait until the engine or somebody's intent has news."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take the claim before a shim does, so that the command never starts."""


@dataclass(frozen=True, slots=True)
class End:
    """Have the engine stop or kill the command, within the time that a machine has left that is `reclaimed`."""

    intent: Intent
    reclaimed: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Note these steps."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Save:
    """Save what the command has made."""


@dataclass(frozen=True, slots=True)
class Push:
    """Wait until the environment has reached the shared cache, or cannot."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """Write the verdict down."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Seal:
    """End the journal, get it into storage, then note the last step."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing more to do: what is left is to be told so, and to be removed."""


Action = Prepare | Start | Wait | Cancel | End | Note | Save | Push | Conclude | Seal | Rest


def decide(facts: Facts) -> Action:
    """The next thing to do for an attempt."""
    noted = {type(step) for step in facts.steps}
    if noted & set(TERMINAL):
        return Rest()
    if facts.verdict is not None:
        return Seal(facts.verdict)
    if not facts.same_boot and OutputsSaved not in noted:
        # Whatever it wrote may be gone or half there: only what storage has is safe from a power cut.
        return _lost(facts)
    if CommandExited in noted:
        return _after_exit(facts, saved=OutputsSaved in noted)
    match facts.look.status:
        case Status.EXITED:
            return _exited(facts, started=CommandStarted in noted)
        case Status.CANCELLED:
            return Conclude(_never_started(facts))
        case Status.RUNNING:
            return _running(facts, started=CommandStarted in noted)
        case Status.ASKED | Status.ABSENT:
            return _not_started(facts)
        case Status.LOST:
            return _lost(facts)


def over(step: Step | None) -> bool:
    """Whether `step` is the last one of an attempt."""
    return isinstance(step, TERMINAL)


def last_step(verdict: Verdict, log: LogTotals, now: datetime) -> Step:
    """The step that ends an attempt whose journal is sealed."""
    match verdict.outcome:
        case Outcome.FINISHED:
            return AttemptFinished(at=now, log=log)
        case Outcome.KILLED:
            return AttemptKilled(at=now, log=log)
        case Outcome.FAILED:
            assert verdict.reason is not None
            return AttemptFailed(at=now, reason=verdict.reason, message=verdict.message, log=log)


def unsealed(verdict: Verdict, now: datetime) -> Step:
    """The step that ends an attempt whose journal can never be sealed."""
    if verdict.outcome is Outcome.KILLED:
        return AttemptKilled(at=now, log=None)
    if verdict.reason is not None:
        return AttemptFailed(at=now, reason=verdict.reason, message=verdict.message, log=None)
    message = "storage has another log of this run than the machine that ran it"
    return AttemptFailed(at=now, reason=Reason.SAVE_FAILED, message=message, log=None)


def failed(reason: Reason, message: str = "") -> Verdict:
    return Verdict(Outcome.FAILED, reason, (message or REASON_TEXT[reason])[:MESSAGE_CHARS_MAX])


def aborts(intent: Intent, *, saving: bool, reclaimed: bool = False) -> bool:
    """Whether work in hand is given up: a stop or a notice ends what comes before the command, a kill everything."""
    return intent is Intent.KILL or ((intent is Intent.STOP or reclaimed) and not saving)


def _after_exit(facts: Facts, *, saved: bool) -> Action:
    if facts.intent is Intent.KILL:
        return Conclude(KILLED)
    ended = facts.look.exit
    if saved and ended is not None and ended.reason is not None:
        return Conclude(failed(ended.reason, ended.message))
    if saved:
        return Push() if facts.pushing and not facts.reclaimed else Conclude(FINISHED)
    return Save()


def _exited(facts: Facts, *, started: bool) -> Action:
    ended = facts.look.exit
    assert ended is not None
    if ended.error is not None:
        return Conclude(
            KILLED if facts.intent is not Intent.RUN else failed(Reason.START_FAILED, ended.error)
        )
    if facts.look.started_at is None and ended.cause == "reclaim" and facts.intent is Intent.RUN:
        return Conclude(failed(Reason.SPOT_RECLAIMED))
    if facts.look.started_at is None or ended.cause == "kill":
        return Conclude(KILLED)
    if ended.reason is Reason.DOCKER_RESTARTED:
        # How it would have ended, nobody knows, and what it was about to write even less.
        return Conclude(KILLED if facts.intent is Intent.KILL else failed(ended.reason, ended.message))
    steps: list[Step] = []
    if not started:
        steps.append(CommandStarted(at=facts.look.started_at))
    at = max(ended.at, facts.look.started_at)
    cause: ExitCause = _CAUSES.get(ended.cause, "exit")
    steps.append(CommandExited(at=at, exit_code=ended.exit_code, exit_cause=cause))
    return Note(tuple(steps))


def _running(facts: Facts, *, started: bool) -> Action:
    if facts.look.started_at is not None and not started:
        return Note((CommandStarted(at=facts.look.started_at),))
    if facts.intent is Intent.RUN and not facts.reclaimed:
        return Wait()
    return End(facts.intent, facts.reclaimed and facts.intent is not Intent.KILL)


def _not_started(facts: Facts) -> Action:
    asked = facts.look.status is Status.ASKED
    if facts.intent is Intent.RUN and not facts.reclaimed:
        return Start() if asked else Prepare()
    return Cancel() if asked else Conclude(_never_started(facts))


def _never_started(facts: Facts) -> Verdict:
    """Where nothing says any more why it never started, the scheduler knows what was wanted, and of which machine."""
    return failed(Reason.SPOT_RECLAIMED) if facts.reclaimed and facts.intent is Intent.RUN else KILLED


def _lost(facts: Facts) -> Action:
    if facts.intent is Intent.KILL:
        return Conclude(KILLED)
    if not facts.same_boot:
        return Conclude(failed(Reason.HOST_REBOOTED))
    return Conclude(failed(Reason.SPOT_RECLAIMED if facts.reclaimed else Reason.SHIM_LOST))
