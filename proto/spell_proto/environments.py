"""What the builder tells of environments: which there are, what is in one, and what a run used."""

from datetime import datetime

from spell_proto.shapes import Shape
from spell_proto.spec import EnvironmentRequest

#: A file of this name at the top of an environment holds the list of what it consists of.
LIST = ".spell-contents"
#: A file of this name says, beginning with `{"key": "…"`, which environment it is: nothing is written to it any more.
MARKER = ".spell-complete"


class EnvironmentView(Shape):
    """An environment. `ready` while it is on disk; `in_use` while a run that has not ended uses it."""

    key: str
    python: str
    packages: int
    ready: bool
    in_use: bool
    runs: int
    bytes: int | None
    built_at: datetime | None
    build_seconds: float | None
    used_at: datetime | None


class EnvironmentList(Shape):
    """All that are on disk, the last used first, and how much room they may take."""

    environments: tuple[EnvironmentView, ...]
    bytes: int
    bytes_max: int


class EnvironmentDetail(Shape):
    """An environment with its exact content: `lock` is a requirements file that gives it again."""

    environment: EnvironmentView
    platform: str
    libc: str
    lock: str


class UseAsked(Shape):
    """Which environment did a run use, and how does it differ from that of the first of `others` with another one?"""

    run_id: int
    others: tuple[int, ...] = ()


class UseView(Shape):
    """The environment of a run. `reused` when it was there already; `changes` against the run `compared_with`."""

    run_id: int
    reused: bool
    resolved_at: datetime | None
    detail: EnvironmentDetail
    compared_with: int | None
    changes: tuple[str, ...]
    framework: str | None = None


class PlanAsked(Shape):
    """What would become of a request?"""

    environment: EnvironmentRequest


class PlanView(Shape):
    """What an environment would take: `ready` (reused), `known` (versions are known, files are not there), `new`, or
    `image` (nothing but that image). `notes` are what is said of its framework.
    """

    state: str
    key: str | None
    python: str
    packages: tuple[str, ...]
    framework: str | None = None
    notes: tuple[str, ...] = ()
    image: str | None = None


class Removed(Shape):
    """Environments that were removed, and the room that this gave."""

    keys: tuple[str, ...]
    bytes: int


class RunsAsked(Shape):
    """Runs that may have ended."""

    run_ids: tuple[int, ...]


class FrameworkView(Shape):
    """A name that `--framework` takes: packages, for a range of Pythons or any, or an image with everything in it."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    note: str
    python: str
    packages: tuple[str, ...]
    image: str | None


class FrameworkList(Shape):
    """All frameworks, the one that the docker engine gives without a name first."""

    frameworks: tuple[FrameworkView, ...]


class CheckView(Shape):
    """An environment can be tried. `image` where it is an image that holds it all."""

    image: str | None = None


class ArchiveAsked(Shape):
    """Where is the archive of an environment? `fetching` where it is about to be fetched. `damaged` is the digest of
    one that was fetched and is not what it should be.
    """

    fetching: bool = False
    damaged: str | None = None


class Python(Shape):
    """The interpreter that an environment needs on its machine."""

    path: str
    version: str
    platform: str
    libc: str


class ArchiveView(Shape):
    """The archive of an environment: `content` is the digest of its list, `path` the directory that it was built for.

    Where it has an interpreter of its own, it needs no other.
    """

    digest: str
    size: int
    content: str
    path: str
    python: Python | None
