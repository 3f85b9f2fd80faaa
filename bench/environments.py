"""Environments: what a known one adds to a run, and a new one beside bare uv, `python -m venv` with pip, and Docker.

    python bench/environments.py [--runs 40] [--rounds 3] [--packages numpy,six]

All take packages from the index that uv and pip are set up for, with an empty cache, and end with compiled byte code.
Ours is a whole run, from its request to its first output, less a run without packages. The image is built only where a
daemon answers; its base must be there.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stack import Stack, first_output, median, quantile, running, table, verdict
from uv import find_uv_bin

from spell_builder.uv import base_interpreter

HIT_SECONDS_MAX = 0.030
COLD_RATIO_MAX = 1.2


def forget(stack: Stack) -> None:
    """Remove every environment that nobody uses."""
    done = stack.spell("env", "gc", "--all")
    assert done.returncode == 0, done.stdout + done.stderr


def timed(*commands: list[str]) -> float:
    begun = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def bare_uv(packages: list[str], directory: Path) -> float:
    """What somebody types who has uv, made to leave what we leave: files of its own, compiled."""
    cache = ["--cache-dir", str(directory / "cache")]
    uv, place = find_uv_bin(), str(directory / "uv")
    python = f"{place}/bin/python"
    seconds = timed(
        [uv, "venv", "-q", *cache, "--no-project", "--python", base_interpreter().path, place],
        [
            uv,
            "pip",
            "install",
            "-q",
            *cache,
            "--python",
            python,
            "--link-mode",
            "copy",
            "--compile-bytecode",
            *packages,
        ],
    )
    shutil.rmtree(directory)
    return seconds


def venv_and_pip(packages: list[str], directory: Path) -> float:
    place = str(directory / "venv")
    seconds = timed(
        [base_interpreter().path, "-m", "venv", place],
        [f"{place}/bin/python", "-m", "pip", "install", "-q", "--no-cache-dir", *packages],
    )
    shutil.rmtree(directory)
    return seconds


def docker_build(packages: list[str], image: str) -> float | None:
    """An image with the packages, nothing reused. None where there is no daemon, or no such base."""
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "image", "inspect", image], check=False, capture_output=True).returncode
    ):
        return None
    recipe = f"FROM {image}\nRUN pip install -q --no-cache-dir {' '.join(packages)}\n"
    begun = time.perf_counter()
    built = subprocess.run(
        [docker, "build", "-q", "--no-cache", "-"], input=recipe.encode(), capture_output=True, check=False
    )
    return None if built.returncode else time.perf_counter() - begun


def cache_hit(stack: Stack, packages: list[str], runs: int) -> list[tuple[str, str, str, str, str]]:
    """Runs with packages that are there and runs without any, in turn."""
    known = {"environment": {"pip": packages}}
    with_them, without = [], []
    for _ in range(5 + runs):
        with_them.append(first_output(stack, known).since_asked)
        without.append(first_output(stack).since_asked)
    with_them, without = with_them[5:], without[5:]
    rows = []
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        ours, alone = quantile(with_them, share), quantile(without, share)
        held = verdict(ours - alone <= HIT_SECONDS_MAX, "<= 30 ms more") if name == "p50" else ""
        shown = f"without packages {alone * 1000:.1f} ms"
        rows.append(
            (f"cache hit, {name}", f"{ours * 1000:.1f} ms", shown, f"+{(ours - alone) * 1000:.1f} ms", held)
        )
    return rows


def cold(stack: Stack, packages: list[str], rounds: int, image: str) -> list[tuple[str, str, str, str, str]]:
    """All of them in turn, each with nothing to go by."""
    ours, peers = [], {"bare uv": [], "python -m venv + pip": [], "docker build": []}
    for _ in range(rounds):
        forget(stack)
        shutil.rmtree(stack.directory / "local/builder/uv-cache", ignore_errors=True)
        whole = first_output(stack, {"environment": {"pip": packages, "latest": True}})
        ours.append(whole.since_asked - first_output(stack).since_asked)
        peers["bare uv"].append(bare_uv(packages, Path(tempfile.mkdtemp(prefix="spb"))))
        peers["python -m venv + pip"].append(venv_and_pip(packages, Path(tempfile.mkdtemp(prefix="spb"))))
        built = docker_build(packages, image)
        peers["docker build"] += [] if built is None else [built]
    rows = []
    for name, taken in peers.items():
        if taken:
            ratio = median(ours) / median(taken)
            held = verdict(ratio <= COLD_RATIO_MAX, f"<= {COLD_RATIO_MAX}x") if name == "bare uv" else ""
            row = (
                "cold pip layer",
                f"{median(ours):.2f} s",
                f"{name} {median(taken):.2f} s",
                f"{ratio:.2f}x",
                held,
            )
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packages", default="numpy,six")
    parser.add_argument("--image", default=f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim")
    chosen = parser.parse_args()
    packages = chosen.packages.split(",")
    with running() as stack:
        first_output(stack)
        rows = cold(stack, packages, chosen.rounds, chosen.image)
        rows += cache_hit(stack, packages, chosen.runs)
    table(f"Environments, local engine, {', '.join(packages)}", rows)


if __name__ == "__main__":
    main()
