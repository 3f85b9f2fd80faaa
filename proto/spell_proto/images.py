"""Names of Docker images: what one may be, its whole form, and which registries are asked for it.

Standard library only: the command line imports this module on every start.
"""

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

from spell_proto.errors import InvalidError, shown

CHARS_MAX = 512
NAME_CHARS_MAX = 255
DEFAULT_REGISTRY = "docker.io"
#: Where `python` stands for `library/python`.
_OFFICIAL = "library"
#: Registries that everybody knows; an operator may name others instead.
REGISTRIES = (
    "docker.io,ghcr.io,quay.io,gcr.io,*.gcr.io,*.pkg.dev,public.ecr.aws,*.dkr.ecr.*.amazonaws.com,"
    "mcr.microsoft.com,nvcr.io,registry.gitlab.com"
)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", re.ASCII)
_ALSO_DEFAULT = frozenset({"index.docker.io", "registry-1.docker.io"})
_ECR = re.compile(
    r"(?P<account>[0-9]{12})\.dkr\.ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?", re.ASCII
)
_GOOGLE = ("gcr.io", "*.gcr.io", "*-docker.pkg.dev")
_PART = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Image(NamedTuple):
    """A name in parts. `tag` and `digest` are empty where there are none."""

    registry: str
    path: str
    tag: str
    digest: str

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.path}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(value: str) -> Image:
    """The parts of a name as a person writes it: docker.io is where an image is that names no registry.

    Raises:
        InvalidError: it is not the name of an image.
    """
    rest, at, digest = value.partition("@")
    if len(value) > CHARS_MAX:
        raise _wrong(value, f"it has {len(value)} characters, at most {CHARS_MAX} are allowed")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(value, "behind @ there must be sha256: and 64 digits of 0-9 and a-f")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, colon, tag = rest, "", ""
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(value, "a tag is letters, digits, _ . and -, at most 128")
    first, slash, path = head.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, path = DEFAULT_REGISTRY, head
    if not _HOST.fullmatch(first):
        raise _wrong(value, f"{shown(first)} is no registry")
    registry = first.lower()
    if registry in _ALSO_DEFAULT:
        registry = DEFAULT_REGISTRY
    if any(not _PART.fullmatch(part) for part in path.split("/")):
        why = (
            "small letters only"
            if _PART.fullmatch(path.lower().split("/")[0]) and path != path.lower()
            else ""
        )
        raise _wrong(value, why or "a name is small letters and digits, with single . _ or - between them")
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"{_OFFICIAL}/{path}"
    if len(registry) + 1 + len(path) > NAME_CHARS_MAX:
        raise _wrong(value, f"registry and name are above {NAME_CHARS_MAX} characters")
    return Image(registry, path, tag or ("" if digest else "latest"), digest)


def whole(value: str) -> str:
    """The whole form of a name, with registry and tag."""
    return str(parse(value))


def check_registry(value: str, allowed: str) -> None:
    """See that an image comes from where images may come from: names with commas between, * for any part of one.

    Raises:
        InvalidError: it does not.
    """
    registry = parse(value).registry
    if not listed(registry, allowed):
        raise InvalidError(
            "registry_not_allowed",
            f"--docker-image: images do not come from {shown(registry)} here; allowed are: {allowed.replace(',', ', ')}",
            field="docker_image",
            hint="an administrator can add a private registry: spell cluster add-docker-registry",
        )


def listed(registry: str, allowed: str) -> bool:
    """Whether a registry is among names with commas between, * for any part of one."""
    return any(fnmatchcase(registry, one.strip().lower()) for one in allowed.split(","))


def registry_name(value: str) -> str:
    """A registry as names of images begin with it.

    Raises:
        InvalidError: no name of an image begins like this.
    """
    name = value.lower()
    host, _, port = name.partition(":")
    # Without a dot or a port, it would be the name of a team at the default registry.
    recognised = "." in host or port or name == "localhost"
    if (
        not recognised
        or len(name) > NAME_CHARS_MAX
        or not _HOST.fullmatch(name)
        or ".." in host
        or (port and not 1 <= int(port) <= 65535)
    ):
        # What stands before an @ may be a secret.
        echoed = "…@" + value.rpartition("@")[2] if "@" in value else value
        raise InvalidError(
            "registry_invalid",
            f"registry: {shown(echoed)} is no registry, as in registry.example.org or registry.example.org:5000",
            field="registry",
        )
    return DEFAULT_REGISTRY if name in _ALSO_DEFAULT else name


class Ecr(NamedTuple):
    """Whose registry of Amazon's it is, and where."""

    account: str
    region: str


def ecr(registry: str) -> Ecr | None:
    """What the name of a registry of Amazon's says, which takes logins that are good for hours only; else None."""
    found = _ECR.fullmatch(registry)
    return None if found is None else Ecr(found["account"], found["region"])


def is_google(registry: str) -> bool:
    """Whether a registry is one of Google's, which takes the key of a service account."""
    return any(fnmatchcase(registry, one) for one in _GOOGLE)


def _wrong(value: str, why: str) -> InvalidError:
    return InvalidError(
        "image_ref_invalid",
        f"--docker-image: {shown(value)} is not the name of an image: {why}; as in python:3.12-slim or "
        "registry.example.org/team/image:tag",
        field="docker_image",
    )
