"""Mounts: what mounting many files that are on the machine costs a run, and fetching them for the first time.

    python bench/mounts.py [--files 50000] [--runs 20] [--engine docker]

Runs with a mount and runs without take turns; what stands between the two is the mount. Beside it stands a copy of the
same files, which is what a run would wait for without layers.
"""

import argparse
import json
import shutil
import subprocess
import time
from pathlib import Path

from stack import Stack, first_output, median, quantile, running, table, verdict

#: So many different contents: making and saving the files is not what is measured.
CONTENTS = 500
MAKE = """
import os, sys
files, contents = map(int, sys.argv[1:])
for number in range(files):
    path = f"files/{number // 1000}/{number}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        print(f"{number % contents} " * 100, file=file)
    os.utime(path, (10**9, 10**9))
"""


def made(stack: Stack, files: int) -> int:
    """A run that has saved so many files."""
    connection = stack.connection()
    command = f"python3 -c '{MAKE}' {files} {CONTENTS}"
    answer = stack.request(connection, "POST", "/api/runs", {"command": command})
    run = json.loads(answer.read())
    assert answer.status == 201, run
    done = stack.spell("wait", str(run["id"]))
    assert done.returncode == 0, stack.spell("logs", "-v", str(run["id"])).stdout[-2000:]
    return run["id"]


def copied(source: Path, directory: Path) -> float:
    """`cp -a` of what is mounted."""
    target = directory / "copy"
    started = time.perf_counter()
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def measured(stack: Stack, files: int, runs: int) -> list[tuple[str, str, str, str, str]]:
    """Rows of a table; the first is the cost of what is here already."""
    run_id = made(stack, files)
    asked = {"mounts": [{"resource": f"runs/{run_id}/files", "target": "/mnt/files"}]}
    first_output(stack)
    began = time.perf_counter()
    first_output(stack, asked)
    first = time.perf_counter() - began
    mounted, bare = [], []
    for _ in range(runs):
        mounted.append(first_output(stack, asked).since_accepted)
        bare.append(first_output(stack).since_accepted)
    tree = next((stack.directory / "local/runner").glob("**/mounts/trees/*/files"))
    copy = median([copied(tree, stack.directory) for _ in range(3)])
    cost = median(mounted) - median(bare)
    return [
        (
            f"mount of {files:,} files that are here, p50",
            f"{cost * 1000:.1f} ms",
            f"cp -a {copy * 1000:.0f} ms",
            f"{cost / copy:.3f}x",
            verdict(cost <= 0.050, "<= 50 ms"),
        ),
        (
            "accepted -> first output with them, p95",
            f"{quantile(mounted, 0.95) * 1000:.1f} ms",
            f"without {quantile(bare, 0.95) * 1000:.1f} ms",
            f"{quantile(mounted, 0.95) / quantile(bare, 0.95):.2f}x",
            "",
        ),
        (
            f"the first mount, of {CONTENTS} contents",
            f"{first * 1000:.0f} ms",
            f"cp -a {copy * 1000:.0f} ms",
            f"{first / copy:.2f}x",
            "",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--engine", choices=("local", "docker"), default="local")
    chosen = parser.parse_args()
    settings = {"SPELL_ENGINE": chosen.engine}
    if chosen.engine == "docker":
        settings |= {"SPELL_DEFAULT_FRAMEWORK": "", "SPELL_DOCKER_IMAGE": "debian:bookworm-slim"}
    with running(**settings) as stack:
        rows = measured(stack, chosen.files, chosen.runs)
    table(f"Mounts, {chosen.engine} engine, {chosen.runs} runs", rows)


if __name__ == "__main__":
    main()
