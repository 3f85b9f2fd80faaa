"""Code, as a person has it and types it: what is checked out here is what runs there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.git_https import GitHttps, serving
from support.standalone import Result, Stack

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", name="host")
def _host(tmp_path_factory) -> Iterator[GitHttps]:
    with serving(tmp_path_factory.mktemp("https")) as host:
        yield host


@pytest.fixture(scope="module", name="settings")
def _settings(host) -> dict[str, str]:
    return host.settings


def git(stack: Stack, cwd: Path, *words: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["git", *words],
        cwd=cwd,
        env=stack.environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def project(stack, tmp_path) -> Path:
    """A repository with two commits and an annotated tag on the first, in a directory of its own."""
    root = stack.repository(
        {"file": "one\n", "sub/inner.txt": "inner\n"}, name=f"p{abs(hash(tmp_path)) % 10**8}"
    )
    git(stack, root, "tag", "--annotate", "--message", "First", "v1")
    stack.commit(root, {"file": "two\n"}, message="Second")
    return root


def spell(stack: Stack, cwd: Path, *words: str) -> Result:
    result = stack.spell("run", "-f", *words, cwd=cwd)
    assert result.rc == 0, result
    return result


def said(result: Result) -> list[str]:
    """The lines of the command itself."""
    lines = result.stdout.splitlines()
    first = lines.index("✨ Run is running") + 1
    return lines[
        first : next(n for n, line in enumerate(lines) if n >= first and line.startswith("✨ Run is "))
    ]


def run_id(result: Result) -> str:
    return re.search(r"Casting spell #(\d+)", result.stdout)[1]


def test_uncommitted_changes_travel_and_come_back_as_a_patch(stack, project):
    (project / "file").write_text("three\n")
    (project / "bytes").write_bytes(bytes(range(256)))
    git(stack, project, "add", "--intent-to-add", "bytes")
    git(stack, project, "mv", "sub/inner.txt", "sub/moved.txt")
    (project / "sub" / "moved.txt").chmod(0o755)
    result = spell(stack, project, "cat file; wc -c < bytes; test -x sub/moved.txt; ls sub")

    assert result.stdout.splitlines()[0] == "✨ Preparing uncommitted changes…"
    assert said(result) == ["three", "256", "moved.txt"]
    wanted = {
        path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".git" not in path.parts
    }
    git(stack, project, "reset", "--quiet", "--hard")
    subprocess.run(
        f"'{Path(sys.executable).with_name('spell')}' patch {run_id(result)} | git apply",
        shell=True,
        cwd=project,
        env=stack.environment,
        check=True,
    )
    found = {
        path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".git" not in path.parts
    }
    assert found == wanted
    assert "+ uncommitted changes" in stack.spell("info", run_id(result)).stdout


def test_the_same_changes_are_not_pushed_twice(stack, project):
    (project / "file").write_text("three\n")
    spell(stack, project, "true")
    again = stack.spell("run", "-f", "cat", "file", cwd=project, environment={"GIT_SSH_COMMAND": "false"})

    assert again.rc == 0, again
    assert said(again) == ["three"]


def test_git_in_a_run_says_what_it_says_here(stack, project):
    command = "git log -n 1 --format=%H; git rev-parse HEAD; git describe; git status --short"
    clean = spell(stack, project / "sub", command)
    head = git(stack, project, "rev-parse", "HEAD")
    describe = git(stack, project, "describe")
    assert said(clean) == [head, head, describe]

    (project / "file").write_text("three\n")
    (project / "sub" / "inner.txt").unlink()
    changed = spell(stack, project, command)
    assert said(changed) == [head, head, describe, "M  file", "D  sub/inner.txt"]
    assert stack.spell("patch", run_id(clean)).stdout == ""


def test_another_commit_is_run_as_it_was(stack, project):
    (project / "file").write_text("never\n")
    (project / "new").mkdir()
    result = spell(
        stack, project / "new", "--commit-ref", "HEAD~1", "cat ../file; pwd; git describe; git status --short"
    )

    assert said(result) == ["one", f"/spell/{project.name}/new", "v1"]
    assert "will not be included in the run of commit" in " ".join(result.stderr.split())
    assert stack.run(int(run_id(result)))["spec"]["description"] == "change"
    refused = stack.spell("run", "-c", "HEAD~5", "true", cwd=project)
    assert refused.rc == 5
    assert f'Could not resolve commit "HEAD~5" for repo {project}' in " ".join(refused.stderr.split())


def test_from_a_worktree_on_a_detached_head(stack, project):
    linked = project.with_name(project.name + "-linked")
    git(stack, project, "worktree", "add", "--quiet", "--detach", str(linked), "v1")
    (linked / "file").write_text("linked\n")

    assert said(spell(stack, linked / "sub", "cat ../file inner.txt; git describe")) == [
        "linked",
        "inner",
        "v1",
    ]


def test_from_a_shallow_clone(stack, project):
    shallow = project.with_name(project.name + "-shallow")
    git(stack, stack.work, "clone", "--quiet", "--depth=1", f"file://{project}", str(shallow))
    (shallow / "file").write_text("shallow\n")
    result = spell(stack, shallow, "cat file; git log --format=%s; git status --short")

    assert said(result) == ["shallow", "Second", "M  file"]


def test_from_a_repository_of_sha256(stack, tmp_path):
    root = stack.work / f"s{abs(hash(tmp_path)) % 10**8}"
    git(stack, stack.work, "init", "--quiet", "--object-format=sha256", str(root))
    stack.commit(root, {"file": "one\n"})
    (root / "file").write_text("two\n")

    assert said(spell(stack, root, "cat file; git status --short")) == ["two", "M  file"]


def test_code_from_a_url_as_the_contract_has_it(stack, project, host):
    url = host.publish(project, "spellrun/examples") + ".git"
    host.publish(project, "spellrun/examples.git")
    old = git(stack, project, "rev-parse", "v1^{commit}")
    result = spell(stack, stack.work, "--github-url", url, "--github-ref", old[:6], "git log -n 1 | cat")

    assert said(result)[0] == f"commit {old}"
    assert result.stderr == ""
    row = stack.spell("ps", "-n", "1", "-v").stdout.splitlines()[1]
    assert re.search(rf"\bexamples\b.*\b{old[:8]}\b", row)
    assert f"{url} at {old[:6]}" in stack.spell("info", run_id(result)).stdout
    whole = spell(stack, stack.work, "--github-url", url, "pwd; cat file; git describe; git status --short")
    assert said(whole) == ["/spell/examples", "two", git(stack, project, "describe")]
    assert url in stack.spell("repos").stdout


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        (("nosuch",), "not found or private"),
        (("known", "--github-ref", "nosuch"), "there is no branch, tag or commit nosuch"),
        (("known", "--github-ref", "ffffffff"), "there is no branch, tag or commit ffffffff"),
    ],
)
def test_code_that_cannot_be_fetched_fails_the_run_in_a_sentence(stack, project, host, words, holds):
    host.publish(project, "known")
    url = host.url(words[0])
    result = stack.spell("run", "--github-url", url, *words[1:], "true")

    assert result.rc == 70, result
    run = stack.run(int(run_id(result)))
    assert (run["state"], run["reason"]) == ("failed", "code_fetch")
    assert holds in run["message"].replace("'", "")


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1/a/b", "https://localhost/a/b", "https://2130706433/a/b", "https://0x7f.1/a/b"]
)
def test_b33_what_is_not_on_the_list_is_refused_and_nothing_is_created(stack, url):
    before = len(stack.json("ps", "-n", "500"))
    result = stack.spell("run", "--github-url", url, "true")

    assert result.rc == 2, result
    assert "code is not fetched from there" in " ".join(result.stderr.split())
    assert len(stack.json("ps", "-n", "500")) == before


def test_a_private_repository_needs_credentials_that_are_never_shown(stack, project, host):
    url = host.publish(project, "private/repository")
    host.logins["private/repository"] = ("alice", "s3cret")
    assert stack.spell("run", "--github-url", url, "true").rc == 70
    words = ("cluster", "add-git-credentials", host.host, "--username", "alice", "--password-stdin")
    stored = stack.spell(*words, stdin="s3cret\n")
    assert stored.rc == 0, stored

    assert said(spell(stack, stack.work, "--github-url", url, "cat file")) == ["two"]
    listed = stack.spell("cluster", "list-git-credentials")
    assert "alice" in listed.stdout
    assert "s3cret" not in listed.stdout + stack.logs(1000)
    deleted = stack.spell("cluster", "delete-git-credentials", host.host)
    assert deleted.rc == 0, deleted
    assert stack.json("cluster", "list-git-credentials") == []
