"""What a workspace stood on at first: the code of its run, and what is mounted below `/spell` (shell)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spell_runner.workspace import walk


@dataclass(frozen=True, slots=True)
class Part:
    """A directory, or a single file, that is what a workspace has `at` a path. Where `alone`, nothing of other parts is seen
    there.
    """

    path: Path
    at: str = ""
    alone: bool = False

    def holds(self, path: str) -> bool:
        """Whether a path of the workspace is in this part, or would be."""
        return not self.at or path == self.at or path.startswith(f"{self.at}/")

    def place(self, path: str) -> Path:
        """Where a path of the workspace that it holds is, or would be."""
        return self.path / path[len(self.at) :].removeprefix("/")


class Lower:
    """Parts that lie over each other, the uppermost first."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    @classmethod
    def of(cls, *paths: Path) -> "Lower":
        """Directories that each are the whole of a workspace."""
        return cls([Part(path) for path in paths])

    def __truediv__(self, path: str) -> Path:
        """Where what was at a path at first is: as the uppermost part that has it says."""
        places = self._places(path)
        return next((place for place in places if os.path.lexists(place)), places[-1])

    def files(self, path: str) -> list[str]:
        """The files that were at or below a path. Empty where there were none."""
        found: dict[str, None] = {}
        for place in self._places(path):
            if not is_directory(place):
                if os.path.lexists(place):
                    return list(found) or [path]
                continue
            below = [name for name, entry in walk(place) if not entry.is_dir(follow_symlinks=False)]
            found |= {f"{path}/{name}": None for name in below}
        return list(found)

    def _places(self, path: str) -> list[Path]:
        places = []
        for part in self._parts:
            if part.holds(path):
                places.append(part.place(path))
                if part.alone:
                    break
        return places


def is_directory(path: Path) -> bool:
    """Whether it is one, and no link to one."""
    return path.is_dir() and not path.is_symlink()
