"""Workspaces that are copies of the code, where no layers can be mounted (shell)."""

import os
from pathlib import Path

from spell_proto.state import Reason
from spell_runner import layout, skeleton
from spell_runner.directory import BASELINE, Directory
from spell_runner.errors import AttemptError
from spell_runner.shim import launch
from spell_runner.trees import Code
from spell_runner.workspace import Abort, copy_tree, remove


def copy(
    code: Code | None,
    directory: Directory,
    abort: Abort,
    *,
    repository: bool = False,
    owner: tuple[int, int] | None = None,
) -> None:
    """Lay the code out as an attempt's own, once, with the `repository` where nothing else brings it there. `owner` gets
    all of it.

    Raises:
        AttemptError: there is no room for it, or nothing can be written.
    """
    if Path(directory / BASELINE).exists():
        return
    workspace = Path(directory / launch.WORKSPACE)
    if any(workspace.iterdir()):
        # Left half-way by a runner that was killed.
        remove(workspace)
        workspace.mkdir()
        if owner is not None:
            os.chown(workspace, *owner)
    baseline = b"{}"
    try:
        if code is not None:
            baseline = copy_tree(code.lower, workspace, abort, owner)
            if repository:
                skeleton.copy(code.repository, code.objects, workspace / layout.REPOSITORY)
        directory.write(BASELINE, baseline)
    except OSError as error:
        remove(workspace)
        raise AttemptError(Reason.START_FAILED, f"the code could not be copied: {error}") from error
