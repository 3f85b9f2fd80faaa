"""A copy of the code that was left half-way is made anew, and belongs to whom its run is."""

import os

import pytest

from spell_runner.directory import Directory
from spell_runner.engines import copying
from spell_runner.shim import launch
from spell_runner.workspace import Abort
from support.specs import an_attempt


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_after_a_kill_half_way_the_workspace_is_still_given_to_whom_the_run_is(tmp_path):
    spec = an_attempt(1)
    directory = Directory.take_on(tmp_path, spec, spec.model_dump_json().encode(), "boot")
    workspace = tmp_path / directory.path.name / launch.WORKSPACE
    workspace.mkdir()
    (workspace / "half").write_text("x")
    os.chown(workspace, 10_000, 10_000)

    copying.copy(None, directory, Abort(), owner=(10_000, 10_000))

    assert not list(workspace.iterdir())
    assert (workspace.stat().st_uid, workspace.stat().st_gid) == (10_000, 10_000)
