"""A copy of the code that was left half-way is made anew, and belongs to whom its run is."""

import os

import pytest

from spell_runner.directory import Directory
from spell_runner.engines import copying, laying
from spell_runner.shim import launch
from spell_runner.workspace import Abort, copy_as_it_is
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


def test_of_a_mounted_link_a_run_gets_the_link_and_not_what_that_leads_to(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")

    copy_as_it_is(str(tmp_path / "link"), tmp_path / "copy")

    assert (tmp_path / "copy").readlink() == tmp_path / "secret"


def test_the_directory_of_a_command_is_not_made_behind_a_link_of_the_code(tmp_path):
    outside, lower, workspace = (tmp_path / name for name in ("outside", "lower", "workspace"))
    for path in (outside, lower / "repo", workspace / "repo"):
        path.mkdir(parents=True)
    (lower / "repo/e").symlink_to(outside)
    (workspace / "repo/e").symlink_to(outside)

    laying.make_missing(lower, workspace, "repo/e/made", os.geteuid(), os.getegid())
    laying.make_missing(lower, workspace, "repo/new/made", os.geteuid(), os.getegid())

    assert not list(outside.iterdir())
    assert (workspace / "repo/new/made").is_dir()
