"""The states of a run, the moves that are legal between them, and why a run may end as it does.

Theory of operation
-------------------
A run is always in exactly one `RunState`. Two rules:

1. Everything that is true about states and moves stands in this file. Nothing else may know what follows
   what; the diagram in `docs/run-lifecycle.md` and the table `legal_moves` in the scheduler's database are
   generated from `TRANSITIONS`.
2. This file does not know who moves a run or when. That is `spell_scheduler.lifecycle`.

What the user *wants* (`Intent`) stands beside the state, so that a stop which arrives while the run is still
being built is not lost. An intent only ever hardens: run, then stop, then kill.

Standard library only: the command line imports this module on every start.
"""

from enum import StrEnum

from spell_proto.errors import IllegalTransitionError


class RunState(StrEnum):
    """Where a run is in its life. The values are stored, sent and printed."""

    REQUESTED = "requested"
    BUILDING = "building"
    MOUNTING = "mounting"
    RUNNING = "running"
    SAVING = "saving"
    PUSHING = "pushing"
    COMPLETE = "complete"
    STOPPED = "stopped"
    KILLED = "killed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


S = RunState

#: One sentence per state, for the documentation and the help texts.
MEANING: dict[RunState, str] = {
    S.REQUESTED: "waits for the owner's limit of concurrent runs and for a free slot on a machine of its type",
    S.BUILDING: "its environment comes from the cache or is built, and its code is laid into the workspace",
    S.MOUNTING: "its resources appear in the workspace; passed over when nothing is mounted",
    S.RUNNING: "the command runs; its output streams",
    S.SAVING: "new and modified files become the resource runs/N",
    S.PUSHING: "the environment reaches the shared cache",
    S.COMPLETE: "the command ended by itself, with whatever exit code, and its files are kept",
    S.STOPPED: "the command was ended by a stop, a stop condition or a timeout, and its files are kept",
    S.KILLED: "ended by a kill, or by a stop before the command ran; nothing is kept",
    S.FAILED: "something other than the command went wrong",
    S.INTERRUPTED: "the spot machine under it was taken away; its files are kept where there was notice",
}

#: state -> states it may move to. `None` is the run that does not exist yet. Final states have empty rows.
TRANSITIONS: dict[RunState | None, frozenset[RunState]] = {
    None: frozenset({S.REQUESTED}),
    S.REQUESTED: frozenset({S.BUILDING, S.KILLED, S.FAILED}),
    S.BUILDING: frozenset({S.MOUNTING, S.RUNNING, S.KILLED, S.FAILED, S.INTERRUPTED}),
    S.MOUNTING: frozenset({S.RUNNING, S.KILLED, S.FAILED, S.INTERRUPTED}),
    S.RUNNING: frozenset({S.SAVING, S.KILLED, S.FAILED, S.INTERRUPTED}),
    S.SAVING: frozenset({S.PUSHING, S.KILLED, S.FAILED, S.INTERRUPTED}),
    S.PUSHING: frozenset({S.COMPLETE, S.STOPPED, S.KILLED, S.FAILED, S.INTERRUPTED}),
    S.COMPLETE: frozenset(),
    S.STOPPED: frozenset(),
    S.KILLED: frozenset(),
    S.FAILED: frozenset(),
    S.INTERRUPTED: frozenset(),
}

FINAL: frozenset[RunState] = frozenset(state for state in RunState if not TRANSITIONS[state])

#: States in which a run holds a slot of a machine and counts against its owner's limit.
ACTIVE: frozenset[RunState] = frozenset(state for state in RunState if state not in FINAL | {S.REQUESTED})

#: States in which the user's command has not started yet.
BEFORE_RUNNING: frozenset[RunState] = frozenset({S.REQUESTED, S.BUILDING, S.MOUNTING})

#: Final states that keep what was saved by then as runs/N, all or nothing; others only with a reason that keeps it.
SAVED: frozenset[RunState] = frozenset({S.COMPLETE, S.STOPPED, S.INTERRUPTED})


def check_transition(before: RunState | None, after: RunState) -> None:
    """Raise `IllegalTransitionError` unless `after` may follow `before`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransitionError(before, after)


class Intent(StrEnum):
    """What the user wants of a run."""

    RUN = "run"
    STOP = "stop"
    KILL = "kill"


_HARDNESS = {Intent.RUN: 0, Intent.STOP: 1, Intent.KILL: 2}


def harder(left: Intent, right: Intent) -> Intent:
    """The harder of two intents: kill beats stop beats run."""
    return left if _HARDNESS[left] >= _HARDNESS[right] else right


class Reason(StrEnum):
    """Why a run ended otherwise than by its command, machine-readable and separate from the exit code."""

    STOPPED_BY_USER = "stopped_by_user"
    STOPPED_BEFORE_RUNNING = "stopped_before_running"
    KILLED_BY_USER = "killed_by_user"
    TIMEOUT = "timeout"
    STOP_CONDITION = "stop_condition"
    BUILD_FAILED = "build_failed"
    CODE_FETCH = "code_fetch"
    MOUNT_FAILED = "mount_failed"
    START_FAILED = "start_failed"
    SHIM_LOST = "shim_lost"
    OOM = "oom"
    DISK_QUOTA = "disk_quota"
    DOCKER_RESTARTED = "docker_restarted"
    SAVE_FAILED = "save_failed"
    MACHINE_LOST = "machine_lost"
    HOST_REBOOTED = "host_rebooted"
    UNKILLABLE = "unkillable"
    SPOT_RECLAIMED = "spot_reclaimed"


#: A run that fails with one of these keeps its files: it had come to its end, and they may say why.
KEEPING_FILES: frozenset[Reason] = frozenset({Reason.OOM, Reason.DISK_QUOTA})

#: reason -> the phase it belongs to; `None` where it can strike in any phase.
REASON_PHASE: dict[Reason, RunState | None] = {
    Reason.STOPPED_BY_USER: S.RUNNING,
    Reason.STOPPED_BEFORE_RUNNING: None,
    Reason.KILLED_BY_USER: None,
    Reason.TIMEOUT: S.RUNNING,
    Reason.STOP_CONDITION: S.RUNNING,
    Reason.BUILD_FAILED: S.BUILDING,
    Reason.CODE_FETCH: S.BUILDING,
    Reason.MOUNT_FAILED: S.MOUNTING,
    Reason.START_FAILED: S.BUILDING,
    Reason.SHIM_LOST: S.RUNNING,
    Reason.OOM: S.RUNNING,
    Reason.DISK_QUOTA: S.RUNNING,
    Reason.DOCKER_RESTARTED: S.RUNNING,
    Reason.SAVE_FAILED: S.SAVING,
    Reason.MACHINE_LOST: None,
    Reason.HOST_REBOOTED: None,
    Reason.UNKILLABLE: None,
    Reason.SPOT_RECLAIMED: None,
}

#: What a person reads in `spell info` and at the end of a log.
REASON_TEXT: dict[Reason, str] = {
    Reason.STOPPED_BY_USER: "stopped by its user",
    Reason.STOPPED_BEFORE_RUNNING: "stopped before its command had started",
    Reason.KILLED_BY_USER: "killed by its user",
    Reason.TIMEOUT: "its time limit was reached",
    Reason.STOP_CONDITION: "a stop condition was met",
    Reason.BUILD_FAILED: "its environment could not be built",
    Reason.CODE_FETCH: "its code could not be fetched",
    Reason.MOUNT_FAILED: "a resource could not be mounted",
    Reason.START_FAILED: "its command could not be started",
    Reason.SHIM_LOST: "the process that watched its command vanished",
    Reason.OOM: "it ran out of memory",
    Reason.DISK_QUOTA: "it ran out of its disk quota",
    Reason.DOCKER_RESTARTED: "the Docker daemon restarted under it",
    Reason.SAVE_FAILED: "its files could not be saved",
    Reason.MACHINE_LOST: "contact with its machine was lost",
    Reason.HOST_REBOOTED: "its machine restarted",
    Reason.UNKILLABLE: "a process of it could not be killed",
    Reason.SPOT_RECLAIMED: "its spot machine was reclaimed",
}
