"""How a commit gets to the server: a real git, a real ssh, a real SSH server, and all that can be in between."""

import os
import re
import shutil
import socket
import sys

import asyncssh
import pytest

pytestmark = pytest.mark.integration


def said(done):
    """What it complains of, on one line; that it takes a while is no complaint."""
    return (
        " ".join(done.stderr.decode().split())
        .removeprefix("Pushing your code… ")
        .removeprefix("Pushing your code…")
    )


def without_ssh(tmp_path):
    """A PATH with git on it and nothing else of ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "sh"):
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@pytest.fixture(params=["ssh", "ours"])
def path(request, tmp_path):
    """A PATH with an ssh, or with none."""
    if request.param == "ours":
        return without_ssh(tmp_path)
    if shutil.which("ssh") is None:
        pytest.skip("no ssh here")
    return os.environ["PATH"]


def test_a_commit_the_server_does_not_have_is_pushed(pushing, server, endpoint, path):
    commit = pushing.repository()
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("commit", "-q", "-a", "-m", "Second")
    head = pushing.git("rev-parse", "HEAD")
    hook = pushing.cwd / ".git" / "hooks" / "pre-push"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    done = pushing("run", "-b", "true", PATH=path)

    assert said(done) == ""
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


def test_a_server_with_another_host_key_is_not_pushed_to(pushing, endpoint, path):
    pushing.repository()
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    endpoint.known_hosts.write_text(f"[127.0.0.1]:{endpoint.port} {other}\n")
    done = pushing("run", "true", PATH=path)

    assert done.returncode == 1
    assert said(done) == (
        f"ERROR: Push to Spell remote failed: 127.0.0.1:{endpoint.port} does not show the host key that is known "
        f"for it from {endpoint.known_hosts}, so it may be somebody else who answers there. Nothing was sent."
    )
    assert endpoint.refs() == []
    assert endpoint.commands == []


def test_a_host_key_that_only_the_user_knows_is_not_enough(pushing, endpoint, path):
    pushing.repository()
    (pushing.home / ".ssh").mkdir()
    shutil.copy(endpoint.known_hosts, pushing.home / ".ssh" / "known_hosts")
    endpoint.known_hosts.write_text("")
    done = pushing("run", "true", PATH=path)

    assert done.returncode == 1
    assert "does not show the host key that is known" in said(done)
    assert endpoint.refs() == []


def test_a_proxy_in_ssh_config_is_used(pushing, endpoint, path, tmp_path):
    pushing.repository()
    proxy = tmp_path / "proxy.py"
    proxy.write_text(
        "import pathlib, select, socket, sys, os\n"
        f"pathlib.Path({str(tmp_path / 'used')!r}).touch()\n"
        f"far = socket.create_connection(('127.0.0.1', {endpoint.port}))\n"
        "while True:\n"
        "    for ready in select.select([0, far], [], [])[0]:\n"
        "        data = os.read(0, 65536) if ready == 0 else far.recv(65536)\n"
        "        if not data: sys.exit()\n"
        "        far.sendall(data) if ready == 0 else os.write(1, data)\n"
    )
    config = f"Host spell.invalid\n  ProxyCommand {sys.executable} {proxy} %h %p\n"
    (pushing.spell_dir / "ssh_config").write_text(config)
    pinned = endpoint.known_hosts.read_text().partition(" ")[2]
    endpoint.known_hosts.write_text(f"[spell.invalid]:4022 {pinned}")
    pushing.server.remote_url = "ssh://git@spell.invalid:4022/1/2.git"
    done = pushing("run", "-b", "true", PATH=path)

    assert said(done) == ""
    assert (tmp_path / "used").exists()
    assert len(endpoint.refs()) == 1
    assert (pushing.spell_dir / "ssh_config").read_text() == config


def test_a_server_that_is_away_is_one_sentence(pushing):
    pushing.repository()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    pushing.server.remote_url = f"ssh://git@127.0.0.1:{port}/1/2.git"
    done = pushing("run", "-b", "true")

    assert done.returncode == 69
    assert re.fullmatch(
        rf"ERROR: Push to Spell remote failed: 127.0.0.1:{port} does not answer "
        r"\((connection refused|connect call failed)\).",
        said(done),
    )
    assert pushing.server.runs == {}


def test_more_than_the_server_takes_is_one_sentence(pushing, endpoint):
    pushing.repository()
    endpoint.git("config", "receive.maxInputSize", "100k")
    (pushing.cwd / "train.py").write_bytes(os.urandom(300_000))
    done = pushing("run", "-b", "true")

    assert done.returncode == 1
    assert said(done).startswith(
        "ERROR: Push to Spell remote failed: there is more to push than the server takes at once"
    )


def test_a_server_that_comes_back_is_waited_for(pushing, endpoint, tmp_path):
    pushing.repository()
    attempts = tmp_path / "attempts"
    flaky = tmp_path / "ssh"
    flaky.write_text(
        f"#!/bin/sh\necho >> {attempts}\n"
        f'test $(wc -l < {attempts}) -gt 2 && exec ssh "$@"\n'
        "echo 'ssh: connect to host x port 1: Connection refused' >&2; exit 255\n"
    )
    flaky.chmod(0o755)
    done = pushing("run", "-b", "true", GIT_SSH=str(flaky))

    assert done.returncode == 0, done.stderr
    assert len(endpoint.refs()) == 1


def test_the_users_ssh_program_gets_our_options(pushing, endpoint, tmp_path):
    pushing.repository()
    own = tmp_path / "my ssh"
    own.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words; exec ssh "$@"\n')
    own.chmod(0o755)
    done = pushing("run", "-b", "true", GIT_SSH=str(own))

    assert said(done) == ""
    words = (tmp_path / "words").read_text()
    assert f"-F {pushing.spell_dir}/ssh_config -o IdentitiesOnly=yes -o IdentityFile=" in words
    assert "-o ServerAliveInterval=15 " in words


def test_a_server_that_falls_silent_is_given_up(pushing, endpoint, tmp_path):
    pushing.repository()
    proxy = tmp_path / "proxy.py"
    # It passes everything on until the server was asked to take a push, and nothing from there after that.
    proxy.write_text(
        "import select, socket, sys, os, pathlib\n"
        f"far, pushes = socket.create_connection(('127.0.0.1', {endpoint.port})), pathlib.Path({str(endpoint.pushes)!r})\n"
        "while True:\n"
        "    for ready in select.select([0, far], [], [])[0]:\n"
        "        data = os.read(0, 65536) if ready == 0 else far.recv(65536)\n"
        "        if not data: sys.exit()\n"
        "        if ready == 0: far.sendall(data)\n"
        "        elif not pushes.exists(): os.write(1, data)\n"
    )
    (pushing.spell_dir / "ssh_config").write_text(f"ProxyCommand {sys.executable} {proxy}\n")
    hasty = tmp_path / "ssh"
    # ssh takes the first value of an option: a second is enough for a test.
    hasty.write_text('#!/bin/sh\nexec ssh -o ServerAliveInterval=1 -o ConnectTimeout=2 "$@"\n')
    hasty.chmod(0o755)
    done = pushing("run", "-b", "true", GIT_SSH=str(hasty))

    assert done.returncode == 69, done.stderr
    assert re.search(r"does not answer \(.*(not responding|timed out).*\)", said(done))
    assert pushing.server.runs == {}


@pytest.mark.parametrize("setting", ["insteadOf", "pushInsteadOf"])
def test_no_setting_sends_the_code_to_another_place(pushing, endpoint, setting):
    pushing.repository()
    pushing.git("config", f"url.https://elsewhere.invalid/.{setting}", "ssh://")
    done = pushing("run", "-b", "true")

    assert said(done) == ""
    assert len(endpoint.refs()) == 1


def test_a_key_that_the_server_does_not_know_is_named(pushing, endpoint, path):
    pushing.repository()
    endpoint.key.unlink()
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(endpoint.key))
    endpoint.key.chmod(0o600)
    done = pushing("run", "-b", "true", PATH=path)

    assert done.returncode == 1
    assert f"does not know the key {endpoint.key}." in said(done)
    assert "spell keys generate" in said(done)


@pytest.mark.parametrize(
    ("version", "holds"),
    [
        ("git version 2.2.1", ". Git version 2.3 or newer is required -- detected Git version: (2.2.1)"),
        ("none", ". Please ensure Git version 2.3 or newer is installed."),
        ("git version 2.39.5", "Push to Spell remote failed my own words"),
    ],
)
def test_a_push_that_fails_says_when_git_is_too_old(pushing, tmp_path, version, holds):
    pushing.repository()
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").write_text(
        f'#!/bin/sh\ntest "$1" = --version && echo "{version}" && exit\nexec {shutil.which("git")} "$@"\n'
    )
    (folder / "git").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    done = pushing(
        "run",
        "true",
        PATH=path,
        GIT_SSH_COMMAND="sh -c 'echo my own words >&2; exit 1'",
        GIT_SSH_VARIANT="ssh",
    )

    assert done.returncode == 1
    assert holds in said(done)


@pytest.mark.parametrize("name", ["a b", "100%h", 'q"q'])
def test_identities_may_lie_anywhere(pushing, endpoint, path, name):
    pushing.repository()
    place = pushing.home / name
    place.mkdir()
    endpoint.key.rename(place / "key")
    endpoint.known_hosts.rename(place / "hosts")
    (pushing.spell_dir / "config").write_text(
        f"identity_file: '{place / 'key'}'\nknown_hosts: '{place / 'hosts'}'\n"
    )

    assert said(pushing("run", "-b", "true", PATH=path)) == ""


def test_annotated_tags_on_the_way_travel_and_others_do_not(pushing, endpoint):
    pushing.repository()
    pushing.git("tag", "-a", "-m", "One", "v1")
    pushing.git("tag", "light")
    pushing.git("commit", "-q", "--allow-empty", "-m", "Later")
    pushing.git("tag", "-a", "-m", "Two", "v2")
    pushing.git("checkout", "-q", "--detach", "v1")
    (pushing.cwd / "train.py").write_text("print(2)\n")
    done = pushing("run", "-b", "true")

    assert done.returncode == 0, done.stderr
    assert [ref.split()[0] for ref in endpoint.refs()][1:] == ["refs/tags/v1"]


def test_the_users_own_ssh_command_wins(pushing, endpoint):
    pushing.repository()
    done = pushing(
        "run", "true", GIT_SSH_COMMAND="sh -c 'echo my own ssh >&2; exit 1'", GIT_SSH_VARIANT="ssh"
    )

    assert done.returncode == 1
    assert "my own ssh" in done.stderr.decode()


def test_a_push_from_a_partial_clone_stores_nothing_there(pushing, endpoint):
    pushing.repository()
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("commit", "-q", "-a", "-m", "Second")
    pushing.git("config", "uploadpack.allowFilter", "true")
    pushing.git("config", "uploadpack.allowAnySHA1InWant", "true")
    origin = pushing.cwd
    pushing.cwd = pushing.home
    pushing.git("clone", "-q", "--filter=blob:none", f"file://{origin}", "partial")
    pushing.cwd = pushing.home / "partial"
    before = sorted(path for path in (pushing.cwd / ".git").rglob("*"))
    clean = pushing("run", "-b", "true")
    (pushing.cwd / "train.py").write_text("print(3)\n")
    changed = pushing("run", "-b", "true")

    assert said(clean) == said(changed) == ""
    assert sorted(path for path in (pushing.cwd / ".git").rglob("*")) == before
    assert len(endpoint.refs()) == 2
    endpoint.git("fsck", "--full", "--connectivity-only")
    assert list((pushing.spell_dir / "snapshots").iterdir()) == []


def test_a_push_that_takes_long_shows_how_far_it_is(pushing, endpoint, tmp_path):
    pushing.repository()
    (pushing.cwd / "large").write_bytes(os.urandom(8_000_000))
    pushing.git("add", ".")
    pushing.git("commit", "-q", "-m", "Large")
    slow = tmp_path / "ssh"
    slow.write_text('#!/bin/sh\n(dd bs=64k count=40 iflag=fullblock status=none; sleep 2; cat) | ssh "$@"\n')
    slow.chmod(0o755)
    terminal = pushing.terminal("run", "-b", "true", GIT_SSH=str(slow))
    terminal.until("Pushing your code… Writing objects: ")

    assert terminal.end() == 0
    assert len(endpoint.refs()) == 1
    assert not any("Writing objects" in line for line in terminal.lines)
