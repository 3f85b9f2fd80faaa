"""Mounts as a person types them: what one run has made is what another one finds."""

import os
import re
from pathlib import Path

import pytest

from support.standalone import standalone

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", name="project")
def _project(stack) -> Path:
    return stack.repository({"file": "code\n", "sub/inner.txt": "inner\n"}, name="project")


@pytest.fixture(scope="module", name="made")
def _made(stack, project) -> int:
    """A run that has made some files."""
    command = (
        "mkdir -p data/deep; echo one > data/one.txt; echo two > data/deep/two.txt; chmod 755 data/one.txt; "
        "ln -s one.txt data/link; touch -d @1000000000 data/one.txt; echo model > model.bin"
    )
    return stack.cast(command, cwd=project)


def run(stack, project, *words: str):
    """A run to its end, and what its command wrote, line by line."""
    result = stack.spell("run", "-f", *words, cwd=project)
    return result, result.stdout.splitlines()


def saved(stack, result) -> dict[str, str]:
    """What a run has saved."""
    run_id = re.search(r"#(\d+)", result.stdout)[1]
    target = stack.work / f"fetched-{run_id}"
    copied = stack.spell("cp", f"runs/{run_id}", str(target))
    if copied.rc:
        return {}
    return {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}


def test_files_of_a_run_appear_in_another_one_where_they_are_wanted(stack, project, made):
    assert stack.until_final(made)["state"] == "complete"

    result, lines = run(
        stack, project, "-m", f"runs/{made}/data:/mnt/sets", "-m", f"runs/{made}/data", "-m", f"runs/{made}/model.bin:in/m",
        "cat /mnt/sets/one.txt data/deep/two.txt in/m file; readlink data/link; stat -c '%a %Y' /mnt/sets/one.txt; ls /mnt",
    )  # fmt: skip

    assert result.rc == 0, result
    assert lines[lines.index("one") :][:7] == [
        "one",
        "two",
        "model",
        "code",
        "one.txt",
        "755 1000000000",
        "sets",
    ]
    assert "✨ Run is mounting" in lines
    assert f"Mounting runs/{made}/data at /mnt/sets" in lines
    assert saved(stack, result) == {}


def test_what_a_run_changes_below_a_mount_is_its_own(stack, project, made):
    stack.until_final(made)

    result, _ = run(
        stack, project, "-m", f"runs/{made}/data", "-m", f"runs/{made}/model.bin", "-m", f"runs/{made}:/mnt/all",
        "echo more >> data/one.txt; echo new > data/new.txt; rm data/deep/two.txt; rm model.bin; touch data/link; "
        "echo scratch > /mnt/all/scratch; echo changed > /mnt/all/model.bin",
    )  # fmt: skip
    again, lines = run(
        stack,
        project,
        "-m",
        f"runs/{made}:/mnt/all",
        "cat /mnt/all/data/one.txt /mnt/all/model.bin; ls /mnt/all",
    )

    assert result.rc == 0, result
    assert saved(stack, result) == {"data/one.txt": "one\nmore\n", "data/new.txt": "new\n"}
    assert "Not saved: what was written below /mnt/all, as only files below /spell are" in result.stdout
    assert again.rc == 0, again
    assert lines[lines.index("one") :][:4] == ["one", "model", "data", "model.bin"]


def test_a_mount_that_cannot_work_is_refused_before_code_is_pushed(stack, made):
    stack.until_final(made)
    project = stack.repository({"file": "never pushed"}, name="unpushed")
    failed = stack.cast("sleep 600")
    stack.spell("kill", str(failed))
    stack.until_final(failed)
    empty = stack.cast("true")
    stack.until_final(empty)
    no_push = {"GIT_SSH_COMMAND": "false"}

    for resource, words in {
        f"runs/{made}/nothing": "no such file or resource",
        "runs/999999": "no such file or resource",
        f"runs/{failed}": f"run {failed} was killed; no outputs",
        f"runs/{empty}": f"run {empty} saved no files",
    }.items():
        refused = stack.spell("run", "-f", "-m", resource, "true", cwd=project, environment=no_push)
        assert refused.rc == 1, refused
        said = " ".join(refused.stderr.split())
        assert "Cannot mount resource" in said
        assert f"not a valid resource: {words}" in said


def test_every_kind_of_resource_is_mounted_and_odd_names_with_it(stack, project):
    local = stack.work / "sets"
    names = ["plain", "with space", "caf\u00e9", "cafe\u0301", "x" * 255, "-rf", "*"]
    (local / "deep").mkdir(parents=True)
    for name in names:
        (local / "deep" / name).write_text(f"{name}\n")
    (local / "link").symlink_to("deep/plain")
    for words in (
        ("upload", str(local)),
        ("cluster", "publish", str(local), "public/image/sets"),
        ("link", "mine", "uploads/sets/deep"),
    ):
        done = stack.spell(*words)
        assert done.rc == 0, done

    result, lines = run(
        stack, project, "-m", "uploads/sets:/mnt/up", "-m", "public/image/sets:/mnt/public", "-m", "mine/plain", "-m", "mine",
        "ls mine | wc -l; cat plain; diff -r /mnt/up /mnt/public && diff -r mine /mnt/up/deep && cat mine/*; readlink /mnt/up/link",
    )  # fmt: skip

    assert result.rc == 0, result
    shown = lines[lines.index(str(len(names))) + 1 :]
    assert shown[0] == "plain"
    assert sorted(shown[1 : 1 + len(names)]) == sorted(names)
    assert shown[1 + len(names)] == "deep/plain"


def test_what_was_archived_is_no_resource_any_more(stack, project):
    made = stack.cast("echo one > one", cwd=project)
    stack.until_final(made)
    mounting = stack.cast("-m", f"runs/{made}", "true", cwd=project)
    stack.until_final(mounting)
    assert stack.spell("archive", str(made)).rc == 0

    refused = stack.spell("run", "-f", "-m", f"runs/{made}", "true", cwd=project)
    again = stack.spell("rerun", str(mounting))

    for result in (refused, again):
        assert result.rc == 1, result
        assert "not a valid resource" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("a:b:c", "it must be <resource_path>[:<mount_path>]"),
        ("runs/1/../../x:/mnt/a", "names no resource"),
        ("runs/1/%2e%2e/x:/mnt/a", "names no resource"),
        ("runs/1:/etc/x", "use /mnt/..."),
        ("runs/1:/mnt/../etc", "use /mnt/..."),
    ],
)
def test_what_is_no_mount_is_a_usage_error(stack, project, mount, words):
    refused = stack.spell("run", "-f", "--mount", mount, "true", cwd=project)

    assert refused.rc == 2
    assert words in " ".join(refused.stderr.split())


def test_a_run_that_goes_on_cannot_be_mounted(stack, project):
    going = stack.cast("sleep 600")
    try:
        refused = stack.spell("run", "-f", "-m", f"runs/{going}", "true", cwd=project)
    finally:
        stack.spell("kill", str(going))

    assert refused.rc == 1
    assert f"run {going} is" in " ".join(refused.stderr.split())


def test_mounts_are_shown_foretold_and_made_again(stack, project, made):
    stack.until_final(made)
    mount = f"runs/{made}/data:/mnt/a"

    foretold = stack.spell("run", "-f", "--dry-run", "-m", mount, "true", cwd=project)
    first = stack.cast("-m", mount, "cat /mnt/a/one.txt", cwd=project)
    stack.until_final(first)
    again = stack.spell("rerun", str(first))

    assert f"runs/{made}/data at /mnt/a" in foretold.stdout
    assert f"runs/{made}/data at /mnt/a" in stack.spell("info", str(first)).stdout
    assert again.rc == 0, again
    assert "one" in again.stdout.splitlines()
    kept = Path(stack.data) / "runner/mounts"
    assert [path for path in kept.rglob("*") if path.is_file() and os.access(path, os.X_OK)], (
        "its mode is kept"
    )


def test_without_namespaces_a_mount_outside_the_workspace_is_refused_and_names_what_helps():
    with standalone(slots=1, isolation="none", engine="local") as bare:
        made = bare.cast("echo one > data.txt")
        bare.until_final(made)

        refused = bare.spell("run", "-f", "-m", f"runs/{made}:/mnt/a", "true")
        inside = bare.spell("run", "-f", "-m", f"runs/{made}:in", "cat in/data.txt; echo more >> in/data.txt")
        again = bare.spell("run", "-f", "-m", f"runs/{made}:in", "cat in/data.txt")

        said = " ".join(refused.stderr.split())
        assert refused.rc == 2, refused
        assert "none has namespaces, without which nothing can be mounted outside /spell" in said
        assert "apt-get install bubblewrap" in said
        assert "one" in inside.stdout.splitlines()
        assert "more" not in again.stdout.splitlines(), "what is kept was not changed"
