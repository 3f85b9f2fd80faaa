"""What only the gateway says or is told: accounts, batches, listings of files, its own status."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from spell_proto import checks
from spell_proto.environments import PlanView
from spell_proto.errors import InvalidError, shown
from spell_proto.mounts import Mount
from spell_proto.shapes import Shape
from spell_proto.views import FilesUse, Health, MachineTypeView, OwnerSummary, RunView

TOKEN_SECONDS_MAX = 10 * 366 * 24 * 3600
BATCH_MAX = 1000
SECRET_CHARS_MAX = 1024
TOKEN_NAME_CHARS_MAX = 64


def _name(value: str) -> str:
    return checks.line(value, "name", TOKEN_NAME_CHARS_MAX)


def _repository_name(value: str) -> str:
    return checks.line(value, "name", checks.REPOSITORY_CHARS_MAX)


def _title(value: str) -> str:
    return checks.line(value, "title", checks.TITLE_CHARS_MAX, least=0)


def _root_commit(value: str) -> str:
    try:
        return checks.commit(value)
    except InvalidError:
        raise InvalidError(
            "commit_invalid", f"root_commit: {shown(value)} is not a full commit hash", field="root_commit"
        ) from None


Name = Annotated[str, AfterValidator(_name)]


class User(Shape):
    """Somebody who may ask. Everything he makes carries his `id` as its owner."""

    id: int
    name: str
    created_at: datetime
    admin: bool = False


class Me(Shape):
    user: User


class TokenRequest(Shape):
    """A token to be made; without `expires_in_seconds` it is good until it is deleted."""

    name: Name
    expires_in_seconds: Annotated[int | None, Field(ge=1, le=TOKEN_SECONDS_MAX)] = None


class TokenView(Shape):
    id: int
    name: str
    created_at: datetime
    expires_at: datetime | None


class TokenList(Shape):
    tokens: tuple[TokenView, ...]


class TokenMade(Shape):
    """A new token. `value` is shown this once and kept nowhere."""

    token: TokenView
    value: str


class KeyRequest(Shape):
    """A public SSH key as it stands in `id_ed25519.pub`. Without a title its comment is taken."""

    public_key: str
    title: Annotated[str, AfterValidator(_title)] = ""


class KeyView(Shape):
    id: int
    title: str
    fingerprint: str
    created_at: datetime


class KeyList(Shape):
    keys: tuple[KeyView, ...]


class KeyOwner(Shape):
    """Whose key it is: the answer to the SSH endpoint."""

    owner_id: int
    user_name: str


class RepositoryRequest(Shape):
    """A repository, known by its first commit. Asked again it takes the new name."""

    root_commit: Annotated[str, AfterValidator(_root_commit)]
    name: Annotated[str, AfterValidator(_repository_name)]


RunId = Annotated[int, Field(ge=1, le=checks.RUN_ID_MAX)]


class Collection(Shape):
    """Which environments to remove: the longest unused until the rest has room, or `everything` that no run uses."""

    everything: bool = False


class RunPlan(Shape):
    """What a run would be: its environment, where it would run, whether its code is here (null: it has none), and what
    it would mount.
    """

    environment: PlanView
    machine: MachineTypeView
    code_known: bool | None
    mounts: tuple[Mount, ...] = ()


class Batch(Shape):
    """Runs to be ended, or archived, together."""

    run_ids: Annotated[tuple[RunId, ...], Field(min_length=1, max_length=BATCH_MAX)]


class BatchOutcome(Shape):
    """What became of each: `unknown` are ids of no run of yours."""

    ending: tuple[int, ...]
    ended: tuple[int, ...]
    already_final: tuple[int, ...]
    unknown: tuple[int, ...]


def host_name(value: str) -> str:
    """A host that code is fetched from, with a port where it is not 443."""
    try:
        return checks.github_host(checks.github_url(f"https://{value}/repository"))
    except InvalidError:
        raise InvalidError(
            "host_invalid",
            f"host: {shown(value)} is not a host name, as in github.com or git.example.org:8443",
            field="host",
        ) from None


def _secret(value: str) -> str:
    if not 1 <= len(value) <= SECRET_CHARS_MAX or not value.isprintable() or not value.isascii():
        raise InvalidError(
            "secret_invalid",
            f"user name and password: 1 to {SECRET_CHARS_MAX} printable ASCII characters each are allowed",
            field="password",
        )
    return value


class GitCredentials(Shape):
    """What git says to a host of private repositories: a user name and a password or access token."""

    username: Annotated[str, AfterValidator(_secret)]
    password: Annotated[str, AfterValidator(_secret)]


class ResourceEntry(Shape):
    """A file, or a directory where `size` is null. `path` is relative to the listed path. With a `link` it is a symbolic
    link in a resource, or a name for a resource. What has `changed` was written to while it was saved.
    """

    path: str
    size: int | None
    modified_at: datetime | None
    sha256: str | None
    mode: int | None
    link: str | None
    changed: bool = False


class ResourceList(Shape):
    """What is at `path`; where it goes through a link, `target` is what that leads to. Of all files of a run, `deleted` are
    the paths of its code that it removed.
    """

    path: str
    entries: tuple[ResourceEntry, ...]
    target: str | None = None
    deleted: tuple[str, ...] = ()


class UsageEntry(Shape):
    """Files, and how long they are together. Equal files count each, though their bytes are kept once."""

    path: str
    files: int
    bytes: int


class Usage(Shape):
    """What is at `path`, and each thing in it."""

    path: str
    entries: tuple[UsageEntry, ...]
    files: int
    bytes: int


class StatusView(OwnerSummary):
    """Limits and counts of the caller, and how the services are. `saved` is null where storage does not answer."""

    user: str
    services: tuple[Health, ...]
    saved: FilesUse | None = None


class Created(Shape):
    """A run, and whether an earlier request with the same key had made it."""

    run: RunView
    replayed: bool
