"""What a run is asked to be: the validated request, and the attempt a machine is handed.

Shapes are frozen pydantic models: parsed once at a border, trusted inside. The rules about single fields stand
in `spell_proto.checks`.
"""

import hashlib
import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator, Field, model_validator

from spell_proto import apt, checks, frameworks, images, saves
from spell_proto.conda import CondaFile
from spell_proto.conda import parse_text as parse_conda
from spell_proto.errors import InvalidError, shown
from spell_proto.mount_paths import outside, working_directory
from spell_proto.mounts import Mount, MountRequest, placed
from spell_proto.requirements import CONSTRAINTS, Editable, Parsed, no_editables, parse_text, refused
from spell_proto.shapes import Shape
from spell_proto.state import Intent

_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)


def pip_requirement(value: str) -> str:
    """One package as `--pip` takes it: a PEP 508 name with extras, versions and markers; no URL, no option."""
    if len(value) > checks.PIP_SPEC_CHARS_MAX:
        raise InvalidError(
            "pip_spec_too_long", f"--pip: {shown(value, 40)} is above 1,000 characters", field="pip"
        )
    if value.startswith("-"):
        raise InvalidError(
            "pip_spec_invalid", f"--pip: {shown(value)}: an option of pip is no package name", field="pip"
        )
    if "://" in value or " @ " in value or value.startswith((".", "/", "git+")):
        raise InvalidError(
            "pip_url_not_allowed",
            f"--pip: {shown(value)}: a package name is allowed, no URL and no path",
            field="pip",
        )
    try:
        requirement = Requirement(value)
    except (InvalidRequirement, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidError(
            "pip_spec_invalid",
            f"--pip: {shown(value)} is not a package with versions, as in 'numpy>=1.26': {reason}",
            field="pip",
        ) from None
    if requirement.url is not None:
        raise InvalidError(
            "pip_url_not_allowed",
            f"--pip: {shown(value)}: a package name is allowed, no URL and no path",
            field="pip",
        )
    return str(requirement)


def pip_requirements(values: tuple[str, ...]) -> tuple[str, ...]:
    """All packages of a run."""
    if len(values) > checks.PIP_COUNT_MAX:
        raise InvalidError(
            "too_many_packages", f"--pip: {len(values)} packages, at most 500 are allowed", field="pip"
        )
    return tuple(pip_requirement(value) for value in values)


def _requirements(value: str | None) -> str | None:
    if value is not None:
        parse_text(value)
    return value


def _constraints(value: str | None) -> str | None:
    if value is not None:
        no_editables(parse_text(value), CONSTRAINTS)
    return value


def _conda(value: str | None) -> str | None:
    if value is not None:
        parse_conda(value)
    return value


def _python(value: str | None) -> str | None:
    return None if value is None else checks.python_version(value)


def _apt(values: tuple[str, ...]) -> tuple[str, ...]:
    return apt.packages(values)


def _framework(value: str | None) -> str | None:
    return None if value is None else frameworks.framework(value)


def _key(value: str | None) -> str | None:
    if value is not None and not _KEY.fullmatch(value):
        raise InvalidError(
            "environment_key_invalid",
            f"environment.key: {shown(value)} is not the key of an environment: 64 hexadecimal digits",
            field="key",
        )
    return value


class EnvironmentRequest(Shape):
    """What the environment of a run should hold, as asked; the builder resolves it to exact content.

    `requirements` is the text of a requirements file without includes, `constraints` what its `-c` files hold. `conda`
    is the text of a conda environment file, which says it all but the system packages (`apt`). A `framework` is looked
    up in the table of the server; `accelerator` says which of its variants the machine of the run needs.
    `latest` asks for versions of right now, whatever an equal request got before; `key` for the environment with
    this key and no other, whatever the rest asks for.
    """

    pip: Annotated[tuple[str, ...], AfterValidator(pip_requirements)] = ()
    requirements: Annotated[str | None, AfterValidator(_requirements)] = None
    constraints: Annotated[str | None, AfterValidator(_constraints)] = None
    conda: Annotated[str | None, AfterValidator(_conda)] = None
    python: Annotated[str | None, AfterValidator(_python)] = None
    apt: Annotated[tuple[str, ...], AfterValidator(_apt)] = ()
    framework: Annotated[str | None, AfterValidator(_framework)] = None
    accelerator: Literal["cuda"] | None = None
    latest: bool = False
    key: Annotated[str | None, AfterValidator(_key)] = None

    @model_validator(mode="after")
    def _conda_alone(self) -> Self:
        if self.conda is not None:
            checks.conda_alone(
                packages=bool(self.pip or self.requirements or self.constraints),
                python=self.python is not None,
            )
            checks.one_foundation(framework=self.framework is not None, conda=True)
        return self

    @property
    def bare(self) -> bool:
        """Whether it asks for nothing but Python."""
        return self == _BARE

    def parsed(self) -> tuple[Parsed, Parsed]:
        """The requirements, and the constraints."""
        return parse_text(self.requirements or ""), parse_text(self.constraints or "")

    @property
    def editables(self) -> tuple[Editable, ...]:
        """Projects of the run's own code that it can import. No environment depends on them."""
        return () if self.requirements is None else parse_text(self.requirements).editables

    def conda_file(self) -> CondaFile | None:
        """What the conda environment file asks for."""
        return None if self.conda is None else parse_conda(self.conda)

    def digest(self) -> str:
        """SHA-256 (hex) over the normalised request: equal requests, in whatever order, have equal digests.

        `latest` is no part of it: it says when to resolve, not what.
        """
        content: dict[str, Any] = {"pip": sorted(set(self.pip))}
        if self.requirements is not None:
            content["requirements"] = self.parsed()[0].canonical()
        if self.constraints is not None:
            content["constraints"] = self.parsed()[1].canonical()
        file = self.conda_file()
        if file is not None:
            content["conda"] = file.canonical()
        if self.python is not None:
            content["python"] = self.python
        if self.apt:
            content["apt"] = sorted(set(self.apt))
        if self.framework is not None:
            content["framework"] = self.framework
        if self.accelerator is not None:
            content["accelerator"] = self.accelerator
        if self.key is not None:
            content["key"] = self.key
        text = json.dumps(content, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


_BARE = EnvironmentRequest()


def _snapshot(value: str | None) -> str | None:
    return None if value is None else checks.commit(value)


def _ref(value: str | None) -> str | None:
    return None if value is None else checks.git_ref(value)


class CodeRef(Shape):
    """The code of a run: one commit, the name of its directory below /spell, and where the command starts.

    `snapshot` is a commit right on top of it that holds the uncommitted changes; null when there are none.
    """

    commit: Annotated[str, AfterValidator(checks.commit)]
    snapshot: Annotated[str | None, AfterValidator(_snapshot)] = None
    root_directory: Annotated[str, AfterValidator(checks.root_directory)]
    cwd: Annotated[str, AfterValidator(checks.cwd)] = "."


class GithubSource(Shape):
    """Code that the server fetches: a repository, and a branch, tag or commit hash in it. Without `ref` it is
    `master` where the repository has it, else its default branch.
    """

    url: Annotated[str, AfterValidator(checks.github_url)]
    ref: Annotated[str | None, AfterValidator(_ref)] = None


def _env(value: dict[str, str]) -> dict[str, str]:
    return checks.env(value)


def _image(value: str | None) -> str | None:
    return None if value is None else images.whole(value)


def _save_every(value: int | None) -> int | None:
    return None if value is None else saves.every(value, value)


def _no_save(values: tuple[str, ...]) -> tuple[str, ...]:
    return saves.patterns(values)


def _timeout(value: int | None) -> int | None:
    return None if value is None else checks.timeout_range(value, value)


class RunRequest(Shape):
    """The body of `POST /api/runs`."""

    command: Annotated[str, AfterValidator(checks.command)]
    machine_type: str | None = None
    environment: EnvironmentRequest = EnvironmentRequest()
    env: Annotated[dict[str, str], AfterValidator(_env)] = Field(default_factory=dict)
    code: CodeRef | None = None
    github: GithubSource | None = None
    description: Annotated[str, AfterValidator(checks.description)] = ""
    labels: Annotated[tuple[str, ...], AfterValidator(checks.labels)] = ()
    timeout_seconds: Annotated[int | None, AfterValidator(_timeout)] = None
    docker_image: Annotated[str | None, AfterValidator(_image)] = None
    mounts: tuple[MountRequest, ...] = ()
    save_every_seconds: Annotated[int | None, AfterValidator(_save_every)] = None
    no_save: Annotated[tuple[str, ...], AfterValidator(_no_save)] = ()

    @model_validator(mode="after")
    def _one_environment(self) -> Self:
        asked = self.environment
        if self.docker_image is not None and asked != _BARE:
            checks.one_foundation(
                framework=asked.framework is not None, image=True, conda=asked.conda is not None
            )
            checks.image_alone(
                packages=bool(asked.pip or asked.apt or asked.requirements or asked.constraints),
                python=asked.python is not None,
                latest=asked.latest,
            )
            raise InvalidError(
                "flags_conflict",
                "docker_image: an image is the whole environment, so 'environment' must be left out",
                field="docker_image",
            )
        return self

    @model_validator(mode="after")
    def _code_of_projects(self) -> Self:
        if self.code is None and self.github is None:
            for editable in self.environment.editables:
                why = f"{editable.text()} means the code of a repository, and the run has none"
                error = refused("pip_option_not_allowed", editable.origin, why)
                error.field = "environment.requirements"
                raise error
        return self

    @model_validator(mode="after")
    def _mounts_apart(self) -> Self:
        placed(self.mounts, self.working_directory)
        return self

    @property
    def outside(self) -> bool:
        """Whether something is mounted outside the workspace."""
        return outside(placed(self.mounts, self.working_directory))

    @property
    def working_directory(self) -> str:
        """Where the command starts."""
        if self.github is not None:
            return working_directory(checks.github_directory(self.github.url))
        if self.code is not None:
            return working_directory(self.code.root_directory, self.code.cwd)
        return working_directory(None)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.code is not None and self.github is not None:
            raise InvalidError(
                "flags_conflict",
                "github: the code comes from it or from 'code', not from both; one of the two is allowed",
                field="github",
            )
        return self


class CodeLocation(Shape):
    """Where storage keeps the code of a run. `tree` is what is laid out: the snapshot's where there is one."""

    repository_id: int
    repository: str
    commit: str
    snapshot: str | None = None
    tree: str
    root_directory: str
    cwd: str


class RunSpec(Shape):
    """A run as it was accepted: the request with everything resolved that can be resolved at creation.

    With `github`, `code` is null until a machine has had it fetched. `docker_image` has its registry and tag; `framework`
    is the one that was asked for, where it is that image. Of `mounts`, resources are resolved to what they held.
    """

    command: str
    machine_type: str
    environment: EnvironmentRequest
    env: dict[str, str]
    code: CodeLocation | None
    github: GithubSource | None = None
    description: str
    timeout_seconds: int | None
    docker_image: str | None = None
    framework: str | None = None
    mounts: tuple[Mount, ...] = ()
    save_every_seconds: int | None = None
    no_save: tuple[str, ...] = ()

    @property
    def outside(self) -> bool:
        """Whether something is mounted outside the workspace."""
        return outside(mount.target for mount in self.mounts)


class AttemptSpec(Shape):
    """Everything a machine needs to run one attempt. Fetched with the attempt's fence, never put on the bus:
    it holds the values of environment variables.
    """

    run_id: int
    attempt: int
    fence: int
    owner_id: int
    intent: Intent
    spec: RunSpec


def canonical_json(value: Any) -> bytes:
    """The one JSON form of a value: sorted keys, no spaces. Digests are taken over it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_iso).encode()


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")
