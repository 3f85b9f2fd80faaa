"""Lays out what a run in a container finds: its layers over the code, or its copy of it (shell)."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from spell_proto.spec import AttemptSpec
from spell_proto.state import Reason
from spell_runner import layout
from spell_runner.directory import Directory
from spell_runner.engines import copying
from spell_runner.errors import AttemptError
from spell_runner.lower import Lower
from spell_runner.mounts.layers import Mounted
from spell_runner.mounts.mounting import raise_layers
from spell_runner.shim import launch
from spell_runner.trees import Code
from spell_runner.workspace import Abort, is_directory, walk

SPELL = "/spell"


def lay_out(
    spec: AttemptSpec,
    directory: Directory,
    code: Code | None,
    mounted: Sequence[Mounted],
    abort: Abort,
    *,
    overlay: bool,
    owner: tuple[int, int],
) -> str:
    """Make the layers of the workspace the run's own, or its copy of the code; where its command starts."""
    uid, gid = owner
    layers = (launch.UPPER, launch.WORK) if overlay else (launch.WORKSPACE,)
    for part in (launch.TEMPORARY, *layers):
        path = Path(directory / part)
        path.mkdir(mode=0o755, exist_ok=True)
        os.chown(path, uid, gid)
    where = spec.spec.code
    if not overlay:
        copying.copy(code, directory, abort, owner=(uid, gid), mounted=mounted)
    elif mounted:
        raise_layers(mounted, directory, (uid, gid))
    if code is None or where is None:
        return SPELL
    if overlay and code.lower.lstat().st_uid != uid:
        _hand_over(code.lower, uid, gid, abort)
    if code.repository.lstat().st_uid != uid:
        # Git trusts only what belongs to whom it runs as.
        os.chown(code.repository, uid, gid)
    relative = os.path.normpath(f"{where.root_directory}/{where.cwd}")
    status = Lower.of(code.lower).status(relative)
    if status is not None and not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise AttemptError(Reason.START_FAILED, f"{SPELL}/{relative}: Not a directory")
    make_missing(code.lower, Path(directory / layers[0]), relative, uid, gid)
    if not overlay:
        # What is mounted there would else be mounted on a directory of root's.
        (Path(directory / launch.WORKSPACE) / layout.REPOSITORY).mkdir(exist_ok=True)
    return f"{SPELL}/{relative}"


def _hand_over(lower: Path, uid: int, gid: int, abort: Abort) -> None:
    """Give a tree to whom runs are run as. Its root comes last: who owns that owns all of it."""
    for _, entry in walk(lower):
        abort.check()
        os.chown(entry.path, uid, gid, follow_symlinks=False)
    os.chown(lower, uid, gid)


def make_missing(lower: Path, upper: Path, relative: str, uid: int, gid: int) -> None:
    """Make the directory in which the command starts, where the code does not have it. Where a link of the code leads is
    for the container to find.
    """
    code = Lower.of(lower)
    if code.status(relative) is not None:
        return
    made = upper
    for count, part in enumerate(parts := Path(relative).parts, 1):
        made /= part
        status = code.status("/".join(parts[:count]))
        if status is not None and not stat.S_ISDIR(status.st_mode):
            return
        if not is_directory(made):
            made.mkdir(mode=0o755)
            os.chown(made, uid, gid)
