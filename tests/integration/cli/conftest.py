"""The real `spell`, in a directory of its own, against a small server; and a terminal to run it in."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.cli.cli_server import TOKEN, Server, serving
from integration.cli.endpoint import Endpoint

SPELL = str(Path(sys.executable).parent / "spell")
DEADLINE_SECONDS = 20.0


@pytest.fixture
def server():
    with serving(Server()) as running:
        yield running


class Cli:
    """`spell` as a user of his own machine would call it."""

    def __init__(self, home: Path, url: str | None) -> None:
        self.home = home
        self.cwd = home / "work"
        self.cwd.mkdir()
        self.spell_dir = home / "spell"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "TZ": "UTC",
            "SPELL_DIR": str(self.spell_dir),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }
        if url is not None:
            self.env |= {"SPELL_API_URL": url, "SPELL_TOKEN": TOKEN}

    def __call__(self, *words, **env):
        return subprocess.run(
            [SPELL, *words],
            cwd=self.cwd,
            env=self.env | env,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def start(self, *words, **env):
        return subprocess.Popen(
            [SPELL, *words],
            cwd=self.cwd,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def terminal(self, *words, **env):
        return Terminal([SPELL, *words], self.cwd, self.env | env)

    def git(self, *words):
        done = subprocess.run(
            ["git", "-c", "init.defaultBranch=main", *words],
            cwd=self.cwd,
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def repository(self, *, name="proj"):
        """A repository with one commit; the directory the user stands in from now on."""
        self.cwd = self.cwd / name
        self.cwd.mkdir()
        (self.cwd / "train.py").write_text("print(1)\n")
        self.git("init", "-q")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "Add training\n\nWith a body.")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def cli(tmp_path, server):
    return Cli(tmp_path, server.url)


@pytest.fixture
def local(tmp_path):
    """`spell` without any server configured."""
    return Cli(tmp_path, None)


class Terminal:
    """A process on a terminal of its own. ^C reaches it as it would a user's shell job."""

    def __init__(self, words, cwd, env) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            words, cwd=cwd, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.raw = b""

    def until(self, text):
        """Read until `text` has appeared."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text.encode() not in self.raw:
            assert self._read(deadline), f"{text!r} never came: {self.raw.decode(errors='replace')}"

    def type(self, text):
        os.write(self.master, text.encode())

    def interrupt(self):
        """^C, once it waits for something: a signal right behind a prompt is only seen at the next key."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        status = Path(f"/proc/{self.process.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] == "R":
            assert time.monotonic() < deadline
        os.kill(self.process.pid, signal.SIGINT)

    def end(self):
        """Read to the end; the exit code."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self._read(deadline):
            pass
        os.close(self.master)
        return self.process.wait(DEADLINE_SECONDS)

    def _read(self, deadline):
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing more came: {self.raw.decode(errors='replace')}"
        with contextlib.suppress(OSError):
            data = os.read(self.master, 65536)
            self.raw += data
            return bool(data)
        return False

    @property
    def lines(self):
        """What stays on the screen: each line as it was drawn last."""
        text = self.raw.decode(errors="replace").replace("\r\n", "\n")
        drawn = [line.rpartition("\r\x1b[2K")[2] for line in text.split("\n")]
        return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn]


@pytest.fixture
def endpoint(tmp_path):
    with Endpoint(tmp_path).running() as running:
        yield running


@pytest.fixture
def pushing(cli, server, endpoint):
    """A server that knows the commits that were pushed to `endpoint`, and how to get there."""
    cli.spell_dir.mkdir()
    (cli.spell_dir / "config").write_text(
        f"identity_file: {endpoint.key}\nknown_hosts: {endpoint.known_hosts}\n"
    )
    server.remote_url = f"ssh://git@127.0.0.1:{endpoint.port}/1/2.git"
    server.has_commit = endpoint.has
    cli.server = server
    return cli
