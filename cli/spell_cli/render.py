"""What a follower's records look like to a person: records in, actions for the screen out. Pure.

Two forms. With spinners (a terminal, not verbose) a phase is one line that says `Building…` with its latest
message behind it, and becomes `Building… done`. Without, every entry is a line of its own.

Records come from two sides that are not in step: the scheduler's states and the attempt's journal, which is the
more precise one. So states from Mounting to Pushing are taken from the journal alone, and a phase is only ever
entered once, in its order.
"""

import signal
from typing import Any, NamedTuple

from spell_cli.answers import Run
from spell_cli.errors import ExitCode
from spell_cli.times import go_duration
from spell_proto.journal import Record, RecordKind
from spell_proto.state import FINAL, REASON_TEXT, Intent, Reason, RunState

S = RunState

#: What a phase is called while it lasts.
LABEL = {
    S.REQUESTED: "Machine_Requested",
    S.BUILDING: "Building",
    S.MOUNTING: "Mounting",
    S.SAVING: "Saving",
    S.PUSHING: "Pushing",
}
_PATH = (S.REQUESTED, S.BUILDING, S.MOUNTING, S.RUNNING, S.SAVING, S.PUSHING)
_ORDER = {state: rank for rank, state in enumerate(_PATH)}
_FINAL_EMOJI = {S.COMPLETE: "🎉", S.STOPPED: "✋", S.KILLED: "💀", S.FAILED: "💥", S.INTERRUPTED: "✋"}
_QUEUE_TEXT = {
    "owner_limit": "Your limit of concurrent runs is reached -- the run starts by itself when another one ends.",
    "no_machine": "No machine of this type is registered -- the run starts by itself when one is.",
    "no_engine": "No machine of this type can run it right now, as Docker does not answer -- the run starts by itself "
    "when it does.",
    "no_slot": "All machines of this type are busy -- the run starts by itself when one is free.",
}


class Line(NamedTuple):
    """A line of the platform's own."""

    emoji: str
    text: str


class Output(NamedTuple):
    """Bytes the command wrote."""

    to_stderr: bool
    data: bytes


class Spin(NamedTuple):
    """A phase that lasts, and its latest message."""

    label: str
    message: str


class Settle(NamedTuple):
    """The phase that lasted is over: its line stays, with this text."""

    emoji: str
    text: str


Action = Line | Output | Spin | Settle


class Renderer:
    """Turns the records of one run into actions, in order."""

    def __init__(self, run_id: int, *, spinners: bool) -> None:
        self._run_id = run_id
        self._spinners = spinners
        self._state: RunState | None = None
        self._spinning: str | None = None
        self._errors = 0
        self._last_note = ""

    def record(self, record: Record) -> list[Action]:
        """What one record of the stream shows."""
        match record.kind:
            case RecordKind.STDOUT | RecordKind.STDERR:
                entered = self._enter(S.RUNNING, "Run is running")
                return [*entered, Output(record.kind is RecordKind.STDERR, record.payload)]
            case RecordKind.NOTE:
                return self._note(record.json())
            case RecordKind.PHASE:
                phase = record.json()
                state = RunState(phase["phase"])
                return self._enter(state, phase.get("text") or f"Run is {state}")
            case RecordKind.STATE:
                return self._moved(record.json())
            case RecordKind.GAP:
                gap = record.json()
                lost = gap.get("stdout_bytes", 0) + gap.get("stderr_bytes", 0)
                return [Line("💫", f"{lost} bytes of output above the limit of a log were not kept")]
            case _:
                return []

    def queued(self, run: Run) -> list[Action]:
        """Why a run that was just created does not start at once."""
        text = _QUEUE_TEXT.get(run["queue_reason"] or "")
        if text is None or run["state"] != S.REQUESTED:
            return []
        if not self._spinners:
            return [Line("✨", text)]
        self._state, self._spinning = S.REQUESTED, LABEL[S.REQUESTED]
        return [Spin(self._spinning, text)]

    def done(self, run: Run) -> list[Action]:
        """The end of the run."""
        state = RunState(run["state"])
        emoji = _FINAL_EMOJI.get(state, "✨")
        actions = self._settle("failed" if state is S.FAILED else "done" if state in _ENDED_WELL else "")
        epitaph = _epitaph(run, state)
        # What the platform has just said need not be said again.
        if epitaph is not None and epitaph != self._last_note:
            actions.append(Line("✨" if state is S.COMPLETE else emoji, epitaph))
        if run["run_seconds"] is not None:
            actions.append(Line(emoji, f"Total run time: {go_duration(run['run_seconds'])}"))
        actions.append(Line(emoji, f"Run {self._run_id} {state}"))
        if self._errors and self._spinners:
            text = f"Use 'spell logs {self._run_id} --verbose' to examine cause of error."
            actions.append(Line("ℹ️ ", text))
        return actions

    def leave(self) -> list[Action]:
        """The stream ends before the run does."""
        return self._settle("")

    def _moved(self, transition: dict[str, Any]) -> list[Action]:
        state = RunState(transition["after"])
        if transition.get("kind") == "intent":
            text = "Run is stopping" if transition["intent"] == Intent.STOP else "Run is being killed"
            return [Line("💫", transition.get("text") or text)]
        if state not in {S.REQUESTED, S.BUILDING}:
            return []
        return self._enter(state, transition.get("text") or f"Run is {state}")

    def _note(self, note: dict[str, Any]) -> list[Action]:
        text = str(note.get("text", "")).rstrip("\n")
        is_error = note.get("level") == "error"
        self._errors += is_error
        shown_as_line = note.get("important") or self._spinning is None
        self._last_note = text if shown_as_line else ""
        if note.get("important"):
            return [Line("💫", text)]
        if self._spinners and is_error:
            return [Line("✖", text)]
        if self._spinning is not None:
            return [Spin(self._spinning, text)]
        return [Line("", text)]

    def _enter(self, state: RunState, text: str) -> list[Action]:
        if state in FINAL or (self._state is not None and _ORDER[state] <= _ORDER[self._state]):
            return []
        actions = self._settle("done")
        self._state = state
        if not self._spinners or state not in LABEL:
            return [*actions, Line("✨", text)]
        self._spinning = LABEL[state]
        # "Run is building" says no more than the label does.
        return [*actions, Spin(self._spinning, "" if text == f"Run is {state}" else text)]

    def _settle(self, how: str) -> list[Action]:
        if self._spinning is None:
            return []
        label, self._spinning = self._spinning, None
        return [Settle("✖" if how == "failed" else "✨", f"{label}… {how}".rstrip())]


_ENDED_WELL = frozenset({S.COMPLETE, S.STOPPED})


def _epitaph(run: Run, state: RunState) -> str | None:
    """What there is to say about an end besides its name."""
    if state is S.COMPLETE:
        code = run["exit_code"]
        return f"The command ended with {exit_code_text(code)}" if code else None
    reason = run["reason"]
    if reason in {Reason.STOPPED_BY_USER, Reason.KILLED_BY_USER}:
        return None
    reason_text = REASON_TEXT[Reason(reason)] if reason is not None else None
    if run["message"] and run["message"] != reason_text:
        return run["message"]
    return f"Run {run['id']}: {reason_text}" if reason_text else None


def exit_code_text(code: int) -> str:
    """An exit code, and the signal behind it if there is one."""
    number = code - 128 if code > 128 else -code
    try:
        return f"exit code {code} ({signal.Signals(number).name})" if number > 0 else f"exit code {code}"
    except ValueError:
        return f"exit code {code}"


def run_exit_code(run: Run) -> int:
    """What `spell run` and `spell wait` exit with for a run that is final."""
    match RunState(run["state"]):
        case S.FAILED:
            return ExitCode.RUN_FAILED
        case S.INTERRUPTED:
            return ExitCode.RUN_INTERRUPTED
        case S.KILLED:
            return ExitCode.RUN_KILLED
        case S.COMPLETE:
            code = run["exit_code"] or 0
            return 128 - code if code < 0 else code
        case _:
            return ExitCode.OK


def detached(run_id: int) -> list[Line]:
    """What is said when somebody stops watching a run."""
    return [
        Line("✨", "Your run is still running remotely."),
        Line("✨", f"Use 'spell stop {run_id}' to save outputs and stop your run."),
        Line("✨", f"Use 'spell kill {run_id}' to terminate your run. All outputs will be lost."),
        Line("✨", f"Use 'spell logs {run_id}' to view logs again"),
    ]
