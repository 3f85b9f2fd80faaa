"""What services tell each other, and the public API tells everybody, about runs, machines and files."""

import operator
from datetime import datetime
from typing import Literal

from pydantic import Field

from spell_proto.shapes import Shape
from spell_proto.spec import RunSpec
from spell_proto.state import Intent, Reason, RunState


class LogView(Shape):
    """Size and hash of a sealed log: bytes of stdout and stderr kept, bytes dropped above the cap."""

    journal_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    dropped_bytes: int
    sha256: str


QueueReason = Literal["owner_limit", "no_machine", "no_engine", "no_slot"]


class SnapshotView(Shape):
    """Files of a run as they were while it ran: `runs/N@<number>`. It is what everybody wanted who had asked for one
    when `asked` had been asked for. `notes` say what is not in it, or changed while it was saved; the newest have them.
    """

    number: int
    asked: int
    manifest: str | None
    files: int
    bytes: int
    at: datetime
    notes: tuple[str, ...] = ()


class RunView(Shape):
    """A run as its owner sees it. `spec.env` holds names with empty values: values are never shown.

    `waiting` says, in a sentence, why a requested run has not started. `queue_reason` is for machines:
    `owner_limit`, `no_machine` (none of the type is registered), `no_engine` (none that answers can run it right
    now) or `no_slot`. `engine` is what its command was started with, `gpus` the UUIDs of those that it got.
    An archived run is in no list, and its files are not there any more.
    Of its `saved_files` so many were written to while they were saved (`saved_changed`); `save_notes` name them, and what
    was left out. So many snapshots (`saves`) were asked for, and of so many (`saves_met`) something has come, if only a
    `save_problem`. `snapshots` are all there are; lists of runs have neither them nor notes.
    """

    id: int
    owner_id: int
    creator: str
    state: RunState
    intent: Intent
    reason: Reason | None
    message: str | None
    version: int
    attempt: int
    machine_id: str | None
    machine_reachable: bool
    spec: RunSpec
    labels: tuple[str, ...]
    exit_code: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    run_seconds: float | None
    manifest: str | None
    saved_files: int | None
    saved_bytes: int | None
    log: LogView | None
    queue_reason: QueueReason | None = None
    engine: str | None = None
    gpus: tuple[str, ...] = ()
    archived_at: datetime | None = None
    saves: int = 0
    saves_met: int = 0
    save_problem: str | None = None
    saved_changed: int | None = None
    save_notes: tuple[str, ...] = ()
    snapshots: tuple[SnapshotView, ...] = ()


class RunList(Shape):
    """Runs, newest first, without the text of a requirements file. `more` is true when older ones match too."""

    runs: tuple[RunView, ...]
    more: bool


class TransitionView(Shape):
    """One row of a run's log: a move (`before` and `after` differ) or a change of intent (they are equal)."""

    run_id: int
    owner_id: int
    version: int
    kind: Literal["moved", "intent"]
    before: RunState | None
    after: RunState
    intent: Intent
    attempt: int
    actor: str
    reason: Reason | None
    exit_code: int | None
    at: datetime


class TransitionList(Shape):
    """Rows of the log in commit order, the cursor behind each, and the one to read on from. The log of one run that
    is final brings the run along: whoever has read the end wants to know it. `machine_id` is the machine that its
    last attempt was handed to.
    """

    transitions: tuple[TransitionView, ...]
    cursors: tuple[str, ...]
    cursor: str
    run: RunView | None = None
    machine_id: str | None = None


class SaveOutcome(Shape):
    """That a snapshot will be taken: the first one of the run whose `asked` is at least this one's is it."""

    asked: int
    run: RunView


class EndOutcome(Shape):
    """What a stop or kill did: `outcome` is `ending` (the machine has been told), `ended` (at once) or
    `already_final` (nothing to do).
    """

    outcome: Literal["ending", "ended", "already_final"]
    run: RunView


class ArchiveOutcome(Shape):
    """What became of runs that were to be archived: `active` are those that have not ended, `unknown` are ids of no run
    of the owner.
    """

    archived: tuple[int, ...]
    already_archived: tuple[int, ...]
    active: tuple[int, ...]
    unknown: tuple[int, ...]


class OwnerSummary(Shape):
    """Limits and counts of one owner."""

    runs_max: int
    active: int
    queued: int
    total: int


class FilesUse(Shape):
    """What an owner has saved, contents that are in several resources counted once, and what he may have; a limit of 0
    is none.
    """

    files: int
    bytes: int
    files_max: int
    bytes_max: int


class MachineTypeView(Shape):
    """A type of machine: how many machines of it answer, and how many slots they have and use.

    `engines` are those that at least one of them can run commands with right now. `gpus` is how many GPUs each run
    gets, on the machine that gives the fewest, and `gpu_models` what they are; where no machine answers, as it was.
    A run may write `run_bytes_max` bytes and make `run_files_max` files on any of them, 0 is as many as it likes.
    """

    name: str
    machines: int
    slots: int
    slots_used: int
    engines: tuple[str, ...] = ()
    gpus: int = 0
    gpu_models: tuple[str, ...] = ()
    run_bytes_max: int = 0
    run_files_max: int = 0


class MachineTypeList(Shape):
    machine_types: tuple[MachineTypeView, ...]
    default: str


class Check(Shape):
    """The verdict on one invariant. `detail` names the first offenders when it does not hold."""

    id: str
    title: str
    ok: bool
    checked: int
    detail: str = ""


class Verdict(Shape):
    checks: tuple[Check, ...]


class ManifestEntry(Shape):
    """A saved file. `path` is relative to the resource, `/` between parts; `mode` is the permission bits. It has `changed`
    when it was written to while it was saved: it may be a mixture then.
    """

    path: str
    size: int
    sha256: str
    mode: int
    modified_at: datetime
    link: str | None = None
    # Left out where it is not so: a manifest of other files is what it always was, and has the digest that it had.
    changed: bool = Field(default=False, exclude_if=operator.not_)


#: How long a manifest may be as JSON: some 300,000 files.
MANIFEST_BYTES_MAX = 64 << 20


class Manifest(Shape):
    """What a resource holds, sorted by path; `deleted` are paths of the code that the run removed."""

    entries: tuple[ManifestEntry, ...]
    deleted: tuple[str, ...] = ()


class ManifestStored(Shape):
    """A manifest that is kept. `full` says in a sentence that its owner has as much as he may, or more."""

    digest: str
    files: int
    bytes: int
    full: str | None = None


class JournalPart(Shape):
    """Header of one piece of a journal on its way to storage; `length` bytes follow it."""

    run_id: int
    attempt: int
    fence: int
    offset: int
    length: int


class JournalEnd(Shape):
    """Where storage's copy of a journal ends. `sealed` once its end marker is stored."""

    run_id: int
    attempt: int
    end: int
    sealed: bool


class JournalEnds(Shape):
    ends: tuple[JournalEnd, ...]


class Repository(Shape):
    """A repository storage knows, per owner: all commits that grow from one root commit, or all that `url` has.

    `remote_url` is where the owner can push to; empty where the code comes from `url`.
    """

    id: int
    owner_id: int
    name: str
    root_commit: str | None
    url: str | None = None
    remote_url: str
    created_at: datetime
    updated_at: datetime


class RepositoryList(Shape):
    repositories: tuple[Repository, ...]


class Commit(Shape):
    """A commit that storage has, whole."""

    repository_id: int
    repository: str
    commit: str
    tree: str


class CommitsAsked(Shape):
    """Commits of an owner that might not be needed any more."""

    owner_id: int
    commits: tuple[str, ...]


class CommitsInUse(Shape):
    """Those among them that a run of the owner names."""

    commits: tuple[str, ...]


class ManifestsAsked(Shape):
    """Manifests of an owner that might not be needed any more."""

    owner_id: int
    digests: tuple[str, ...]


class ManifestsInUse(Shape):
    """Those among them that a run names, as what it has made or what it mounts."""

    digests: tuple[str, ...]


class PackAsked(Shape):
    """Commits a machine wants with all they need, and those it has already."""

    want: tuple[str, ...]
    have: tuple[str, ...] = ()


class PackHead(Shape):
    """What precedes a pack, as a line of JSON: annotated tags on the way to the wanted commits (name, object), and
    the commits at which the history is cut off.
    """

    tags: tuple[tuple[str, str], ...]
    shallow: tuple[str, ...]


class GitHosts(Shape):
    """Hosts from which the server fetches code, with a port where it is not 443."""

    hosts: tuple[str, ...]


class GitCredentialsView(Shape):
    """That credentials are stored for a host. The password is never shown again."""

    host: str
    username: str
    created_at: datetime


class GitCredentialsList(Shape):
    credentials: tuple[GitCredentialsView, ...]


class Health(Shape):
    service: str
    version: str
    ok: bool
    detail: str = ""
