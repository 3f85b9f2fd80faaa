"""How a commit gets to the server: a real git, a real ssh, a real SSH server, and all that can be in between."""

import os
import shutil

import asyncssh
import pytest

pytestmark = pytest.mark.integration


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
    assert endpoint.refs() == [f"refs/heads/br_{head} {head}"]
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
    assert " ".join(done.stderr.decode().split()) == (
        f"ERROR: Push to Spell remote failed: 127.0.0.1:{endpoint.port} does not show the host key that is known "
        f"for it from {endpoint.known_hosts}, so it may be somebody else who answers there. Nothing was sent."
    )
    assert endpoint.refs() == []
    assert endpoint.commands == []


def test_the_users_own_ssh_command_wins(pushing, endpoint):
    pushing.repository()
    done = pushing(
        "run", "true", GIT_SSH_COMMAND="sh -c 'echo my own ssh >&2; exit 1'", GIT_SSH_VARIANT="ssh"
    )

    assert done.returncode == 1
    assert "my own ssh" in done.stderr.decode()
