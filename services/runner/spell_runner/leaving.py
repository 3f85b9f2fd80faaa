"""Leaves out of what a run has made what is not to be saved: by `.spellignore` of its code, then by `--no-save` (shell).

Patterns mean paths as they are in `runs/N`. It is the `.spellignore` that the run started with that counts.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from spell_proto.spec import RunSpec
from spell_runner.directory import Directory
from spell_runner.engines.engine import Engine
from spell_runner.ignoring import Patterns
from spell_runner.outputs import Changes
from spell_runner.shim.launch import LAUNCH, Launch
from spell_runner.workspace import Abort

NAME = ".spellignore"
FLAG = "--no-save"
BYTES_MAX = 64 * 1024
#: Each is looked at for each file.
PATTERNS_MAX = 1_000
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def changes(engine: Engine, spec: RunSpec, directory: Directory, abort: Abort) -> Changes:
    """What the command has made, bar what is not to be saved. Slow: to be called in a thread.

    Raises:
        OSError: it cannot be read.
    """
    found = engine.changes(directory, abort)
    root = None if spec.code is None else spec.code.root_directory
    lines: list[str] = []
    if root is not None:
        lower = Path(Launch.decode(Path(directory / LAUNCH).read_bytes()).lower)
        try:
            lines = read(lower / root / NAME)
        except ValueError as error:
            found.notes.insert(0, f"{NAME} leaves nothing out: {error}")
    return without(found, lines, spec.no_save, root, abort)


def read(path: Path) -> list[str]:
    """The lines of the file of patterns; none where there is no such file.

    Raises:
        ValueError: it is not to be used; says why.
    """
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"it cannot be read ({os.strerror(error.errno or 0)})") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no file")
        data = os.read(fd, BYTES_MAX + 1)
    finally:
        os.close(fd)
    if len(data) > BYTES_MAX:
        raise ValueError(f"it has more than {BYTES_MAX // 1024} KiB")
    # As git, which lets a file begin with a byte order mark.
    lines = data.decode("utf-8-sig", errors="replace").split("\n")
    if sum(bool(line.strip()) and not line.startswith("#") for line in lines) > PATTERNS_MAX:
        raise ValueError(f"it has more than {PATTERNS_MAX} patterns")
    return lines


def without(
    found: Changes, ignored: Sequence[str], no_save: Sequence[str], root_directory: str | None, abort: Abort
) -> Changes:
    """`found` without what patterns leave out, and with a line that says how much that is."""
    patterns = Patterns([*ignored, *no_save])
    if not patterns:
        return found
    prefix = "" if root_directory is None else f"{root_directory}/"

    def stays(path: str) -> bool:
        abort.check()
        return not patterns.leave_out(path.removeprefix(prefix))

    kept = [one for one in found.found if stays(one.path)]
    deleted = [path for path in found.deleted if stays(path)]
    notes, count = list(found.notes), len(found.found) - len(kept)
    if count:
        by = " and ".join(name for name, given in ((NAME, ignored), (FLAG, no_save)) if given)
        notes.insert(0, f"Not saved: {count} file{'s' * (count != 1)} (left out by {by})")
    return Changes(kept, deleted, notes)
