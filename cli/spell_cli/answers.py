"""The shapes of the server's answers, as far as the command line reads them: `spell_proto.views` would be slow to import."""

# A test holds the two together.
from typing import Any, TypedDict


class Environment(TypedDict):
    pip: list[str]
    requirements: str | None
    constraints: str | None
    conda: str | None
    python: str | None
    apt: list[str]
    framework: str | None
    accelerator: str | None
    latest: bool
    key: str | None


class Code(TypedDict):
    repository_id: int
    repository: str
    commit: str
    snapshot: str | None
    tree: str
    root_directory: str
    cwd: str


class Github(TypedDict):
    url: str
    ref: str | None


class Mount(TypedDict):
    resource: str
    target: str
    owner_id: int
    manifest: str | None
    path: str
    is_file: bool
    bucket: str | None
    led_to: str | None


class Spec(TypedDict):
    command: str
    machine_type: str
    environment: Environment
    env: dict[str, str]
    code: Code | None
    github: Github | None
    description: str
    timeout_seconds: int | None
    docker_image: str | None
    framework: str | None
    mounts: list[Mount]
    save_every_seconds: int | None
    no_save: list[str]


class Snapshot(TypedDict):
    number: int
    asked: int
    manifest: str | None
    files: int
    bytes: int
    at: str
    notes: list[str]


class Run(TypedDict):
    id: int
    owner_id: int
    creator: str
    state: str
    intent: str
    reason: str | None
    message: str | None
    version: int
    attempt: int
    machine_id: str | None
    machine_reachable: bool
    spec: Spec
    labels: list[str]
    exit_code: int | None
    created_at: str
    started_at: str | None
    ended_at: str | None
    run_seconds: float | None
    manifest: str | None
    saved_files: int | None
    saved_bytes: int | None
    log: dict[str, Any] | None
    queue_reason: str | None
    engine: str | None
    gpus: list[str]
    archived_at: str | None
    saves: int
    saves_met: int
    save_problem: str | None
    saved_changed: int | None
    save_notes: list[str]
    snapshots: list[Snapshot]


class Runs(TypedDict):
    runs: list[Run]
    more: bool


class EndOutcome(TypedDict):
    outcome: str
    run: Run


class SaveOutcome(TypedDict):
    asked: int
    run: Run


class EndOutcomes(TypedDict):
    """The answer to stopping or killing several runs: the ids, by what became of each."""

    ending: list[int]
    ended: list[int]
    already_final: list[int]
    unknown: list[int]


class ArchiveOutcome(TypedDict):
    """The answer to archiving runs: the ids, by what became of each."""

    archived: list[int]
    already_archived: list[int]
    active: list[int]
    unknown: list[int]


class Transition(TypedDict):
    run_id: int
    owner_id: int
    version: int
    kind: str
    before: str | None
    after: str
    intent: str
    attempt: int
    actor: str
    reason: str | None
    exit_code: int | None
    at: str


class Event(Transition):
    """A line of the event stream: a transition, and where to read on from."""

    cursor: str


class Entry(TypedDict):
    """A file, or a directory where `size` is null, or a link."""

    path: str
    size: int | None
    modified_at: str | None
    sha256: str | None
    mode: int | None
    link: str | None
    changed: bool


class Listing(TypedDict):
    """What is at a path; `target` is what it leads to where it goes through a link."""

    path: str
    entries: list[Entry]
    target: str | None
    deleted: list[str]


class UsageEntry(TypedDict):
    path: str
    files: int
    bytes: int


class Usage(TypedDict):
    """How much is at a path, and in each thing in it."""

    path: str
    entries: list[UsageEntry]
    files: int
    bytes: int


class Upload(TypedDict):
    id: int
    name: str
    compressed: bool
    manifest: str | None
    files: int | None
    bytes: int | None
    created_at: str
    completed_at: str | None


class Link(TypedDict):
    alias: str
    target: str
    created_at: str


class Repository(TypedDict):
    id: int
    owner_id: int
    name: str
    root_commit: str | None
    url: str | None
    remote_url: str
    created_at: str
    updated_at: str


class GitCredentials(TypedDict):
    """That credentials are stored for a host."""

    host: str
    username: str
    created_at: str


class Registry(TypedDict):
    """That a login is stored for a registry."""

    registry: str
    kind: str
    username: str
    created_at: str


class Registries(TypedDict):
    registries: list[Registry]
    aws_role: str | None


class Bucket(TypedDict):
    """That credentials are stored for a bucket."""

    url: str
    kind: str
    username: str
    created_at: str


class BucketObject(TypedDict):
    """A line of a listing; `size` is null for what longer keys begin with."""

    key: str
    size: int | None
    etag: str | None
    modified_at: str | None


class Check(TypedDict):
    id: str
    title: str
    ok: bool
    checked: int
    detail: str


class Verdict(TypedDict):
    checks: list[Check]


class Health(TypedDict):
    service: str
    version: str
    ok: bool
    detail: str


class FilesUse(TypedDict):
    files: int
    bytes: int
    files_max: int
    bytes_max: int


class Status(TypedDict):
    """Limits and counts of the caller, and the health of every service behind the server."""

    user: str
    runs_max: int
    active: int
    queued: int
    total: int
    services: list[Health]
    saved: FilesUse | None


class MachineType(TypedDict):
    name: str
    machines: int
    slots: int
    slots_used: int
    engines: list[str]
    gpus: int
    gpu_models: list[str]
    run_bytes_max: int
    run_files_max: int


class MachineTypes(TypedDict):
    machine_types: list[MachineType]
    default: str


class Key(TypedDict):
    """An SSH key of the caller."""

    id: int
    title: str
    fingerprint: str
    created_at: str


class EnvironmentView(TypedDict):
    key: str
    python: str
    packages: int
    ready: bool
    in_use: bool
    runs: int
    bytes: int | None
    built_at: str | None
    build_seconds: float | None
    used_at: str | None


class Environments(TypedDict):
    environments: list[EnvironmentView]
    bytes: int
    bytes_max: int


class EnvironmentDetail(TypedDict):
    environment: EnvironmentView
    platform: str
    libc: str
    lock: str


class EnvironmentUse(TypedDict):
    """The environment of a run, and what is other than in that of an earlier one."""

    run_id: int
    reused: bool
    resolved_at: str | None
    detail: EnvironmentDetail
    compared_with: int | None
    changes: list[str]
    framework: str | None


class Removed(TypedDict):
    keys: list[str]
    bytes: int


class EnvironmentPlan(TypedDict):
    state: str
    key: str | None
    python: str
    packages: list[str]
    framework: str | None
    notes: list[str]
    image: str | None


class Framework(TypedDict):
    name: str
    aliases: list[str]
    summary: str
    note: str
    python: str
    packages: list[str]
    image: str | None


class Frameworks(TypedDict):
    frameworks: list[Framework]


class RunPlan(TypedDict):
    """What a run would be; nothing was made."""

    environment: EnvironmentPlan
    machine: MachineType
    code_known: bool | None
    mounts: list[Mount]
