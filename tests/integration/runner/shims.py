"""A fork server of its own in a short directory, and attempts started under it as the runner starts them."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

import spell_proto.journal
from spell_proto.journal import Decoder, Record, RecordKind
from spell_runner import isolation as kinds
from spell_runner import workspace
from spell_runner.errors import IsolationError
from spell_runner.shim import launch, processes
from spell_runner.shim.launch import Claim, Launch

DEADLINE_SECONDS = 20.0
BWRAP = shutil.which("bwrap") or ""
#: All ways to keep a command apart; each is tried wherever a test is about every run.
ISOLATIONS = [
    "none",
    "unshare",
    "docker",
    pytest.param("bubblewrap", marks=pytest.mark.skipif(not BWRAP, reason="bubblewrap is not installed")),
]
_BOOT = (
    "import sys; sys.path[:0] = sys.argv[1:3]; from spell_runner.shim.server import main; main(sys.argv[3:])"
)


@cache
def _forbidden() -> str | None:
    """Why a sandbox does not work here; None when it does."""
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    parts = [directory / name for name in ("data", "root", "lower")]
    for part in parts:
        part.mkdir()
    data, root, lower = parts
    try:
        asyncio.run(kinds.probe("unshare", data, (str(data),), root, lower))
    except IsolationError as error:
        return str(error)
    finally:
        workspace.remove(directory)
    return None


def need(name: str) -> None:
    """Skip the test where the kernel forbids this kind of isolation, as it does in a plain chroot."""
    if name != "none":
        with ThreadPoolExecutor(1) as pool:
            reason = pool.submit(_forbidden).result()
        if reason is not None:
            pytest.skip(f"no namespaces here: {reason}")


def _paths() -> list[str]:
    here = Path(launch.__file__).parent.parent.parent
    return [str(Path(spell_proto.journal.__file__).parent.parent), str(here)]


@dataclass
class Started:
    """One attempt under a shim."""

    yard: "Yard"
    path: Path

    @property
    def claim(self) -> Claim | None:
        return launch.read(self.path)

    def tell(self, order: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
            control.sendto(order.encode(), str(self.path / launch.CONTROL))

    def tell_if_possible(self, order: str) -> None:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            self.tell(order)

    def until_started(self) -> Claim:
        return self._until(lambda claim: claim.started_us is not None or claim.ending is not None)

    def until_over(self) -> Claim:
        return self._until(lambda claim: claim.ending is not None)

    def until_output(self, wanted: bytes) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while wanted not in self.output():
            assert time.monotonic() < deadline, (self.output()[-2000:], self.claim)
            time.sleep(0.002)

    def _until(self, condition) -> Claim:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            claim = self.claim
            if claim is not None and condition(claim):
                return claim
            assert time.monotonic() < deadline, (claim, self.yard.log)
            time.sleep(0.002)

    def records(self) -> list[Record]:
        with contextlib.suppress(FileNotFoundError):
            return Decoder().feed((self.path / launch.JOURNAL).read_bytes())
        return []

    def output(self, *kinds: RecordKind) -> bytes:
        wanted = kinds or (RecordKind.STDOUT, RecordKind.STDERR)
        return b"".join(record.payload for record in self.records() if record.kind in wanted)

    def descendants(self) -> dict[int, int]:
        claim = self.claim
        return processes.descendants(claim.pid) if claim else {}


class Yard:
    """The data directory of a runner that is not there: only its fork server is."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.count = 0
        self.connection: socket.socket | None = None
        for name in ("attempts", "root", "lower", "env/bin", "secret"):
            (data / name).mkdir(parents=True)
        self.bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.bell.bind(str(data / "runner.dgram"))
        self.server = self.serve()

    @property
    def log(self) -> str:
        return (self.data / "shimd.log").read_text()

    def serve(self, linger: str = "5") -> subprocess.Popen[bytes]:
        with (self.data / "shimd.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, *_paths(), str(self.data), "code", linger],
                stderr=output,
                start_new_session=True,
            )

    def dial(self) -> socket.socket:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.data / "shimd.sock"))
            except OSError:
                connection.close()
                assert time.monotonic() < deadline, self.log
                time.sleep(0.005)
            else:
                assert connection.recv(100) == b"code\n"
                return connection

    def launch(self, command: str, isolation: str = "none", *, overlay: bool = False, **given) -> Started:
        """Lay an attempt out without starting it."""
        need(isolation)
        self.count += 1
        path = self.data / "attempts" / f"{self.count}-1"
        for part in (launch.UPPER, launch.WORK, launch.TEMPORARY, launch.WORKSPACE):
            (path / part).mkdir(parents=True)
        told = Launch(
            argv=("/bin/bash", "-c", command),
            env={"PATH": f"{self.data}/env/bin:/usr/bin:/bin", "MARK": str(path)},
            isolation=isolation,
            overlay=overlay,
            lower=str(self.data / "lower"),
            cwd=str(path / launch.WORKSPACE) if isolation == "none" else "/spell",
            root=str(self.data / "root"),
            hidden=(str(self.data),) if isolation != "none" else (),
            read_only=(str(self.data / "env"),) if isolation != "none" else (),
            log_bytes_max=1 << 30,
            bubblewrap=BWRAP,
        )
        (path / launch.LAUNCH).write_bytes(replace(told, **given).encode())
        return Started(self, path)

    def start(self, command: str, isolation: str = "none", *, overlay: bool = False, **given) -> Started:
        started = self.launch(command, isolation, overlay=overlay, **given)
        self.ask(started)
        return started

    def ask(self, started: Started) -> None:
        if self.connection is None:
            self.connection = self.dial()
        self.connection.sendall(f"start {started.path.name}\n".encode())

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.bell.close()
        for path in (self.data / "attempts").iterdir():
            claim = launch.read(path)
            if claim is not None and claim.pid and processes.alive(claim.pid, claim.ticks):
                for pid in (claim.pid, *processes.descendants(claim.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        self.server.kill()
        self.server.wait(10)


@contextmanager
def yard(base: str = "/var/tmp") -> Iterator[Yard]:
    """Not below /tmp, which a sandbox replaces: what is hidden must be hidden by us."""
    directory = Path(tempfile.mkdtemp(dir=base, prefix="sp"))
    made = Yard(directory)
    try:
        yield made
    finally:
        made.close()
        workspace.remove(directory)
