"""The small pure parts: git's output, ssh's options, what may be written where, and shapes that must agree."""

import pytest

from spell_cli import answers, main, ssh, store_answers
from spell_cli.download import plan
from spell_cli.push import _without_progress
from spell_cli.repository import parse_status
from spell_gateway import shapes
from spell_proto import buckets, environments, mounts, scrubbing, spec, uploads, views


def test_status_tells_changed_from_untracked():
    raw = b" M a.py\0R  new.py\0old.py\0?? notes.txt\0?? dir/\0UU both.py\0 M nb.ipynb\0?? x/.DS_Store\0A  \xff\0"
    changed, unmerged, untracked = parse_status(raw)

    assert changed == ("a.py", "new.py", "both.py", "nb.ipynb", "\udcff")
    assert unmerged == ("both.py",)
    assert untracked == ("notes.txt", "dir/")


def test_a_clean_repository_has_nothing_to_tell():
    assert parse_status(b"") == ((), (), ())


def test_the_stand_in_for_ssh_reads_what_git_passes():
    words = [
        "-F",
        "/x/ssh_config",
        "-o",
        "IdentitiesOnly=yes",
        "-i",
        "/x/key",
        "-o",
        "UserKnownHostsFile=/x/hosts",
        "-o",
        "ServerAliveInterval=15",
        "-o",
        "SendEnv=GIT_PROTOCOL",
        "-p",
        "2222",
        "git@127.0.0.1",
    ]
    call = ssh.parse([*words, "git-receive-pack '/1/2.git'"])

    assert call == ssh.Invocation(
        "127.0.0.1", "git", 2222, "/x/key", "/x/hosts", "/x/ssh_config", 15.0, "git-receive-pack '/1/2.git'"
    )


def test_gits_percentages_are_no_explanation():
    words = ["Counting objects:  50% (1/2)", "Counting objects: 100% (2/2), done.", "fatal: no", ""]

    assert _without_progress(words) == ["fatal: no"]


def entry(path, size=1, link=None):
    return {"path": path, "size": size, "modified_at": None, "sha256": None, "mode": 0o644, "link": link}


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", ".", "", "a/./b", "x\0y"])
def test_nothing_is_written_outside_the_target(tmp_path, path):
    fetches, problems = plan("runs/1", [entry(path)], tmp_path / "out")

    assert fetches == []
    assert len(problems) == 1


def test_a_link_in_the_target_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path)
    fetches, problems = plan("runs/1", [entry("sub/x"), entry("fine")], tmp_path / "out")

    assert [fetch.source for fetch in fetches] == ["runs/1/fine"]
    assert [problem.path for problem in problems] == ["sub/x"]


@pytest.mark.parametrize("link", ["/etc/passwd", "../../x", "a/../../../x"])
def test_a_link_that_leads_out_is_left_out(tmp_path, link):
    assert plan("runs/1", [entry("d/l", link=link)], tmp_path)[0] == []


def test_a_link_that_stays_inside_is_kept(tmp_path):
    assert len(plan("runs/1", [entry("d/l", link="../x")], tmp_path)[0]) == 1


def test_a_target_behind_a_link_of_the_users_own_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    fetches, _ = plan("runs/1", [entry("x")], tmp_path / "out")

    assert fetches[0].target == tmp_path / "real" / "x"


SAME = [
    (answers.Run, views.RunView),
    (answers.Runs, views.RunList),
    (answers.Spec, spec.RunSpec),
    (answers.Environment, spec.EnvironmentRequest),
    (answers.Code, spec.CodeLocation),
    (answers.Mount, mounts.Mount),
    (answers.EndOutcome, views.EndOutcome),
    (answers.SaveOutcome, views.SaveOutcome),
    (answers.Snapshot, views.SnapshotView),
    (answers.EndOutcomes, shapes.BatchOutcome),
    (answers.ArchiveOutcome, views.ArchiveOutcome),
    (store_answers.DamagedFile, scrubbing.DamagedFile),
    (store_answers.ScrubLine, scrubbing.ScrubLine),
    (answers.Transition, views.TransitionView),
    (answers.Entry, shapes.ResourceEntry),
    (answers.Listing, shapes.ResourceList),
    (answers.Link, uploads.LinkView),
    (answers.Upload, uploads.UploadView),
    (answers.Usage, shapes.Usage),
    (answers.UsageEntry, shapes.UsageEntry),
    (answers.Repository, views.Repository),
    (answers.Bucket, buckets.BucketView),
    (answers.BucketObject, buckets.ObjectEntry),
    (answers.Check, views.Check),
    (answers.Verdict, views.Verdict),
    (answers.Health, views.Health),
    (answers.Status, shapes.StatusView),
    (answers.FilesUse, views.FilesUse),
    (answers.MachineType, views.MachineTypeView),
    (answers.MachineTypes, views.MachineTypeList),
    (answers.Key, shapes.KeyView),
    (answers.EnvironmentView, environments.EnvironmentView),
    (answers.Environments, environments.EnvironmentList),
    (answers.EnvironmentDetail, environments.EnvironmentDetail),
    (answers.EnvironmentUse, environments.UseView),
    (answers.EnvironmentPlan, environments.PlanView),
    (answers.Framework, environments.FrameworkView),
    (answers.Frameworks, environments.FrameworkList),
    (answers.Removed, environments.Removed),
    (answers.RunPlan, shapes.RunPlan),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=[ours.__name__ for ours, _ in SAME])
def test_the_shapes_we_read_are_the_shapes_that_are_sent(ours, theirs):
    assert set(ours.__annotations__) <= set(theirs.model_fields)
    assert set(theirs.model_fields) <= set(ours.__annotations__) | set(
        getattr(ours.__base__, "__annotations__", {})
    )


def test_every_command_is_there_and_has_examples():
    for name in main.COMMANDS:
        command = main.spell.get_command(None, name)

        assert command is not None
        assert command.name == name
        assert "Examples:" in (command.epilog or "")
