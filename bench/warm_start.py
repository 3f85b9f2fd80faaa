"""Warm starts: accepted to first output byte in the follower's socket, and `spell run true` as a whole.

    python bench/warm_start.py [--runs 40]

Both stand beside a bare subprocess that does the same, measured in the same minute.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from stack import Stack, median, quantile, running, table, verdict

from spell_proto.journal import Decoder, RecordKind


def first_output(stack: Stack, code: dict[str, str] | None = None) -> float:
    """Seconds from the 201 being read to the first byte of output on a follower's socket that is opened then."""
    create, follow = stack.connection(), stack.connection()
    follow.connect()
    asked = {"command": "echo first"} | ({} if code is None else {"code": code})
    answer = stack.request(create, "POST", "/api/runs", asked)
    run = json.loads(answer.read())
    assert answer.status == 201, run
    accepted = time.perf_counter()
    stream = stack.request(follow, "GET", f"/api/runs/{run['id']}/follow?follow=1")
    decoder, seconds = Decoder(), 0.0
    while data := stream.read1(65536):
        for record in decoder.feed(data):
            if record.kind is RecordKind.STDOUT and not seconds:
                seconds = time.perf_counter() - accepted
            if record.kind is RecordKind.DONE:
                create.close()
                follow.close()
                return seconds
    raise RuntimeError("the stream ended early")


def bare_echo() -> float:
    """The same command as a child of this process."""
    started = time.perf_counter()
    with subprocess.Popen(["bash", "-c", "echo first"], stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        seconds = time.perf_counter() - started
        process.stdout.read()
    return seconds


def whole(stack: Stack, cwd: Path) -> float:
    """`spell run true`, as a user types it, in a repository whose commit the server knows."""
    started = time.perf_counter()
    done = stack.spell("run", "-f", "true", cwd=cwd)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stdout + done.stderr
    return seconds


def bare_python() -> float:
    """Starting Python for nothing, which no Python program can beat."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import os; os.system('true')"], check=True)
    return time.perf_counter() - started


def known_code(project: Path) -> dict[str, str]:
    """The code of a run that has been in `project`, as the API takes it."""
    head = ["git", "-C", str(project), "rev-parse", "HEAD"]
    commit = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    return {"commit": commit, "root_directory": project.name, "cwd": "."}


def repository(directory: Path) -> Path:
    """A small repository with one commit."""
    path = directory / "project"
    path.mkdir()
    (path / "file").write_text("running on Spell!\n")
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first commit"]):
        subprocess.run([*git, *arguments], check=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    runs = parser.parse_args().runs
    with running() as stack:
        project = repository(stack.directory)
        for _ in range(2):
            whole(stack, project)
        code = known_code(project)
        firsts, coded = [], []
        for _ in range(5 + runs):
            firsts.append(first_output(stack))
            coded.append(first_output(stack, code))
        firsts, coded = firsts[5:], coded[5:]
        bares = [bare_echo() for _ in range(runs)]
        wholes = [whole(stack, project) for _ in range(max(5, runs // 2))]
        pythons = [bare_python() for _ in range(runs)]
    p50, p95 = median(firsts), quantile(firsts, 0.95)
    rows = [
        (
            "accepted -> first output, p50",
            f"{p50 * 1000:.1f} ms",
            f"bare subprocess {median(bares) * 1000:.1f} ms",
            f"{p50 / median(bares):.1f}x",
            verdict(p50 <= 0.060, "<= 60 ms"),
        ),
        (
            "accepted -> first output, p95",
            f"{p95 * 1000:.1f} ms",
            f"bare subprocess {quantile(bares, 0.95) * 1000:.1f} ms",
            f"{p95 / quantile(bares, 0.95):.1f}x",
            verdict(p95 <= 0.150, "<= 150 ms"),
        ),
        (
            "... in a known commit, p50",
            f"{median(coded) * 1000:.1f} ms",
            f"without code {p50 * 1000:.1f} ms",
            f"{median(coded) / p50:.1f}x",
            verdict(median(coded) <= 0.060, "<= 60 ms"),
        ),
        (
            "spell run true, p50",
            f"{median(wholes) * 1000:.0f} ms",
            f"python + true {median(pythons) * 1000:.0f} ms",
            f"{median(wholes) / median(pythons):.1f}x",
            verdict(median(wholes) <= 0.400, "<= 400 ms"),
        ),
    ]
    table(f"Warm start, local engine, {runs} runs", rows)


if __name__ == "__main__":
    main()
