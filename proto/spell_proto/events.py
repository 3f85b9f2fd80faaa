"""Everything that is said on the bus or between services about runs: facts, reports and heartbeats.

Facts are past tense and public (`spell.events.run.<id>.<kind>`, described by `docs/asyncapi.json`). Reports are
what a machine says about its attempts; the scheduler decides what they mean. Requests stand in `commands.py`.

Every message carries `v` (the major version of its shape), `cause` (the id of what made it happen) and
`traceparent` where a trace is known. A receiver ignores members it does not know.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from spell_proto.state import Intent, Reason, RunState


class Message(BaseModel):
    """Base of every message: frozen and strict. Unknown members are ignored, so that newer senders may add some."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    v: Literal[1] = 1
    cause: str = ""
    traceparent: str | None = None


# ---- facts ---------------------------------------------------------------------------------------------------


class RunMoved(Message):
    """A run has entered a state. `before` is null for the first one."""

    kind: Literal["moved"] = "moved"
    run_id: int
    owner_id: int
    version: int
    before: RunState | None
    after: RunState
    intent: Intent
    attempt: int
    reason: Reason | None = None
    exit_code: int | None = None
    at: datetime


class RunIntentChanged(Message):
    """Somebody, or something, wants a run to stop or to be killed. The run is still in `state`."""

    kind: Literal["intent"] = "intent"
    run_id: int
    owner_id: int
    version: int
    state: RunState
    intent: Intent
    reason: Reason
    at: datetime


Fact = Annotated[RunMoved | RunIntentChanged, Field(discriminator="kind")]


# ---- reports of a machine about an attempt -------------------------------------------------------------------


EngineName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
#: The model of a GPU, and the UUID of one.
ModelName = Annotated[str, Field(pattern=r"^[ -~]{1,100}$")]
GpuName = Annotated[str, Field(pattern=r"^[!-~]{1,140}$")]


class Step(BaseModel):
    """Base of one step of an attempt, by the clock of its machine."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    at: datetime


class LogTotals(BaseModel):
    """What the sealed journal of an attempt holds: its length, and the end marker's counts and hash."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    journal_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    dropped_bytes: int
    sha256: str


class CodeFetched(Step):
    """The code of a run that names a URL has been fetched; this is the commit it turned out to be."""

    kind: Literal["code_fetched"] = "code_fetched"
    repository_id: int
    repository: str
    commit: str
    tree: str


class ImagePinned(Step):
    """The Docker image of a run is on its machine; this is its name with the digest that stands for its content."""

    kind: Literal["image_pinned"] = "image_pinned"
    image: str


class MountingStarted(Step):
    """The resources of the run are being mounted. Left out when there are none."""

    kind: Literal["mounting_started"] = "mounting_started"


class CommandStarted(Step):
    """The user's command runs: with what, and on which GPUs (their UUIDs), where the machine says so."""

    kind: Literal["command_started"] = "command_started"
    engine: EngineName | None = None
    gpus: Annotated[tuple[GpuName, ...], Field(max_length=1024)] = ()


class SnapshotSaved(Step):
    """What a running command had made is in the store as `runs/N@<number>`; `manifest` is null when there was nothing.

    `asked` counts the snapshots that were asked for before this one was begun: it is what all of them wanted. `notes` are
    lines about what is not in it, or is not what it was: the log of a run is its command's meanwhile.
    """

    kind: Literal["snapshot_saved"] = "snapshot_saved"
    number: int
    asked: int
    manifest: str | None
    files: int
    bytes: int
    notes: tuple[str, ...] = ()


class SnapshotFailed(Step):
    """A snapshot could not be saved; the command runs on. `asked` as in `SnapshotSaved`."""

    kind: Literal["snapshot_failed"] = "snapshot_failed"
    asked: int
    message: str


ExitCause = Literal["exit", "stop", "kill", "reclaim"]


class CommandExited(Step):
    """The user's command has ended. `cause` is `exit` when it ended before TERM or KILL was delivered, `reclaim` when
    TERM came because its spot machine is about to be taken away.

    `exit_code` is what a shell would show: 0 to 255, 128 + S for signal S. Files are being saved from here on.
    """

    kind: Literal["command_exited"] = "command_exited"
    exit_code: int
    exit_cause: ExitCause


class OutputsSaved(Step):
    """New and modified files are in the store; `manifest` is the digest of their manifest, null when there are none.

    `changed` of them were written to while they were saved. `notes` are lines about those, and about what is left out.
    """

    kind: Literal["outputs_saved"] = "outputs_saved"
    manifest: str | None
    files: int
    bytes: int
    changed: int = 0
    notes: tuple[str, ...] = ()


class AttemptFinished(Step):
    """Everything is done: files saved, environment pushed, journal sealed."""

    kind: Literal["attempt_finished"] = "attempt_finished"
    log: LogTotals


class AttemptFailed(Step):
    """The attempt is over, and not by its command."""

    kind: Literal["attempt_failed"] = "attempt_failed"
    reason: Reason
    message: str
    log: LogTotals | None


class AttemptKilled(Step):
    """Nothing of the attempt runs any more, and nothing of it was saved: a kill, or a stop before it ran."""

    kind: Literal["attempt_killed"] = "attempt_killed"
    log: LogTotals | None


AnyStep = Annotated[
    CodeFetched
    | ImagePinned
    | MountingStarted
    | CommandStarted
    | SnapshotSaved
    | SnapshotFailed
    | CommandExited
    | OutputsSaved
    | AttemptFinished
    | AttemptFailed
    | AttemptKilled,
    Field(discriminator="kind"),
]


class AttemptReport(Message):
    """Steps `first_step`, `first_step + 1`, … of an attempt (the first step of all is number 1).

    Steps already known are skipped; a report that would leave a gap is ignored, and the next heartbeat's answer
    tells the machine where to resume.
    """

    kind: Literal["attempt"] = "attempt"
    machine_id: str
    run_id: int
    attempt: int
    fence: int
    first_step: int
    steps: tuple[AnyStep, ...]


# ---- heartbeats: a request of a machine, and what it is answered ---------------------------------------------


class AttemptHeld(BaseModel):
    """An attempt that lives on a machine, and how many of its steps the machine has noted."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    run_id: int
    attempt: int
    fence: int
    steps: int


class Heartbeat(Message):
    """What a machine is and has. `boot_id` changes with every boot of its operating system.

    `engines` are those that can run commands there right now; null from a machine that does not say, which is taken
    to have all. `gpus` is how many GPUs each of its runs gets, `gpu_models` what they are. Each of its runs may write
    `run_bytes_max` bytes and make `run_files_max` files; 0 is as many as it likes. It is `reclaimed` while a notice
    stands that it is about to be taken away: then it wants no more runs, and ends those it has.
    """

    kind: Literal["heartbeat"] = "heartbeat"
    machine_id: str
    boot_id: str
    machine_type: str
    slots: int
    isolation: str
    spot: bool = False
    reclaimed: bool = False
    engines: Annotated[tuple[EngineName, ...] | None, Field(max_length=16)] = None
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    gpu_models: Annotated[tuple[ModelName, ...], Field(max_length=16)] = ()
    run_bytes_max: Annotated[int, Field(ge=0, le=1 << 60)] = 0
    run_files_max: Annotated[int, Field(ge=0, le=1 << 60)] = 0
    attempts: tuple[AttemptHeld, ...]


class AttemptWanted(BaseModel):
    """An attempt that should live on a machine, what is wanted of it, and how many of its steps are known here.

    `saves` is how many snapshots of it were asked for.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    run_id: int
    attempt: int
    fence: int
    intent: Intent
    steps: int
    saves: int = 0


class HeartbeatAnswer(Message):
    """Everything the machine should have. What it has beyond this is over or fenced off, and is to be removed."""

    kind: Literal["heartbeat_answer"] = "heartbeat_answer"
    attempts: tuple[AttemptWanted, ...]
