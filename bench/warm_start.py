"""Warm starts: accepted to first output byte in the follower's socket, and `spell run true` as a whole.

    python bench/warm_start.py [--runs 40] [--engine docker [--socket PATH] [--image IMAGE]]

Both stand beside a bare subprocess that does the same, measured in the same minute; on the docker engine, beside
the same container, and one without any limit, created and started through the API of Docker and nothing else.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stack import Stack, first_output, median, quantile, running, table, verdict

from spell_runner.engines import hardening
from spell_runner.engines.docker import account
from spell_runner.shim import network
from spell_runner.shim.daemon import Daemon, container


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


def bare_container(daemon: Daemon, body: dict[str, Any]) -> float:
    """A container through the API of Docker and nothing else, up to the first byte of its output."""
    started = time.perf_counter()
    name = daemon.ask("POST", "/containers/create", body)["Id"]
    output, _ = daemon.stream("POST", container(name, "/attach?stream=1&stdout=1"))
    with output:
        daemon.ask("POST", container(name, "/start"))
        output.setblocking(True)
        output.recv(1)
        seconds = time.perf_counter() - started
    daemon.ask("POST", container(name, "/wait"))
    daemon.ask("DELETE", container(name, "?v=1"))
    return seconds


def as_a_run(image: str, directory: Path, network: str) -> dict[str, Any]:
    """The container of a run: its workspace, its limits, no privilege."""
    uid, gid = account()
    layers = []
    for name in ("lower", "upper", "work", "tmp"):
        layers.append(directory / name)
        layers[-1].mkdir(parents=True)
        os.chown(layers[-1], uid, gid)
    lower, upper, work, temporary = map(str, layers)
    wanted = hardening.Wanted(
        image=image,
        argv=("/bin/sh", "-c", "echo first"),
        env={},
        user=f"{uid}:{gid}",
        cwd="/spell",
        labels={},
        network=network,
        workspace=hardening.Overlay(lower, upper, work),
        bound=(hardening.Bound(temporary, "/tmp", read_only=False),),
    )
    limits = hardening.Limits(1 << 30, 1.0, 1 << 29, 4096, hardening.files_max())
    return hardening.container(wanted, limits)


def docker_engine(runs: int, socket: str, image: str) -> None:
    """Runs and containers without us in turn, so that all see the same machine."""
    daemon = Daemon(socket)
    plain = {"Image": image, "Cmd": ["sh", "-c", "echo first"], "AttachStdout": True}
    settings = {"SPELL_ENGINE": "docker", "SPELL_DOCKER_SOCKET": socket, "SPELL_DOCKER_IMAGE": image}
    settings["SPELL_DEFAULT_FRAMEWORK"] = ""  # Python and nothing else, as in the plain containers
    ours, same, bare = [], [], []
    with running(**settings) as stack:
        first_output(stack)
        own = daemon.ask("GET", "/networks/bridge")["Options"]
        used = "bridge" if own.get(network.ICC) == "false" else network.NAME
        for number in range(2 + runs):
            ours.append(first_output(stack).since_accepted)
            same.append(bare_container(daemon, as_a_run(image, stack.directory / f"bare{number}", used)))
            bare.append(bare_container(daemon, plain))
    rows = []
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        run = quantile(ours[2:], share)
        for peer, taken, limit in (
            ("the same container", same, 1.3),
            ("a container without limits", bare, None),
        ):
            alone = quantile(taken[2:], share)
            held = "" if limit is None or name != "p50" else verdict(run <= limit * alone, f"<= {limit}x")
            shown = f"{peer}, API alone {alone * 1000:.0f} ms"
            rows.append(
                (
                    f"accepted -> first output, {name}",
                    f"{run * 1000:.0f} ms",
                    shown,
                    f"{run / alone:.2f}x",
                    held,
                )
            )
    table(f"Warm start, docker engine, {runs} runs", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--engine", choices=("local", "docker"), default="local")
    parser.add_argument("--socket", default="/var/run/docker.sock")
    parser.add_argument("--image", default="debian:bookworm-slim")
    chosen = parser.parse_args()
    if chosen.engine == "docker":
        docker_engine(chosen.runs, chosen.socket, chosen.image)
    else:
        local_engine(chosen.runs)


def local_engine(runs: int) -> None:
    """The whole of a run on this machine."""
    with running() as stack:
        project = repository(stack.directory)
        for _ in range(2):
            whole(stack, project)
        code = {"code": known_code(project)}
        firsts, coded = [], []
        for _ in range(5 + runs):
            firsts.append(first_output(stack).since_accepted)
            coded.append(first_output(stack, code).since_accepted)
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
