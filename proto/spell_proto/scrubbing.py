"""What a check of all stored files says while it goes on: how far it is, and what it found damaged or lost."""

from spell_proto.shapes import Shape


class DamagedFile(Shape):
    """A file whose bytes are not what they were, or are not there. `name` is how a person asks for it; None where only a
    manifest is known (of `owner_id`, the file at `path` in it, all of it where that is empty), or nothing at all. Of one
    that is `unreadable` nobody can say how its bytes are: the store does not give them out.
    """

    sha256: str
    size: int
    owner_id: int | None = None
    name: str | None = None
    manifest: str | None = None
    path: str = ""
    unreadable: bool = False


class ScrubLine(Shape):
    """One line of the answer. Counts are those so far: stored files, their bytes, those of them that are damaged, and those
    that could not be read. Names are told at the end; of very many, not all. `strays` are bytes that are on no record: they
    will be removed. Only the last line is `done`.
    """

    files: int
    bytes: int
    bytes_of_all: int
    damaged: int
    unreadable: int = 0
    found: tuple[DamagedFile, ...] = ()
    strays: int = 0
    done: bool = False


class ManifestNames(Shape):
    """Runs, and snapshots of runs, whose files manifests are: digest, and name as in `7` or `7@2`."""

    runs: tuple[tuple[str, str], ...]
