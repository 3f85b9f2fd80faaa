"""A standalone stack of its own for a benchmark, the first output of a run on it, and how figures are printed."""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from spell_proto.journal import Decoder, RecordKind

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stack:
    """A running stack: its user directory and the address of its API."""

    directory: Path
    url: str
    token: str

    def environment(self) -> dict[str, str]:
        return os.environ | {"SPELL_DIR": str(self.directory)}

    def spell(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The real command, as a user types it."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("spell")), *arguments],
            env=self.environment(),
            cwd=cwd or self.directory,
            capture_output=True,
            text=True,
            check=False,
        )

    def connection(self) -> HTTPConnection:
        address = urlsplit(self.url)
        return HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=60)

    def request(
        self, connection: HTTPConnection, method: str, path: str, body: dict | None = None
    ) -> HTTPResponse:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Stack]:
    """A stack on an empty directory, gone afterwards. Settings are SPELL_* variables of its services."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="spb"))
    environment = os.environ | {"SPELL_DIR": str(directory)} | settings
    verb = [sys.executable, "-m", "spell_standalone"]
    try:
        subprocess.run(
            [*verb, "up", "--dir", str(directory)], env=environment, check=True, stderr=subprocess.DEVNULL
        )
        client = json.loads((directory / "local" / "client.json").read_text())
        yield Stack(directory, client["url"], client["token"])
    finally:
        subprocess.run(
            [*verb, "down", "--purge", "--dir", str(directory)],
            env=environment,
            check=False,
            capture_output=True,
        )
        shutil.rmtree(directory, ignore_errors=True)


class FirstOutput(NamedTuple):
    """Seconds to the first byte of output: since the request was sent, and since its 201 was read."""

    since_asked: float
    since_accepted: float


def first_output(stack: Stack, asked: dict[str, Any] | None = None) -> FirstOutput:
    """How soon a run writes, as seen by a follower who asks as soon as it is accepted. It is over afterwards.

    `asked` is what its request holds besides the command.
    """
    create, follow = stack.connection(), stack.connection()
    follow.connect()
    begun = time.perf_counter()
    answer = stack.request(create, "POST", "/api/runs", {"command": "echo first"} | (asked or {}))
    run = json.loads(answer.read())
    assert answer.status == 201, run
    accepted = time.perf_counter()
    stream = stack.request(follow, "GET", f"/api/runs/{run['id']}/follow?follow=1")
    decoder, first = Decoder(), 0.0
    while data := stream.read1(65536):
        for record in decoder.feed(data):
            if record.kind is RecordKind.STDOUT and not first:
                first = time.perf_counter()
            if record.kind is RecordKind.DONE:
                create.close()
                follow.close()
                assert first, "the run has written nothing: was its environment built?"
                return FirstOutput(first - begun, first - accepted)
    raise RuntimeError("the stream ended early")


def processes(directory: Path) -> dict[int, str]:
    """Processes of a stack: those that carry its directory in their environment or command line, and their children
    (backends of Postgres write a title over theirs).
    """
    needle = str(directory).encode()
    parents, names, found = {}, {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            carries = needle in command or needle in (entry / "environ").read_bytes()
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        words = [word.decode(errors="replace") for word in command.split(b"\0") if word]
        if not words:
            continue
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        module = words[words.index("-m") + 1] if "-m" in words[:-1] else Path(words[0].split(":")[0]).name
        names[pid] = module
        if carries:
            found[pid] = module
    while more := {pid: names[pid] for pid in names if parents[pid] in found and pid not in found}:
        found |= more
    return found


def cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: list[float]) -> float:
    return statistics.median(values)


def table(title: str, rows: list[tuple[str, str, str, str, str]]) -> None:
    """Print rows of (what, ours, compared with, ratio, budget)."""
    head = ("what", "ours", "limit or peer", "ratio", "budget")
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(5)]
    print(f"\n{title}")
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def verdict(ok: bool, text: str) -> str:
    """A budget with whether it was met."""
    return f"{text} {'met' if ok else 'MISSED'}"
