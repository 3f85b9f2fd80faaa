"""What `spell run` makes of the repository the user stands in, up to a real push over SSH."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import asyncssh
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


def test_the_users_repository_is_not_touched(cli):
    cli.repository()
    (cli.cwd / "train.py").write_text("print(2)\n")
    before = {path: path.stat().st_mtime_ns for path in cli.cwd.rglob("*")}
    cli("run", "-b", "true")

    assert {path: path.stat().st_mtime_ns for path in cli.cwd.rglob("*")} == before


def test_uncommitted_changes_are_warned_of(cli, server):
    cli.repository()
    (cli.cwd / "train.py").write_text("print(2)\n")
    done = cli("run", "-b", "true")

    assert done.returncode == 0
    assert warnings(done) == (
        "WARNING: Repo contains uncommitted changes that will not be included in the run."
    )


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


class Endpoint:
    """A real SSH server that lets git-receive-pack write one repository."""

    def __init__(self, home: Path) -> None:
        self.bare = home / "server.git"
        subprocess.run(["git", "init", "-q", "--bare", self.bare], check=True)
        self.key = home / "identity"
        self.known_hosts = home / "hosts of ours"
        self.commands: list[str] = []
        self.port = 0
        self._ready = threading.Event()
        self._home = home

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._over = asyncio.Event()
            runner.run(self._listen())

    async def _listen(self) -> None:
        user, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        user.write_private_key(str(self.key))
        self.key.chmod(0o600)
        allowed = self._home / "authorized"
        user.write_public_key(str(allowed))
        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host],
            authorized_client_keys=str(allowed),
            process_factory=self._receive,
            encoding=None,
        )
        self.port = acceptor.get_port()
        line = host.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {line}\n")
        self._ready.set()
        await self._over.wait()
        acceptor.close()

    async def _receive(self, process) -> None:
        self.commands.append(process.command)
        child = await asyncio.create_subprocess_exec(
            "git", "receive-pack", str(self.bare), stdin=-1, stdout=-1, stderr=-1
        )
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        process.exit(await child.wait())

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self._serve)
        thread.start()
        assert self._ready.wait(20)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join()

    def branches(self):
        words = ["git", "for-each-ref", "--format=%(refname) %(objectname)"]
        return subprocess.run(words, cwd=self.bare, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )[:-1]


@pytest.fixture
def endpoint(tmp_path):
    with Endpoint(tmp_path).running() as running:
        yield running


@pytest.fixture
def pushing(cli, server, endpoint):
    """A server that does not know the commit yet, and where to push it."""
    cli.spell_dir.mkdir()
    (cli.spell_dir / "config").write_text(
        f"identity_file: {endpoint.key}\nknown_hosts: {endpoint.known_hosts}\n"
    )
    server.remote_url = f"ssh://git@127.0.0.1:{endpoint.port}/1/2.git"
    server.refuse("POST", "/api/runs", 409, "commit_unknown", "the code is not known to the server")
    return cli


def without_ssh(tmp_path):
    """A PATH with git on it and nothing else of ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "sh"):
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@pytest.mark.parametrize("client", ["ssh", "ours"])
def test_a_commit_the_server_does_not_have_is_pushed(pushing, server, endpoint, tmp_path, client):
    if client == "ssh" and shutil.which("ssh") is None:
        pytest.skip("no ssh here")
    commit = pushing.repository()
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("commit", "-q", "-a", "-m", "Second")
    head = pushing.git("rev-parse", "HEAD")
    hook = pushing.cwd / ".git" / "hooks" / "pre-push"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    path = without_ssh(tmp_path) if client == "ours" else os.environ["PATH"]
    done = pushing("run", "-b", "true", PATH=path)

    assert done.stderr.decode() == ""
    assert done.returncode == 0
    assert endpoint.branches() == [f"refs/heads/br_{head} {head}"]
    assert endpoint.commands == ["git-receive-pack '/1/2.git'"]
    registered = next(
        body for method, path, _, body in server.asked if (method, path) == ("PUT", "/api/repositories")
    )
    assert registered == {"root_commit": commit, "name": "proj"}
    keys = {headers["Idempotency-Key"] for headers, _ in server.posts("/api/runs")}
    assert len(keys) == 1
    assert (pushing.spell_dir / "ssh_config").read_text() == "# empty spell ssh config\n"


@pytest.mark.parametrize("client", ["ssh", "ours"])
def test_a_server_with_another_host_key_is_not_pushed_to(pushing, endpoint, tmp_path, client):
    if client == "ssh" and shutil.which("ssh") is None:
        pytest.skip("no ssh here")
    pushing.repository()
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    endpoint.known_hosts.write_text(f"[127.0.0.1]:{endpoint.port} {other}\n")
    path = without_ssh(tmp_path) if client == "ours" else os.environ["PATH"]
    done = pushing("run", "true", PATH=path)

    assert done.returncode == 1
    assert "ERROR: Push to Spell remote failed\n" in done.stderr.decode()
    assert "ost key" in done.stderr.decode()
    assert endpoint.branches() == []


def test_the_users_own_ssh_command_wins(pushing, endpoint):
    pushing.repository()
    done = pushing(
        "run", "true", GIT_SSH_COMMAND="sh -c 'echo my own ssh >&2; exit 1'", GIT_SSH_VARIANT="ssh"
    )

    assert done.returncode == 1
    assert "my own ssh" in done.stderr.decode()
