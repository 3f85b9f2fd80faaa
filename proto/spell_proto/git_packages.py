"""Packages that are repositories: `NAME @ git+https://HOST/PATH@REF#subdirectory=X`, in every spelling that pip knows."""

import re
from dataclasses import dataclass, replace

from packaging.requirements import InvalidRequirement, Requirement

from spell_proto import checks
from spell_proto.errors import InvalidError, shown

SCHEME = "git+https://"
_NAMED = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^\]]*\])?)\s*@\s*(?P<url>git\+\S+)(?P<marker>\s*;.*)?"
)
_PLAIN = re.compile(r"(?P<url>git\+\S+)(?P<marker>\s+;.*)?")
_SUBDIRECTORY = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)
_FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_SUBDIRECTORY_CHARS_MAX = 255


class NoGitPackageError(ValueError):
    """What is wrong with a line, in words."""


@dataclass(frozen=True, slots=True)
class GitPackage:
    """A package in a repository. `head` is its name with extras, empty where only the repository knows it."""

    head: str
    url: str
    ref: str | None
    subdirectory: str | None = None
    marker: str = ""

    @property
    def host(self) -> str:
        return checks.github_host(self.url)

    @property
    def exact(self) -> bool:
        """Whether it is one commit for ever."""
        return self.ref is not None and _FULL.fullmatch(self.ref) is not None

    @property
    def name(self) -> str:
        return self.head.partition("[")[0]

    def at(self, commit: str) -> "GitPackage":
        """The same, of one commit."""
        return replace(self, ref=commit)

    def requirement(self) -> str:
        """As pip and uv read it, and as `parse` reads it again."""
        ref = f"@{self.ref}" if self.ref else ""
        fragment = f"#subdirectory={self.subdirectory}" if self.subdirectory else ""
        named = f"{self.head} @ " if self.head else ""
        return f"{named}git+{self.url}{ref}{fragment}" + (f" ; {self.marker}" if self.marker else "")


def looks_like_one(text: str) -> bool:
    """Whether a line means a repository, allowed or not."""
    return _NAMED.match(text) is not None or text.startswith("git+")


def parse(text: str) -> GitPackage:
    """Read a line.

    Raises:
        NoGitPackageError: it cannot be read, or is no repository over https.
    """
    found = _NAMED.fullmatch(text) or _PLAIN.fullmatch(text)
    if found is None:
        raise NoGitPackageError(f"{_hidden(text)} is no package of a repository, as in {_example()}")
    whole, _, fragment = found["url"].partition("#")
    if not whole.startswith(SCHEME):
        scheme = whole.partition("://")[0]
        raise NoGitPackageError(
            f"{_hidden(text)}: {shown(scheme, 20)} is not allowed, only git+https is, as in {_example()}"
        )
    authority, slash, path = whole.removeprefix(SCHEME).partition("/")
    if "@" in authority:
        raise NoGitPackageError(
            "a URL with a user or password is not allowed: it would be stored with the run; an administrator can store "
            "them for the host (spell cluster add-git-credentials)"
        )
    path, at, ref = path.partition("@")
    egg, subdirectory = _fragment(fragment, text)
    given = found.groupdict().get("name")
    marker = (found["marker"] or "").strip().removeprefix(";").strip()
    try:
        url = checks.github_url(f"https://{authority}{slash}{path}")
        checked = checks.git_ref(ref) if at else None
    except InvalidError:
        raise NoGitPackageError(
            f"{_hidden(text)} is no package of a repository, as in {_example()}"
        ) from None
    head, marker = _head(given or egg or "", marker, text)
    return GitPackage(head, url, checked, subdirectory, marker)


def _fragment(fragment: str, text: str) -> tuple[str | None, str | None]:
    found: dict[str, str] = {}
    for part in filter(None, fragment.split("&")):
        key, _, value = part.partition("=")
        if key not in {"egg", "subdirectory"} or key in found:
            raise NoGitPackageError(
                f"{_hidden(text)}: behind # are allowed egg=NAME and subdirectory=PATH, once each"
            )
        found[key] = value
    subdirectory = found.get("subdirectory")
    if subdirectory is not None:
        subdirectory = subdirectory.removesuffix("/")
        parts = subdirectory.split("/")
        if (
            not _SUBDIRECTORY.fullmatch(subdirectory)
            or len(subdirectory) > _SUBDIRECTORY_CHARS_MAX
            or {".", ".."} & set(parts)
        ):
            raise NoGitPackageError(f"{_hidden(text)}: the subdirectory must be a path within the repository")
    return found.get("egg"), subdirectory


def _head(head: str, marker: str, text: str) -> tuple[str, str]:
    """Name and marker as everybody writes them."""
    named = _read(head or "x")
    if named is None or str(named.specifier) or named.url or named.marker:
        raise NoGitPackageError(f"{_hidden(text)}: {shown(head, 80)} is no name of a package")
    marked = _read(f"x ; {marker}") if marker else named
    if marked is None:
        raise NoGitPackageError(f"{_hidden(text)}: {shown(marker, 80)} is no marker")
    extras = f"[{','.join(sorted(named.extras))}]" if named.extras else ""
    return f"{named.name}{extras}" if head else "", str(marked.marker or "")


def _read(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except (InvalidRequirement, RecursionError):
        return None


def _hidden(text: str) -> str:
    """What may be told of a line: what stands before an @ in its URL may be a password."""
    return shown(re.sub(r"://[^/\s]*@", "://…@", text))


def _example() -> str:
    return "NAME @ git+https://github.com/OWNER/REPOSITORY@TAG"
