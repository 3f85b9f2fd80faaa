"""Exact versions with hashes, as uv writes them: held against the hashes that were asked for, and where from."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spell_builder import complaints, keys, layers
from spell_builder.errors import BuildFailedError
from spell_proto import git_packages
from spell_proto.requirements import Entry, Index, Parsed, logical_lines

_OPTIONS = {"--index-url": "--default-index", "--extra-index-url": "--index"}
_NAME = re.compile(r"[A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of an environment, and the hashes of the files that it may come from."""

    head: str  # name==version, or name @ URL
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        found = _NAME.match(self.head)
        assert found is not None
        return canonicalize_name(found[0])

    @property
    def url(self) -> str:
        """Where it comes from that has no hashes; empty for what an index has."""
        return self.head.partition(" @ ")[2]

    @property
    def version(self) -> str:
        """Of a repository, the commit."""
        if self.url:
            return self.url.partition("#")[0].rpartition("@")[2]
        return self.head.partition("==")[2].partition(";")[0].strip()

    def text(self) -> str:
        return self.head + "".join(f" \\\n    --hash={item}" for item in self.hashes) + "\n"


def read(resolved: str) -> Iterator[Pin]:
    """The packages of a resolution."""
    for system in (*layers.base_part(resolved), *layers.apt_part(resolved)):
        yield Pin(f"{system.name}=={system.version}", (f"sha256:{system.sha256}",))
    for package in layers.conda_part(resolved):
        yield Pin(layers.title(package), (f"sha256:{package.sha256}",))
    for line in logical_lines(layers.pip_part(resolved), "resolved"):
        if not line.text.startswith("-"):
            head, *hashes = line.text.split("--hash=")
            yield Pin(head.strip(), tuple(item.strip() for item in hashes))


def apart(pinned: str) -> tuple[str, list[str]]:
    """What has hashes, and the lines of what comes from repositories."""
    found = list(read(pinned))
    return "".join(pin.text() for pin in found if not pin.url), [pin.head for pin in found if pin.url]


def only_allowed(resolved: str) -> None:
    """Refuse packages from other places than an index and repositories: a package may need what it likes.

    Raises:
        BuildFailedError: there is one.
    """
    for pin in read(resolved):
        if pin.url and not _is_exact(pin.head):
            raise complaints.elsewhere(pin.name, pin.url)


def _is_exact(head: str) -> bool:
    try:
        return git_packages.parse(head).exact
    except git_packages.NoGitPackageError:
        return False


def held(resolved: str, wanted: Sequence[Parsed], *, all_listed: bool) -> str:
    """A resolution with no other hashes than were asked for; as it is where none were.

    Raises:
        BuildFailedError: no file in the index has a hash that was asked for, or, with `all_listed`, a package is
            needed that is not in the list.
    """
    if not any(parsed.hashed for parsed in wanted):
        return resolved
    asked: dict[str, list[Entry]] = {}
    # A full commit hash says as much as a hash.
    named = {
        f"git+{package.requirement().partition('git+')[2]}"
        for parsed in wanted
        for entry in parsed.repositories
        if (package := entry.git) is not None
    }
    for parsed in wanted:
        for entry in parsed.entries:
            if entry.hashes:
                asked.setdefault(keys.meant(entry.name), []).append(entry)
    return "".join(
        _held(pin, asked.get(pin.name), named, all_listed=all_listed).text() for pin in read(resolved)
    )


def _held(pin: Pin, asked: list[Entry] | None, named: set[str], *, all_listed: bool) -> Pin:
    if asked is None:
        if all_listed and pin.url not in named:
            raise BuildFailedError(
                f"pip: {pin.head} is needed by another package and has no --hash in the requirements file"
            )
        return pin
    allowed = {
        item
        for entry in asked
        if Requirement(entry.requirement).specifier.contains(pin.version, prereleases=True)
        for item in entry.hashes
    }
    kept = tuple(item for item in pin.hashes if item in allowed)
    if not kept:
        raise BuildFailedError(
            f"pip: no file of {pin.head} in the package index has a --hash of {where(asked[0].origin)}"
        )
    return Pin(pin.head, kept)


def where(origin: str) -> str:
    """`FILE:LINE` in words."""
    name, _, number = origin.rpartition(":")
    return f"{name}, line {number}"


def with_indexes(indexes: Sequence[Index], pinned: str) -> str:
    """A resolution that names the indexes it was made with: the same versions come from nowhere else."""
    return "".join(f"{index.option} {index.url}\n" for index in indexes) + pinned


def without_indexes(resolved: str) -> tuple[list[str], str]:
    """The options for uv, and the rest of a resolution."""
    options: list[str] = []
    lines = resolved.splitlines(keepends=True)
    while lines and lines[0].startswith("--"):
        name, _, url = lines.pop(0).strip().partition(" ")
        options += [_OPTIONS[name], url]
    return options, "".join(lines)
