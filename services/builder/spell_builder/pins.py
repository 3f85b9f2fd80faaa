"""Exact versions with hashes, as uv writes them: held against the hashes that were asked for, and where from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spell_builder import keys, layers
from spell_builder.errors import BuildFailedError
from spell_proto.requirements import Entry, Index, Parsed, logical_lines

_OPTIONS = {"--index-url": "--default-index", "--extra-index-url": "--index"}


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of an environment, and the hashes of the files that it may come from."""

    head: str  # name==version
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.head.partition("==")[0])

    @property
    def version(self) -> str:
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


def held(resolved: str, wanted: Sequence[Parsed], *, all_listed: bool) -> str:
    """A resolution with no other hashes than were asked for; as it is where none were.

    Raises:
        BuildFailedError: no file in the index has a hash that was asked for, or, with `all_listed`, a package is
            needed that is not in the list.
    """
    if not any(parsed.hashed for parsed in wanted):
        return resolved
    asked: dict[str, list[Entry]] = {}
    for parsed in wanted:
        for entry in parsed.entries:
            if entry.hashes:
                asked.setdefault(keys.meant(entry.name), []).append(entry)
    return "".join(_held(pin, asked.get(pin.name), all_listed=all_listed).text() for pin in read(resolved))


def _held(pin: Pin, asked: list[Entry] | None, *, all_listed: bool) -> Pin:
    if asked is None:
        if all_listed:
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
