"""The shapes of what a check of all stored files says, as `answers` has those of everything else."""

from typing import TypedDict


class DamagedFile(TypedDict):
    sha256: str
    size: int
    owner_id: int | None
    name: str | None
    manifest: str | None
    path: str
    unreadable: bool


class ScrubLine(TypedDict):
    """One line of what a check of all stored files says."""

    files: int
    bytes: int
    bytes_of_all: int
    damaged: int
    unreadable: int
    found: list[DamagedFile]
    strays: int
    done: bool
