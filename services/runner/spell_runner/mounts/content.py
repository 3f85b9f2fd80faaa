"""What a resource holds, file by file, and how a file of it is called on this machine. Pure."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spell_runner.errors import TreeRefusedError

PATH_BYTES_MAX = 4096
NAME_BYTES_MAX = 255
#: What a single file is called in the tree that holds it alone.
FILE = "file"
_BAD = frozenset({"", ".", ".."})


@dataclass(frozen=True, slots=True)
class Item:
    """A file or link. `identity` names its bytes: nothing else on any machine has this one. `sha256` is theirs, where it
    is known before they are read.
    """

    path: str
    size: int
    mode: int
    mtime_ns: int
    identity: str = ""
    sha256: str | None = None
    link: str | None = None

    @property
    def name(self) -> str:
        """What the file with these bytes, this mode and this time is called here: many trees share it."""
        # A file that nobody may read could not be compared with what a run makes of it.
        mode = self.mode & 0o777 | 0o400
        return f"{self.identity}.{mode:o}.{self.mtime_ns}"


@dataclass(frozen=True, slots=True)
class Look:
    """What a glance at a source says. Equal keys mean equal content; `is_file` that it is one file, and no directory."""

    key: str
    is_file: bool


def key_of(*parts: object) -> str:
    """A key that no other parts have."""
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()


def checked(items: Iterable[Item]) -> list[Item]:
    """The items in the order of their paths, of which none leads out of where it is laid.

    Raises:
        TreeRefusedError: one does, or two of them cannot be in one directory.
    """
    # What is below a path comes right behind it, as nothing sorts before the end of a name.
    ordered = sorted(items, key=lambda item: item.path.replace("/", "\0"))
    before: str | None = None
    for item in ordered:
        parts = item.path.split("/")
        if set(parts) & _BAD or "\0" in item.path or "\0" in (item.link or ""):
            raise TreeRefusedError(f"a path that no directory holds: {item.path[:200]!r}")
        long = [part for part in parts if len(part.encode(errors="surrogateescape")) > NAME_BYTES_MAX]
        if long or len(item.path.encode(errors="surrogateescape")) > PATH_BYTES_MAX:
            raise TreeRefusedError(f"a path that is too long: {item.path[:200]!r}")
        if before is not None and f"{item.path}/".startswith(f"{before}/"):
            raise TreeRefusedError(
                f"a file and a directory, or two files, with one path: {item.path[:200]!r}"
            )
        before = item.path
    return ordered


def bytes_of(items: Sequence[Item]) -> int:
    """How many bytes the files hold."""
    return sum(item.size for item in items if item.link is None)


def amount(count: int) -> str:
    """A number of bytes as a person reads it."""
    value, units = float(count), iter(("B", "kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while value >= 999.95 and unit != "PB":
        value, unit = value / 1000, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
