"""What a repository elsewhere calls its commits, and what its answers mean: pure."""

import re
from dataclasses import dataclass, field

from spell_proto.errors import SpellError, shown

_FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_PART = re.compile(r"[0-9a-f]{4,63}", re.ASCII)
HEADS = "refs/heads/"
TAGS = "refs/tags/"


class FetchError(SpellError):
    """Code that cannot be fetched, with the code and the one sentence that say why. `passing`: trying again may help."""

    def __init__(self, code: str, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.passing = passing


@dataclass(frozen=True, slots=True)
class RemoteRefs:
    """Branches and tags, each with its commit, and the default branch."""

    commits: dict[str, str] = field(default_factory=dict)
    default: str | None = None

    @property
    def sha256(self) -> bool:
        return any(len(commit) == 64 for commit in self.commits.values())

    def find(self, ref: str | None) -> str | None:
        """The commit that a name stands for. Without a name: `master` where there is one, else the default branch."""
        if ref is None:
            return self.commits.get(f"{HEADS}master") or self.commits.get(self.default or "HEAD")
        if ref == "HEAD":
            return self.commits.get(self.default or "HEAD")
        places = (f"{HEADS}{ref}", f"{TAGS}{ref}", ref, f"refs/{ref}")
        return next((self.commits[place] for place in places if place in self.commits), None)


def read_refs(printed: bytes) -> RemoteRefs:
    """What `git ls-remote --symref` has printed; names that are no text are left out, and so is what is neither a
    branch nor a tag.
    """
    commits: dict[str, str] = {}
    default = None
    for line in printed.split(b"\n"):
        try:
            name, _, ref = line.decode().partition("\t")
        except UnicodeDecodeError:
            continue
        if name.startswith("ref: ") and ref == "HEAD":
            default = name.removeprefix("ref: ")
        elif _FULL.fullmatch(name) and (ref == "HEAD" or ref.startswith((HEADS, TAGS))):
            # A tag that is an object of its own comes twice, with what it is a tag of last.
            commits[ref.removesuffix("^{}")] = name
    return RemoteRefs(commits, default)


def is_full(ref: str | None) -> bool:
    """Whether it is a whole commit hash."""
    return ref is not None and _FULL.fullmatch(ref) is not None


def is_part(ref: str) -> bool:
    """Whether it may be the beginning of a commit hash."""
    return _PART.fullmatch(ref) is not None


# What git says, what it means, and whether it may be otherwise in a moment. The first that fits counts.
_MEANINGS = (
    (
        (
            r"could not read (Username|Password)|Authentication failed|Access denied|returned error: 40[134]"
            r"|repository '[^']*' not found"
        ),
        "repository_not_found",
        "repository not found or private",
        False,
    ),
    (
        r"url base from redirection|returned error: 3\d\d",
        "fetch_failed",
        "it has moved to another address, which is not followed",
        False,
    ),
    (r"SSL certificate|certificate verif", "fetch_failed", "the certificate of its host is not trusted", False),
    (r"Could not resolve (host|proxy)", "fetch_failed", "its host cannot be found", True),
    (
        (
            r"Failed to connect|Connection (refused|timed out|reset)|[Cc]onnect to .* port|Operation too slow"
            r"|returned error: (429|5\d\d)|early EOF|RPC failed|unexpected disconnect|hung up|transfer closed"
            r"|Empty reply|invalid server response"
        ),
        "fetch_failed",
        "its host does not answer",
        True,
    ),
    (r"fsck error|fsckObjects|badTree|hasDot|index-pack failed|bad object|invalid index-pack",
     "fetch_failed", "it holds objects that git does not accept", False),
)  # fmt: skip


def explained(url: str, complaint: str) -> FetchError:
    """Why git could not fetch, from what it has printed."""
    for pattern, code, meaning, passing in _MEANINGS:
        if re.search(pattern, complaint):
            return FetchError(code, f"{url}: {meaning}", passing=passing)
    lines = [line for line in complaint.splitlines() if line.startswith(("fatal:", "error:"))]
    said = f"; git says {shown(lines[-1], 200)}" if lines else ""
    return FetchError("fetch_failed", f"{url}: it cannot be fetched{said}")
