"""Uncommitted changes travel as they are, and the user's repository stays as it is, byte for byte."""

import hashlib
import os
import resource
import subprocess
from pathlib import Path

import pytest

from integration.cli.conftest import SPELL

pytestmark = pytest.mark.integration


def state_of(git_dir):
    """Every file below a directory of git's: what it is, what it holds, and when it was written."""
    found = {}
    for path in sorted(Path(git_dir).rglob("*")):
        status = path.lstat()
        data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, data)
    return found


def sent(server):
    return server.posts("/api/runs")[-1][1]["code"]


def arrived(endpoint, snapshot):
    """Path, mode and content of every file of a commit that was pushed."""
    found = {}
    for entry in endpoint.git("ls-tree", "-r", "-z", snapshot).split(b"\0")[:-1]:
        head, path = entry.split(b"\t", 1)
        mode, kind, name = head.decode().split()
        found[path] = (mode, endpoint.git("cat-file", "blob", name) if kind == "blob" else name)
    return found


def run(cli, server, *words):
    """`spell run`; what was sent, after making sure that the repository is as it was."""
    git_dir = cli.git("rev-parse", "--path-format=absolute", "--git-common-dir")
    before = state_of(git_dir)
    done = cli("run", "-b", "-f", *words, "true")
    assert done.returncode == 0, done.stderr.decode()
    assert state_of(git_dir) == before
    assert list((cli.spell_dir / "snapshots").iterdir()) == []
    return sent(server)


def dirty(cli):
    """A work tree in which everything has happened that can happen to tracked files."""
    for name in ("staged", "both", "unstaged", "gone", "gone_staged", "mode", "old_name", "to_link", "same"):
        (cli.cwd / name).write_text(f"{name}\n" * 20)
    (cli.cwd / "sub").mkdir()
    (cli.cwd / "sub" / "inner").write_text("inner\n")
    (cli.cwd / "binary").write_bytes(bytes(range(256)))
    cli.git("add", ".")
    cli.git("commit", "-q", "-m", "Everything")
    (cli.cwd / "staged").write_text("staged, new\n")
    (cli.cwd / "both").write_text("first\n")
    cli.git("add", "staged", "both")
    (cli.cwd / "both").write_text("second\n")
    (cli.cwd / "unstaged").write_text("unstaged, new\n")
    (cli.cwd / "gone").unlink()
    cli.git("rm", "-q", "gone_staged")
    (cli.cwd / "mode").chmod(0o755)
    cli.git("mv", "old_name", "new_name")
    (cli.cwd / "to_link").unlink()
    (cli.cwd / "to_link").symlink_to("../../outside")
    (cli.cwd / "binary").write_bytes(b"\0\xff" * 500)
    (cli.cwd / "sub" / "inner").write_text("inner, new\n")
    (cli.cwd / "noted").write_text("noted\n")
    cli.git("add", "-N", "noted")
    (cli.cwd / "untracked").write_text("never\n")
    (cli.cwd / "book.ipynb").write_text("{}")
    cli.git("add", "book.ipynb")


EXPECTED = {
    b"both": ("100644", b"second\n"),
    b"staged": ("100644", b"staged, new\n"),
    b"unstaged": ("100644", b"unstaged, new\n"),
    b"mode": ("100755", b"mode\n" * 20),
    b"new_name": ("100644", b"old_name\n" * 20),
    b"to_link": ("120000", b"../../outside"),
    b"binary": ("100644", b"\0\xff" * 500),
    b"sub/inner": ("100644", b"inner, new\n"),
    b"noted": ("100644", b"noted\n"),
    b"book.ipynb": ("100644", b"{}"),
    b"same": ("100644", b"same\n" * 20),
    b"train.py": ("100644", b"print(1)\n"),
}


def test_everything_that_changed_travels_and_nothing_of_the_repository_does(pushing, server, endpoint):
    pushing.repository()
    dirty(pushing)
    head = pushing.git("rev-parse", "HEAD")
    hook = pushing.cwd / ".git" / "hooks"
    for name in ("pre-push", "pre-commit", "post-index-change", "reference-transaction", "post-commit"):
        (hook / name).write_text("#!/bin/sh\ntouch ../hooked hooked; exit 1\n")
        (hook / name).chmod(0o755)
    done = pushing("run", "-b", "-f", "true")

    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[0] == "✨ Preparing uncommitted changes…"
    code = sent(server)
    assert code["commit"] == head
    assert code["snapshot"] != head
    assert endpoint.refs() == [f"refs/heads/br_{code['snapshot']} {code['snapshot']}"]
    assert arrived(endpoint, code["snapshot"]) == EXPECTED
    date = pushing.git("log", "-1", "--format=%ct")
    form = "--format=%P|%an|%ae|%cn|%ce|%at|%ct|%B"
    assert endpoint.git("log", "-1", form, code["snapshot"]).decode().strip() == (
        f"{head}|spell|spell@localhost|spell|spell@localhost|{date}|{date}|Uncommitted changes"
    )
    assert not list(pushing.home.rglob("hooked"))
    endpoint.git("fsck", "--strict")


def test_the_repository_stays_byte_for_byte_as_it_was(pushing, server):
    pushing.repository()
    (pushing.cwd / "train.py").write_text("print('stashed')\n")
    pushing.git("stash", "-q")
    dirty(pushing)
    first = run(pushing, server)
    second = run(pushing, server)

    assert first == second, "the same work tree is the same commit"
    assert len([path for path in server.asked if path[:2] == ("PUT", "/api/repositories")]) == 1


def _subdirectory(cli):
    cli.cwd = cli.cwd / "sub"


def _worktree(cli):
    cli.git("worktree", "add", "-q", str(cli.home / "linked"), "-b", "other")
    cli.cwd = cli.home / "linked"
    (cli.cwd / "staged").write_text("here\n")


def _detached(cli):
    cli.git("checkout", "-q", "--detach")


def _split_index(cli):
    cli.git("update-index", "--split-index")


def _untracked_cache(cli):
    cli.git("config", "core.untrackedCache", "true")
    cli.git("status")


def _ignored_settings(cli):
    for name, value in (
        ("core.autocrlf", "true"),
        ("core.safecrlf", "true"),
        ("commit.gpgSign", "true"),
        ("core.fsmonitor", "touch ../hooked"),
        ("core.hooksPath", "/"),
        ("core.sshCommand", "false"),
        ("push.pushOption", "x"),
        ("push.negotiate", "true"),
        ("status.showUntrackedFiles", "no"),
        ("diff.ignoreSubmodules", "all"),
        ("user.useConfigOnly", "true"),
        ("core.fsync", "all"),
        ("core.compression", "0"),
    ):
        cli.git("config", name, value)


def _no_cache_tree(cli):
    cli.git("read-tree", "--empty")
    cli.git("reset", "-q", "--mixed")


@pytest.mark.parametrize(
    "made",
    [_subdirectory, _worktree, _detached, _split_index, _untracked_cache, _ignored_settings, _no_cache_tree],
)
def test_from_wherever_it_is_run(pushing, server, endpoint, made):
    pushing.repository()
    dirty(pushing)
    made(pushing)
    if made is _split_index:
        # Every git that reads a shared index marks it as used.
        for shared in (pushing.cwd / ".git").glob("sharedindex.*"):
            os.utime(shared, (4e9, 4e9))
    git_dir = pushing.git("rev-parse", "--path-format=absolute", "--git-common-dir")
    before = state_of(git_dir)
    done = pushing("run", "-b", "-f", "true")

    assert done.returncode == 0, done.stderr.decode()
    after = state_of(git_dir)
    if made is _split_index:
        before, after = ({k: v for k, v in s.items() if "sharedindex" not in k} for s in (before, after))
    assert after == before
    found = arrived(endpoint, sent(server)["snapshot"])
    assert found[b"unstaged"][1] == (b"unstaged\n" * 20 if made is _worktree else b"unstaged, new\n")
    assert found[b"staged"][1] == (b"here\n" if made is _worktree else b"staged, new\n")
    assert sent(server)["cwd"] == ("sub" if made is _subdirectory else ".")


def test_a_shallow_clone_with_changes(pushing, server, endpoint):
    pushing.repository()
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("commit", "-q", "-a", "-m", "Second")
    origin = pushing.cwd
    pushing.cwd = pushing.home
    pushing.git("clone", "-q", "--depth=1", f"file://{origin}", "shallow")
    pushing.cwd = pushing.home / "shallow"
    (pushing.cwd / "train.py").write_text("print(3)\n")
    code = run(pushing, server)

    assert arrived(endpoint, code["snapshot"]) == {b"train.py": ("100644", b"print(3)\n")}
    assert code["root_directory"] == "shallow"


def test_where_git_is_told_about_everything_by_variables(pushing, server, endpoint):
    pushing.repository()
    (pushing.cwd / "train.py").write_text("print(3)\n")
    work = pushing.cwd
    (work / ".git").rename(work.parent / "elsewhere")
    (work.parent / "elsewhere" / "index").rename(work.parent / "an index")
    pushing.env |= {
        "GIT_DIR": "../elsewhere",
        "GIT_WORK_TREE": ".",
        "GIT_INDEX_FILE": str(work.parent / "an index"),
    }
    before = state_of(work.parent / "elsewhere")
    done = pushing("run", "-b", "-f", "true")

    assert done.returncode == 0, done.stderr
    assert arrived(endpoint, sent(server)["snapshot"]) == {b"train.py": ("100644", b"print(3)\n")}
    assert state_of(work.parent / "elsewhere") == before


def test_a_repository_that_borrows_its_objects(pushing, server, endpoint):
    pushing.repository(name='a "b":c')
    origin = pushing.cwd
    pushing.cwd = pushing.home
    pushing.git("clone", "-q", "--shared", str(origin), "borrowing")
    pushing.cwd = pushing.home / "borrowing"
    (pushing.cwd / "train.py").write_text("print(3)\n")
    code = run(pushing, server)

    assert arrived(endpoint, code["snapshot"]) == {b"train.py": ("100644", b"print(3)\n")}


@pytest.mark.parametrize("name", ['a:b"c\\d', "-x", "#y", "line\nbreak", " ü "])
def test_a_repository_in_a_directory_of_any_name(pushing, server, endpoint, name):
    pushing.repository(name=name)
    (pushing.cwd / "train.py").write_text("print(3)\n")
    code = run(pushing, server)

    assert arrived(endpoint, code["snapshot"]) == {b"train.py": ("100644", b"print(3)\n")}
    assert code["root_directory"] == name


def test_a_submodule_that_has_changed_is_left_alone(pushing, server, endpoint):
    pushing.repository(name="inner")
    origin = pushing.cwd
    pushing.cwd = pushing.home / "work"
    pushing.repository()
    pushing.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "libs/inner")
    pushing.git("commit", "-q", "-m", "With a submodule")
    link = pushing.git("rev-parse", "HEAD:libs/inner")
    inside = pushing.cwd / "libs" / "inner"
    (inside / "train.py").write_text("changed\n")
    os.utime(inside / "train.py", (1, 1))
    (pushing.cwd / "train.py").write_text("print(3)\n")
    found = arrived(endpoint, run(pushing, server)["snapshot"])

    assert found[b"train.py"] == ("100644", b"print(3)\n")
    assert found[b"libs/inner"] == ("160000", link)


def test_a_sparse_checkout_keeps_what_is_not_there(pushing, server, endpoint):
    pushing.repository()
    dirty(pushing)
    pushing.git("commit", "-q", "-a", "-m", "All of it")
    pushing.git("sparse-checkout", "set", "--cone", "--sparse-index", "sub")
    (pushing.cwd / "sub" / "inner").write_text("sparse\n")
    (pushing.cwd / "train.py").write_text("print(4)\n")
    found = arrived(endpoint, run(pushing, server)["snapshot"])

    assert found == EXPECTED | {
        b"sub/inner": ("100644", b"sparse\n"),
        b"train.py": ("100644", b"print(4)\n"),
    }


def test_a_repository_of_sha256(pushing, server, endpoint):
    endpoint.git("init", "-q", "--bare", "--object-format=sha256", endpoint.bare.with_name("other.git"))
    endpoint.bare = endpoint.bare.with_name("other.git")
    pushing.cwd = pushing.home / "proj256"
    pushing.cwd.mkdir()
    pushing.git("init", "-q", "--object-format=sha256")
    (pushing.cwd / "file").write_text("one\n")
    pushing.git("add", ".")
    pushing.git("commit", "-q", "-m", "x")
    (pushing.cwd / "file").write_text("two\n")
    code = run(pushing, server)

    assert len(code["snapshot"]) == 64
    assert arrived(endpoint, code["snapshot"]) == {b"file": ("100644", b"two\n")}


def test_line_ends_and_filters_are_the_users(pushing, server, endpoint):
    pushing.repository()
    (pushing.cwd / ".gitattributes").write_text("*.txt text\n*.up filter=up\n*.bin filter=lfs\n")
    for name in ("a.txt", "a.up", "a.bin", "b.bin"):
        (pushing.cwd / name).write_text("x\n")
    pushing.git("config", "filter.up.clean", "tr a-z A-Z")
    pushing.git("config", "filter.lfs.clean", "touch .git/lfs-was-here; false")
    pushing.git("config", "filter.lfs.process", "touch .git/lfs-was-here; false")
    pushing.git("-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process=", "add", ".")
    pushing.git("-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process=", "commit", "-q", "-m", "x")
    (pushing.cwd / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    (pushing.cwd / "a.up").write_bytes(b"shout\n")
    (pushing.cwd / "a.bin").write_bytes(b"as it is\n")
    git_dir = state_of(pushing.cwd / ".git")
    done = pushing("run", "-b", "-f", "true")

    found = arrived(endpoint, sent(server)["snapshot"])
    assert found[b"a.txt"][1] == b"one\ntwo\n"
    assert found[b"a.up"][1] == b"SHOUT\n"
    assert found[b"a.bin"][1] == b"as it is\n"
    assert state_of(pushing.cwd / ".git") == git_dir
    warned = done.stderr.decode()
    assert "does not support git-lfs" in warned
    assert "\tb.bin\n" in warned
    assert "a.bin" not in warned


def test_names_are_carried_byte_for_byte_and_never_obeyed(pushing, server, endpoint):
    pushing.repository()
    names = [
        b"-rf",
        b"--force",
        b"new\nline",
        b"\xff\xfe",
        b"$(touch hooked)",
        b";id",
        b"a\tb",
        b"\x1b[2J",
        b":x",
    ]
    for name in names:
        Path(os.fsdecode(bytes(pushing.cwd) + b"/" + name)).write_text("x")
    pushing.git("add", ".")
    for name in names:
        Path(os.fsdecode(bytes(pushing.cwd) + b"/" + name)).write_text("y")
    (pushing.cwd / "link").symlink_to("/etc/passwd")
    pushing.git("add", "link")
    found = arrived(endpoint, run(pushing, server)["snapshot"])

    assert {name: found[name] for name in names} == dict.fromkeys(names, ("100644", b"y"))
    assert found[b"link"] == ("120000", b"/etc/passwd")
    assert not (pushing.cwd / "hooked").exists()


def test_a_file_of_200_mb_is_streamed(pushing, server, endpoint):
    pushing.repository()
    block = os.urandom(1 << 10) * (1 << 10)
    with (pushing.cwd / "large").open("wb") as file:
        for number in range(200):
            file.write(number.to_bytes(4, "big") + block[4:])
    pushing.git("add", "-N", "large")
    limit = 600 << 20

    def small():
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    done = subprocess.run(
        [SPELL, "run", "-b", "-f", "true"],
        cwd=pushing.cwd,
        env=pushing.env,
        capture_output=True,
        check=False,
        preexec_fn=small,
    )

    assert done.returncode == 0, done.stderr.decode()
    size = endpoint.git("cat-file", "-s", f"{sent(server)['snapshot']}:large")
    assert int(size) == 200 << 20


def test_more_than_2_gb_of_changes_is_refused_before_anything_is_pushed(pushing, server, endpoint):
    pushing.repository()
    for name in ("large", "larger"):
        with (pushing.cwd / name).open("wb") as file:
            file.truncate(1_500_000_000)
    pushing.git("add", "-N", "large", "larger")
    done = pushing("run", "-b", "-f", "true")

    assert done.returncode == 6
    assert "The uncommitted changes are 3.0 GB; at most 2 GB" in " ".join(done.stderr.decode().split())
    assert (server.asked, endpoint.commands) == ([], [])


def test_a_merge_conflict_is_refused_with_the_list_of_files(pushing, server, endpoint):
    pushing.repository()
    pushing.git("checkout", "-q", "-b", "other")
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("commit", "-q", "-a", "-m", "x")
    pushing.git("checkout", "-q", "main")
    (pushing.cwd / "train.py").write_text("print(3)\n")
    pushing.git("commit", "-q", "-a", "-m", "y")
    with pytest.raises(subprocess.CalledProcessError):
        pushing.git("merge", "other")
    done = pushing("run", "-b", "-f", "true")

    assert done.returncode == 6
    lines = done.stderr.decode().splitlines()
    assert "There are merge conflicts in repo" in lines[0]
    assert lines[-1] == "\ttrain.py"
    assert (server.asked, endpoint.commands) == ([], [])


def test_changes_that_come_to_nothing_are_no_changes(pushing, server):
    pushing.repository()
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("add", ".")
    (pushing.cwd / "train.py").write_text("print(1)\n")

    assert "snapshot" not in sent_after(pushing, server)


def sent_after(cli, server):
    assert cli("run", "-b", "-f", "true").returncode == 0
    return sent(server)


def test_a_file_that_cannot_be_read_is_an_error_with_the_words_of_git(pushing, server):
    pushing.repository()
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("config", "filter.bad.clean", "false")
    pushing.git("config", "filter.bad.required", "true")
    (pushing.cwd / ".git" / "info" / "attributes").write_text("*.py filter=bad\n")
    done = pushing("run", "-b", "-f", "true")

    assert done.returncode == 6
    assert "clean filter 'bad' failed" in done.stderr.decode()
    assert server.asked == []


def test_what_a_killed_one_left_behind_goes_after_a_day(pushing, server):
    pushing.repository()
    (pushing.cwd / "train.py").write_text("print(2)\n")
    old, new = (pushing.spell_dir / "snapshots" / name for name in ("1-a", "1-b"))
    for directory in (old, new):
        directory.mkdir(parents=True)
        (directory / "index").touch()
    os.utime(old, (1, 1))
    assert pushing("run", "-b", "-f", "true").returncode == 0

    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("words", [(), ("-f",)])
def test_without_uncommitted_changes_where_that_is_configured(pushing, server, words):
    commit = pushing.repository()
    with (pushing.spell_dir / "config").open("a") as config:
        config.write("include_uncommitted: false\n")
    (pushing.cwd / "book.ipynb").write_text("{}")
    pushing.git("add", "book.ipynb")
    assert "snapshot" in sent_after(pushing, server), "a notebook alone is not looked at"
    for number in range(23):
        (pushing.cwd / f"{number:02}").write_text("x")
    pushing.git("add", ".")
    done = pushing("run", "-b", *words, "true")

    said = done.stderr.decode()
    if words:
        assert done.returncode == 0
        assert sent(server)["commit"] == commit
        assert "snapshot" not in sent(server)
        assert "WARNING: Repo contains uncommitted changes that will not be" in said
        return
    assert done.returncode == 6
    assert "-- please commit first" in " ".join(said.split())
    assert said.splitlines()[-2:] == ["\t19", "\t… and 3 more"]
    assert len(server.runs) == 1
