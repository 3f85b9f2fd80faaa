"""What a field may hold. One home for the rules that the command line checks early and the server checks always.

Every function returns the value it was given (cleaned where that loses nothing) or raises `InvalidError` with
one sentence: which field, what was found, what is allowed.

Standard library only: the command line imports this module on every start.
"""

import re
from collections.abc import Iterable

from spell_proto.errors import InvalidError, shown

COMMAND_BYTES_MAX = 64 * 1024
ENV_BYTES_MAX = 32 * 1024
ENV_COUNT_MAX = 1_000
PIP_COUNT_MAX = 500
PIP_SPEC_CHARS_MAX = 1_000
LABEL_CHARS_MAX = 64
LABEL_COUNT_MAX = 50
DESCRIPTION_CHARS_MAX = 4_096
TIMEOUT_SECONDS_MAX = 366 * 24 * 3600
RUN_ID_MAX = 2**53
RESOURCE_PATH_BYTES_MAX = 4096
REPOSITORY_CHARS_MAX = 255
TITLE_CHARS_MAX = 255
TAIL_LINES_MAX = 1_000_000
PUBLIC_KEY_CHARS_MAX = 16 * 1024
URL_CHARS_MAX = 2_048
REF_BYTES_MAX = 255

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LABEL = re.compile(r"[^\s,/][^\n,/]*")
_MACHINE_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_DURATION = re.compile(r"(?P<number>[0-9]{1,10})(?P<unit>s|m|h|d)?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, None: 60}
_RUN_ID = re.compile(r"[0-9]{1,16}", re.ASCII)
_PYTHON = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3}){0,2}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_HOST = re.compile(r"(?P<name>[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_URL_PATH = re.compile(r"(/[A-Za-z0-9_.~-]{1,255})+", re.ASCII)
# What git itself forbids in a ref: see git-check-ref-format(1).
_NO_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|(^|/)\.|[./]$|^[-/]|^@$")
# Controls, and the bidirectional overrides that can make a terminal show something else than what is stored.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")

#: Names the platform sets itself, or that would reach past a run into its machine.
RESERVED_ENV = frozenset(
    {"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "NVIDIA_VISIBLE_DEVICES", "DOCKER_HOST"}
)
RESERVED_ENV_PREFIX = "SPELL_"


def _text(value: str, field: str, code: str, name: str | None = None) -> str:
    """Refuse what no file system, shell or database can carry as text: NUL bytes and lone surrogates. `name` is what
    a person calls the field.
    """
    name = name or field
    if "\0" in value:
        raise InvalidError(
            f"{code}_not_text", f"{name}: a NUL byte at position {value.index(chr(0))}", field=field
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(
            f"{code}_not_text", f"{name}: not valid UTF-8 at position {error.start}", field=field
        ) from None
    return value


def command(value: str) -> str:
    """The command of a run: any text a shell may be given, at most 64 KiB."""
    if not value.strip():
        raise InvalidError(
            "command_empty",
            'command: it is empty. Give a command, e.g. spell run "python train.py"',
            field="command",
        )
    _text(value, "command", "command")
    size = len(value.encode())
    if size > COMMAND_BYTES_MAX:
        raise InvalidError(
            "command_too_long", f"command: {size} bytes, at most 64 KiB are allowed", field="command"
        )
    return value


def env_name(name: str) -> str:
    """The name of an environment variable."""
    if not _ENV_NAME.fullmatch(name):
        raise InvalidError(
            "env_name_invalid",
            f"--env: {shown(name)} is not a variable name: letters, digits and _ are allowed, no digit first",
            field="env",
        )
    if name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIX):
        raise InvalidError(
            "env_reserved", f"--env: {name} is set by the platform and cannot be given", field="env"
        )
    return name


def env_value(name: str, value: str) -> str:
    """The value of an environment variable: text without NUL, at most 32 KiB."""
    _text(value, "env", "env", f"--env {name}")
    if len(value.encode()) > ENV_BYTES_MAX:
        raise InvalidError("env_too_large", f"--env: the value of {name} is above 32 KiB", field="env")
    return value


def env(variables: dict[str, str]) -> dict[str, str]:
    """All environment variables of a run."""
    if len(variables) > ENV_COUNT_MAX:
        raise InvalidError(
            "too_many_env", f"--env: {len(variables)} variables, at most 1,000 are allowed", field="env"
        )
    return {env_name(name): env_value(name, value) for name, value in variables.items()}


def machine_type(name: str, known: Iterable[str]) -> str:
    """The canonical spelling of a machine type that exists; letter case is free."""
    names = sorted(known)
    for candidate in names:
        if candidate.lower() == name.lower():
            return candidate
    allowed = ", ".join(names)
    raise InvalidError(
        "machine_type_unknown",
        f"--machine-type: invalid choice: {shown(name)}. (choose from {allowed})",
        field="machine_type",
    )


def machine_type_name(name: str) -> str:
    """A name an operator may give to a type of machine."""
    if not _MACHINE_TYPE.fullmatch(name):
        raise InvalidError(
            "machine_type_invalid",
            f"machine type: {shown(name)} is not a name: letters, digits, '_', '.' and '-', at most 64",
            field="machine_type",
        )
    return name


def label(value: str) -> str:
    """A label: 1 to 64 characters without comma, slash, line break or control characters."""
    value = value.strip()
    if len(value) > LABEL_CHARS_MAX:
        raise InvalidError(
            "label_too_long", f"--label: {shown(value, 40)} is longer than 64 characters", field="label"
        )
    if not _LABEL.fullmatch(value) or _HIDDEN.search(value):
        raise InvalidError(
            "label_invalid",
            f"--label: {shown(value)}: 1 to 64 characters without comma, slash or control characters are allowed",
            field="label",
        )
    return _text(value, "label", "label", "--label")


def labels(values: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order given, each once."""
    cleaned = tuple(dict.fromkeys(label(value) for value in values))
    if len(cleaned) > LABEL_COUNT_MAX:
        raise InvalidError(
            "too_many_labels", f"--label: {len(cleaned)} labels, at most 50 are allowed", field="label"
        )
    return cleaned


def description(value: str) -> str:
    """A description: at most 4,096 characters; control characters and bidi overrides are taken out."""
    if len(value) > DESCRIPTION_CHARS_MAX:
        raise InvalidError(
            "description_too_long",
            f"--description: {len(value)} characters, at most 4,096 are allowed",
            field="description",
        )
    return _text(_HIDDEN.sub("", value), "description", "description", "--description").strip()


def line(value: str, field: str, most: int, *, least: int = 1, name: str | None = None) -> str:
    """A name or title of `least` to `most` characters on one line; control characters and bidi overrides are taken
    out. `name` is what a person calls the field.
    """
    name = name or field
    cleaned = _text(_HIDDEN.sub("", re.sub(r"[\n\t]", " ", value)), field, field, name).strip()
    if not least <= len(cleaned) <= most:
        raise InvalidError(
            f"{field}_invalid",
            f"{name}: {shown(value, 40)}: {least} to {most} characters are allowed",
            field=field,
        )
    return cleaned


def timeout_seconds(value: str) -> int:
    """A time limit as typed. Between one second and 366 days."""
    return timeout_range(duration_seconds(value), value)


def duration_seconds(value: str) -> int:
    """A time as typed: minutes, or a number with s, m, h or d. 0 for anything else."""
    match = _DURATION.fullmatch(value.strip())
    return int(match["number"]) * _SECONDS[match["unit"]] if match else 0


def timeout_range(seconds: int, given: object) -> int:
    """A time limit in seconds, checked against its range; `given` is echoed."""
    if not 1 <= seconds <= TIMEOUT_SECONDS_MAX:
        raise InvalidError(
            "number_out_of_range",
            f"--timeout: {shown(given)}: minutes (90) or a number with a unit (90s, 2h, 3d) is allowed, "
            "from 1s to 366d",
            field="timeout",
        )
    return seconds


def whole_number(value: str, field: str, least: int, most: int) -> int:
    """A whole number as typed, from `least` to `most`."""
    if not _RUN_ID.fullmatch(value) or not least <= int(value) <= most:
        raise InvalidError(
            "number_out_of_range",
            f"--{field}: {shown(value)}: a whole number from {least} to {most} is allowed",
            field=field,
        )
    return int(value)


def path_problem(text: str) -> str | None:
    """Why no resource has such a path: names joined by slashes, none at its end."""
    if len(text.encode(errors="replace")) > RESOURCE_PATH_BYTES_MAX:
        return f"at most {RESOURCE_PATH_BYTES_MAX} bytes are allowed"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "it is not valid UTF-8"
    if "\0" in text or any(part in {"", ".", ".."} for part in text.split("/")):
        return "names joined by single slashes are allowed, no '..'"
    return None


def run_id(value: str) -> int:
    """A run id as typed."""
    if not _RUN_ID.fullmatch(value) or not 1 <= int(value) <= RUN_ID_MAX:
        raise InvalidError(
            "run_id_invalid",
            f"run id: {shown(value)} is not a run id; a whole number from 1 is",
            field="run_id",
        )
    return int(value)


def commit(value: str) -> str:
    """A full commit hash, SHA-1 or SHA-256, in lower case."""
    if not _COMMIT.fullmatch(value):
        raise InvalidError(
            "commit_invalid", f"code.commit: {shown(value)} is not a full commit hash", field="code.commit"
        )
    return value


def root_directory(value: str) -> str:
    """The name of the repository's directory: one path part, never `.`, `..` or `.git`."""
    _text(value, "code.root_directory", "root_directory")
    if value in {"", ".", "..", ".git"} or "/" in value or len(value.encode(errors="surrogateescape")) > 255:
        raise InvalidError(
            "root_directory_invalid",
            f"code.root_directory: {shown(value)} is not a directory name",
            field="code.root_directory",
        )
    return value


def cwd(value: str) -> str:
    """A path below the repository's root: `.` or parts joined by single slashes, none of them `..`."""
    _text(value, "code.cwd", "cwd")
    parts = value.split("/")
    if value != "." and (len(value.encode()) > 4096 or any(part in {"", ".", ".."} for part in parts)):
        raise InvalidError(
            "cwd_invalid",
            f"code.cwd: {shown(value)} is not a path below the repository's root",
            field="code.cwd",
        )
    return value


def _github_url_refused(code: str, problem: str) -> InvalidError:
    return InvalidError(code, f"--github-url: {problem}", field="github.url")


def github_url(value: str) -> str:
    """The URL of a repository to be fetched by the server: `https://<host>[:<port>]/<path>`, nothing else in it.

    Returns it without a trailing slash. Which hosts are allowed is for the server to say.
    """
    # What stands before an @ may be a secret.
    echoed = "…@" + value.rpartition("@")[2] if "@" in value else value
    if len(value) > URL_CHARS_MAX:
        raise _github_url_refused("github_url_invalid", f"{shown(echoed, 40)} is above 2,048 characters")
    scheme, separator, rest = value.partition("://")
    if scheme != "https" or not separator:
        raise _github_url_refused(
            "github_url_scheme",
            f"{shown(echoed)}: only https:// is allowed, as in https://github.com/owner/repository",
        )
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise _github_url_refused(
            "url_has_credentials",
            "it holds credentials; an administrator can store them for the host instead",
        )
    host = _HOST.fullmatch(authority.lower())
    path = (slash + path).rstrip("/")
    parts = path.split("/")[1:]
    if (
        host is None
        or int(host["port"] or 443) not in range(1, 65536)
        or not _URL_PATH.fullmatch(path)
        # Also the last one without `.git`, which is the name of a directory then.
        or any(part.removesuffix(".git") in {"", ".", ".."} for part in parts)
        or github_directory(path) == ".git"
    ):
        raise _github_url_refused(
            "github_url_invalid", f"{shown(echoed)} is not a URL like https://github.com/owner/repository"
        )
    return f"https://{authority.lower()}{path}"


def github_host(url: str) -> str:
    """The host of a checked URL, with its port where one is named."""
    return url.removeprefix("https://").partition("/")[0].removesuffix(":443")


def github_directory(url: str) -> str:
    """The directory that the code of a checked URL is laid into: the last part of its path, without `.git`."""
    return url.rpartition("/")[2].removesuffix(".git")


def git_ref(value: str) -> str:
    """A branch, tag or commit hash to be fetched by the server."""
    if len(value.encode(errors="replace")) > REF_BYTES_MAX or not value or _NO_REF.search(value):
        raise InvalidError(
            "ref_invalid",
            f"--github-ref: {shown(value)} is not a branch, a tag or a commit hash",
            field="github.ref",
        )
    return _text(value, "github.ref", "ref", "--github-ref")


def conda_alone(*, packages: bool, python: bool) -> None:
    """A conda environment file says by itself which packages there are, and which Python."""
    if packages:
        raise InvalidError(
            "flags_conflict",
            "--pip or --pip-req cannot be specified when using a conda environment. You can include the pip installs "
            "in the conda environment file instead.",
            field="conda",
        )
    if python:
        raise InvalidError(
            "flags_conflict",
            "--python cannot be specified when using a conda environment. Please include the python version in your "
            "conda environment file instead.",
            field="conda",
        )


def one_foundation(*, framework: bool = False, image: bool = False, conda: bool = False) -> None:
    """A framework, an image and a conda environment file each say what everything else stands on."""
    if framework + image + conda > 1:
        raise InvalidError(
            "flags_conflict",
            "Only one of the following options can be specified: --framework, --from, --conda-file",
            field="docker_image" if image else "framework",
        )


def image_alone(*, packages: bool, python: bool = False, latest: bool = False) -> None:
    """An image is the whole environment of its run."""
    if packages:
        raise InvalidError(
            "flags_conflict",
            "--apt, --pip, or --pip-req cannot be specified when --from is provided. Please install packages from "
            "the specified Dockerfile.",
            field="docker_image",
        )
    for name, given in (("--python", python), ("--latest", latest)):
        if given:
            raise InvalidError(
                "flags_conflict",
                f"{name} cannot be specified when --from is provided: the image has its own Python and packages.",
                field="docker_image",
            )


def python_version(value: str) -> str:
    """The version of Python of a run: as much of it as matters."""
    if not _PYTHON.fullmatch(value):
        raise InvalidError(
            "python_invalid",
            f"--python: {shown(value)} is not a version of Python, as in 3.12 or 3.12.1",
            field="python",
        )
    return value
