"""Workspaces that are copies of the code and of what is mounted, where no layers can be mounted (shell)."""

import os
from collections.abc import Sequence
from pathlib import Path

from spell_proto.state import Reason
from spell_runner import layout, skeleton
from spell_runner.directory import BASELINE, Directory
from spell_runner.errors import AttemptError
from spell_runner.mounts import copied
from spell_runner.mounts.layers import Mounted
from spell_runner.shim import launch
from spell_runner.trees import Code
from spell_runner.workspace import Abort, Baseline, copied_tree, encode_baseline, remove


def copy(
    code: Code | None,
    directory: Directory,
    abort: Abort,
    *,
    repository: bool = False,
    owner: tuple[int, int] | None = None,
    mounted: Sequence[Mounted] = (),
) -> None:
    """Lay code and mounts out as an attempt's own, once, with the `repository` where nothing else brings it there. `owner`
    gets all of it.

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
    baseline: Baseline = {}
    reason, what = Reason.START_FAILED, "the code"
    try:
        if code is not None:
            baseline = copied_tree(code.lower, workspace, abort, owner)
            if repository:
                skeleton.copy(code.repository, code.objects, workspace / layout.REPOSITORY)
        reason, what = Reason.MOUNT_FAILED, "what is mounted"
        if mounted:
            copied.into_workspace(mounted, workspace, baseline, abort, owner)
            copied.outside(mounted, directory, abort, owner)
        directory.write(BASELINE, encode_baseline(baseline))
    except OSError as error:
        remove(workspace)
        raise AttemptError(reason, f"{what} could not be copied: {error}") from error
