"""The whole standalone stack in a directory of its own, driven through the real command line and real signals."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spell_standalone.layout import Layout
from support.stack import short_directory

COMMAND_SECONDS_MAX = 120.0
RESTART_SECONDS_MAX = 30.0
SPELL = Path(sys.executable).with_name("spell")
_GIT = {
    "GIT_AUTHOR_NAME": "A Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "A Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    rc: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.rc}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class Stack:
    """A running stack. `spell("run", "true")` types a command; `kill9("scheduler")` is a crash."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        #: $SPELL_DIR: what a person has in ~/.spell.
        self.directory = directory / "d"
        #: Where commands are typed unless they say otherwise: an empty directory in no repository.
        self.work = directory / "work"
        self.work.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SPELL_")}
        self.environment = clean | _GIT | {"SPELL_DIR": str(self.directory)} | dict(settings)

    @property
    def data(self) -> Path:
        return self.directory / "local"

    @property
    def client(self) -> dict[str, Any]:
        """What the supervisor says about how to reach the stack."""
        return json.loads((self.data / "client.json").read_text())

    @property
    def subscriber_url(self) -> str:
        return (self.data / "subscriber.url").read_text().strip()

    # ---- commands ------------------------------------------------------------------------------------------

    def manage(self, *words: str, seconds: float = COMMAND_SECONDS_MAX) -> Result:
        """`python -m spell_standalone <words>` for this stack."""
        verb, *rest = words
        line = [sys.executable, "-m", "spell_standalone", verb, "--dir", str(self.directory), *rest]
        return self._call(line, self.work, {}, seconds, None)

    def up(self) -> None:
        """Start it, or fail with what it said."""
        result = self.manage("up")
        assert result.rc == 0, f"the stack did not start: {result}\n{self.logs()}"

    def spell(
        self,
        *words: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = COMMAND_SECONDS_MAX,
        stdin: str | None = None,
    ) -> Result:
        """Type a command and wait for its end."""
        return self._call([str(SPELL), *words], cwd or self.work, environment or {}, seconds, stdin)

    def _call(
        self, line: list[str], cwd: Path, more: Mapping[str, str], seconds: float, stdin: str | None
    ) -> Result:
        done = subprocess.run(
            line,
            cwd=cwd,
            env=self.environment | dict(more),
            input=stdin or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, cwd: Path | None = None) -> "subprocess.Popen[bytes]":
        """Type a command and go on while it runs. Its output is in pipes; end it yourself."""
        return subprocess.Popen(
            [str(SPELL), *words],
            cwd=cwd or self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def json(self, *words: str) -> Any:
        """The answer of a command that lists something, as JSON."""
        result = self.spell(*words, "--json")
        assert result.rc == 0, result
        return json.loads(result.stdout)

    def cast(self, *words: str, cwd: Path | None = None) -> int:
        """`spell run --background <words>`; the id of the run."""
        result = self.spell("run", "--force", "--background", *words, cwd=cwd)
        assert result.rc == 0, result
        return max(run["id"] for run in self.json("ps", "-n", "1"))

    def run(self, run_id: int) -> dict[str, Any]:
        """A run as `spell info` shows it."""
        return self.json("info", str(run_id))

    def until_final(self, run_id: int, seconds: float = COMMAND_SECONDS_MAX) -> dict[str, Any]:
        """Wait for the end of a run, whatever happens to the services meanwhile."""
        finals = {"complete", "failed", "stopped", "killed", "interrupted"}
        run: dict[str, Any] = {}

        def final() -> bool:
            nonlocal run
            result = self.spell("info", str(run_id), "--json")
            if result.rc == 0:
                run = json.loads(result.stdout)
            return str(run.get("state", "")).lower() in finals

        until(final, seconds, lambda: f"run {run_id} does not end: {run}\n{self.logs()}")
        return run

    def verify(self, run_id: int | None = None) -> None:
        """The invariants hold, of one run or of all."""
        result = self.spell("verify", *(() if run_id is None else (str(run_id),)))
        assert result.rc == 0, result

    def repository(self, files: Mapping[str, str], name: str = "repo") -> Path:
        """A git repository below `work` with one commit of these files."""
        root = self.work / name
        root.mkdir()
        self._git(root, "init", "--quiet", "--initial-branch=main")
        self.commit(root, files)
        return root

    def commit(self, root: Path, files: Mapping[str, str], message: str = "change") -> None:
        """Another commit on top."""
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        self._git(root, "add", "--all")
        self._git(root, "commit", "--quiet", "--message", message)

    def _git(self, root: Path, *words: str) -> None:
        subprocess.run(["git", *words], cwd=root, env=self.environment, check=True, capture_output=True)

    # ---- crashes -------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any] | None:
        """What the supervisor says; None when it is not there."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            try:
                connection.connect(str(Layout(self.directory).control))
                connection.sendall(b"status\n")
                raw = b"".join(iter(lambda: connection.recv(65536), b""))
            except OSError:
                return None
        return json.loads(raw) if raw else None

    def service(self, name: str) -> dict[str, Any]:
        """What the supervisor says about one service, once it says anything."""
        until(lambda: self.status() is not None, RESTART_SECONDS_MAX, lambda: "there is no supervisor")
        status = self.status()
        assert status is not None, "there is no supervisor"
        return next(one for one in status["services"] if one["name"] == name)

    def pid(self, name: str) -> int:
        """The process of a service, or of the `supervisor`."""
        if name == "supervisor":
            status = self.status()
            assert status is not None, "there is no supervisor"
            return int(status["pid"])
        until(lambda: self.service(name)["pid"] is not None, RESTART_SECONDS_MAX, lambda: f"no {name} runs")
        return int(self.service(name)["pid"])

    def kill9(self, name: str) -> int:
        """Crash a service; the supervisor starts it again by itself. The pid that was."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), 10, lambda: f"{name} survives SIGKILL")
        return pid

    def until_running(self, name: str, *, instead_of: int = 0) -> int:
        """Wait until a service answers, in another process than `instead_of`."""

        def running() -> bool:
            service = self.service(name)
            return service["state"] == "running" and service["pid"] not in {None, instead_of}

        until(
            running,
            RESTART_SECONDS_MAX,
            lambda: f"{name} does not come back: {self.service(name)}\n{self.logs()}",
        )
        return int(self.service(name)["pid"])

    def wipe_nats(self) -> None:
        """Crash NATS and delete all its data before it comes back."""
        supervisor = self.pid("supervisor")
        pid = self.pid("nats")
        # The supervisor would start it again in the same millisecond.
        os.kill(supervisor, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            until(lambda: not alive(pid), 10, lambda: "NATS survives SIGKILL")
            shutil.rmtree(self.data / "nats")
        finally:
            os.kill(supervisor, signal.SIGCONT)

    def logs(self, lines: int = 12) -> str:
        """The last lines of every log, for the message of a failed test."""
        parts = []
        for file in sorted((self.data / "logs").glob("*.log")):
            parts.append(f"=== {file.name}")
            parts += file.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(parts)

    def clean_up(self) -> None:
        """Stop it, end everything that belongs to it, remove its data. Fails when something would be left."""
        purged = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            purged = self.manage("down", "--purge", seconds=150.0)
        left = self._processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"processes of the stack were left behind: {left}"
        assert purged is not None, "the purge does not end"
        assert purged.rc == 0, f"the purge failed: {purged}"

    def _processes(self) -> dict[int, str]:
        found = {}
        for pid, words in command_lines().items():
            with contextlib.suppress(OSError):
                stands = str(Path(f"/proc/{pid}/cwd").readlink())
                if str(self.data) in words or stands.startswith(str(self.data)):
                    found[pid] = words[:200]
        return found


def command_lines() -> dict[int, str]:
    """The command line of every process on this machine (a bare one has no ps)."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if words:
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Wait until something is true, or fail with `otherwise`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.03)


@contextmanager
def standalone(**settings: object) -> Iterator[Stack]:
    """A fresh stack that is up. `standalone(slots=2, isolation="none")` sets SPELL_SLOTS and SPELL_ISOLATION."""
    with prepared(**settings) as stack:
        stack.up()
        yield stack
        if (status := stack.status()) is not None and status["state"] == "ready":
            stack.verify()


@contextmanager
def prepared(**settings: object) -> Iterator[Stack]:
    """The same, not started yet."""
    with short_directory() as directory:
        given = {f"SPELL_{name.upper()}": str(value) for name, value in settings.items()}
        stack = Stack(directory, given)
        try:
            yield stack
        finally:
            stack.clean_up()
