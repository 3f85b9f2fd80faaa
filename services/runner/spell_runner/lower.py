"""What a workspace stood on at first: the code of its run, and what is mounted below `/spell` (shell).

Links of code and of resources are anybody's. A path is looked up through directories alone, so that what a run has put
in place of a link is never compared with what that leads to, and nothing outside is looked at, let alone changed.
"""

import contextlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spell_runner import beneath
from spell_runner.workspace import Abort


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

    def inner(self, path: str) -> str:
        """A path of the workspace that it holds, as it is called in this part."""
        return path[len(self.at) :].removeprefix("/")


class Lower:
    """Parts that lie over each other, the uppermost first."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    @classmethod
    def of(cls, *paths: Path) -> "Lower":
        """Directories that each are the whole of a workspace."""
        return cls([Part(path) for path in paths])

    def status(self, path: str) -> os.stat_result | None:
        """Of what was at a path at first, as the uppermost part that has it says; None where nothing was."""
        with contextlib.closing(self._held(path)) as several:
            return next((os.fstat(held) for held in several), None)

    def is_directory(self, path: str) -> bool:
        """Whether a directory was there, and no link to one."""
        with contextlib.closing(self._held(path)) as several:
            return next((beneath.is_directory(held) for held in several), False)

    def link(self, path: str) -> str | None:
        """Where the link led that was at a path; None where there was none."""
        with contextlib.closing(self._held(path)) as several:
            return next((beneath.link_of(held) for held in several), None)

    def open(self, path: str) -> int:
        """A descriptor to read the file by that was at a path.

        Raises:
            OSError: there was none, or it cannot be read.
        """
        return next(self._opened(path, beneath.READ))

    def files(self, path: str, abort: Abort) -> list[str]:
        """The files that were at or below a path. Empty where there were none."""
        found: dict[str, None] = {}
        with contextlib.closing(self._held(path)) as several:
            for held in several:
                if not beneath.is_directory(held):
                    return list(found) or [path]
                for name, is_directory in beneath.walk(held):
                    abort.check()
                    if not is_directory:
                        found[f"{path}/{name}"] = None
        return list(found)

    def _held(self, path: str) -> Generator[int, None, None]:
        """What each part has at a path, the uppermost first. Each is closed when the next one is asked for."""
        with contextlib.suppress(FileNotFoundError):
            for descriptor in self._opened(path, beneath.HELD):
                with beneath.opened(descriptor) as held:
                    yield held

    def _opened(self, path: str, flags: int) -> Generator[int, None, None]:
        for part in self._parts:
            if not part.holds(path):
                continue
            try:
                with beneath.opened(os.open(part.path, beneath.HELD)) as root:
                    inner = part.inner(path)
                    descriptor = (
                        beneath.open_beneath(root, inner, flags) if inner else os.open(part.path, flags)
                    )
            except FileNotFoundError:
                pass
            except NotADirectoryError:
                # A file or a link stands above it, and hides what the parts below have there.
                break
            else:
                yield descriptor
            if part.alone:
                break
