"""What `spell run` makes of the repository the user stands in, up to a real push over SSH."""

import pytest

pytestmark = pytest.mark.integration


def body(server):
    return server.posts("/api/runs")[-1][1]


def warnings(done):
    """Warnings without their line breaks."""
    return " ".join(done.stderr.decode().split())


def test_the_committed_head_goes_with_the_run(cli, server):
    commit = cli.repository()
    done = cli("run", "-b", "true")

    assert done.stderr == b""
    assert body(server) == {
        "command": "true",
        "description": "Add training\n\nWith a body.",
        "code": {"commit": commit, "root_directory": "proj", "cwd": "."},
    }


def test_the_run_starts_in_the_same_subdirectory(cli, server):
    cli.repository()
    cli.cwd = cli.cwd / "a b" / "ü"
    cli.cwd.mkdir(parents=True)
    cli("run", "-b", "true")

    assert body(server)["code"]["cwd"] == "a b/ü"


def test_uncommitted_changes_are_refused_where_that_is_configured(cli, server):
    cli.repository()
    (cli.cwd / "train.py").write_text("print(2)\n")
    cli.spell_dir.mkdir()
    (cli.spell_dir / "config").write_text("include_uncommitted: false\n")
    done = cli("run", "true")

    assert done.returncode == 6
    assert (
        f"Uncommitted changes to tracked files detected in repo {cli.cwd} -- please commit first"
        in warnings(done)
    )
    assert "\ttrain.py\n" in done.stderr.decode()
    assert server.asked == []
    assert cli("run", "-b", "-f", "true").returncode == 0


def test_untracked_files_are_listed_and_the_run_goes_on(cli, server):
    cli.repository()
    (cli.cwd / ".gitignore").write_text("ignored\n")
    for name in (*(f"new{number:02}" for number in range(24)), "ignored", "bad\n\x1bname", ".DS_Store"):
        (cli.cwd / name).touch()
    done = cli("run", "-b", "true")

    assert done.returncode == 0
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("WARNING: Repo contains untracked files that will not be included in the run.")
    assert len([line for line in lines if line.startswith("\t")]) == 21
    assert lines[-1] == "\t… and 6 more"
    assert "\tbad\\n\\x1bname" in lines
    assert "\tignored" not in lines


def test_on_a_terminal_untracked_files_are_asked_about_and_enter_means_yes(cli, server):
    cli.repository()
    (cli.cwd / "notes.txt").touch()
    terminal = cli.terminal("run", "-b", "true")
    terminal.until("Continue the run anyway? [Y/n]: ")
    terminal.type("\n")

    assert terminal.end() == 0
    assert terminal.lines[:2] == [
        f"There are some untracked files in repo {cli.cwd}. They won't be available on this run.",
        "\tnotes.txt",
    ]
    assert len(server.runs) == 1


def test_no_means_no_run(cli, server):
    cli.repository()
    (cli.cwd / "notes.txt").touch()
    terminal = cli.terminal("run", "-b", "true")
    terminal.until("[Y/n]: ")
    terminal.type("n\n")

    assert terminal.end() == 1
    assert terminal.lines[-2] == "Aborted!"
    assert server.runs == {}


def test_force_asks_nothing(cli, server):
    cli.repository()
    (cli.cwd / "notes.txt").touch()
    terminal = cli.terminal("run", "-b", "-f", "true")

    assert terminal.end() == 0
    assert "Continue" not in "\n".join(terminal.lines)


def test_without_a_repository_a_terminal_is_asked(cli, server):
    terminal = cli.terminal("run", "-b", "true")
    terminal.until(
        "Could not find a git repository, so no user files will be available. Continue anyway? [Y/n]: "
    )
    terminal.type("\n")

    assert terminal.end() == 0
    assert "code" not in body(server)


def test_without_a_repository_others_are_warned(cli, server):
    done = cli("run", "-b", "true")

    assert done.stderr == b"WARNING: No git repository found! Running without a workspace.\n"
    assert done.returncode == 0


def test_a_repository_without_a_commit_cannot_be_run(cli, server):
    cli.git("init", "-q")
    done = cli("run", "true")

    assert done.returncode == 6
    assert f"ERROR: The repository {cli.cwd} has no commits! Please commit all files" in warnings(done)
    assert server.asked == []


def test_a_bare_repository_cannot_be_run(cli):
    cli.git("init", "-q", "--bare")

    assert cli("run", "true").returncode == 6


def test_a_repository_git_does_not_trust_is_no_missing_repository(cli):
    cli.repository()
    (cli.cwd / ".git" / "config").write_text("[core\n")
    done = cli("run", "true")

    assert done.returncode == 6
    assert "bad config" in done.stderr.decode()


def test_submodules_are_warned_of(cli):
    cli.repository()
    (cli.cwd / ".gitmodules").write_text("")
    cli.git("add", ".")
    cli.git("commit", "-q", "-m", "x")

    assert "does not currently support Git submodules" in warnings(cli("run", "-b", "true"))


def test_without_git_one_is_told_where_to_get_it(cli, tmp_path):
    done = cli("run", "true", PATH=str(tmp_path))

    assert done.returncode == 1
    assert "Unable to find git" in done.stderr.decode()
