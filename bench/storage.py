"""Saving: large files that are new, the same ones again, and many small ones, beside `cp -a` with a flush, rclone and DVC.

    python bench/storage.py [--bytes 1000000000] [--small 10000] [--rounds 3]

Ours is the time that a run spends in Saving: digests, what storage lacks, and a manifest once everything is on the disk.
Theirs is the same files, in a directory beside, from the same warm cache, flushed as well. Both are new bytes each time.
rclone and DVC are left out where they are not installed.
"""

import argparse
import json
import random
import shlex
import shutil
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

from stack import Stack, first_output, median, running, table, verdict

LARGE_FILES = 10
SMALL_BYTES = 4_096
NEW_SHARE_MIN = 0.7
UNCHANGED_SECONDS_MAX = 1.0
WAIT_SECONDS_MAX = 300.0
#: Files of random bytes that a seed decides, the same in a run and here.
WRITER = """
import os, random, sys
seed, files, size = map(int, sys.argv[1:])
chance = random.Random(seed)
for number in range(files):
    if number % 100 == 0:
        os.makedirs(f"d{number // 100}", exist_ok=True)
    with open(f"d{number // 100}/f{number}", "wb") as file:
        file.write(chance.randbytes(size))
"""


def saving_seconds(stack: Stack, seed: int, files: int, size: int) -> float:
    """How long a run that writes these files is in Saving."""
    connection = stack.connection()
    command = f"python3 -c {shlex.quote(WRITER)} {seed} {files} {size}"
    answer = stack.request(connection, "POST", "/api/runs", {"command": command})
    run = json.loads(answer.read())
    assert answer.status == 201, run
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        shown = stack.request(connection, "GET", f"/api/runs/{run['id']}/transitions")
        told = json.loads(shown.read())
        if told["run"] is not None:
            break
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    assert told["run"]["saved_files"] == files, told["run"]
    at = {row["after"]: datetime.fromisoformat(row["at"]) for row in told["transitions"]}
    connection.close()
    return (at["pushing"] - at["saving"]).total_seconds()


def written(directory: Path, seed: int, files: int, size: int) -> Path:
    """The same files, here."""
    source = directory / "source"
    source.mkdir()
    subprocess.run(
        ["python3", "-c", WRITER, str(seed), str(files), str(size)],
        cwd=source,
        check=True,
        timeout=WAIT_SECONDS_MAX,
    )
    return source


def timed(*commands: list[str], cwd: Path) -> float:
    begun = time.perf_counter()
    for command in commands:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - begun


def peers(seed: int, files: int, size: int) -> dict[str, float]:
    """What others take for the same files, by name."""
    taken: dict[str, float] = {}
    flush = ["sync", "-f", "."]
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="spb") as name:
        directory = Path(name)
        source = written(directory, seed, files, size)
        taken["cp -a + fsync"] = timed(["cp", "-a", str(source), "copy"], flush, cwd=directory)
        if shutil.which("rclone"):
            taken["rclone copy + fsync"] = timed(
                ["rclone", "copy", str(source), "remote"], flush, cwd=directory
            )
        if shutil.which("dvc"):
            subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=directory, check=True, capture_output=True)
            taken["dvc add + fsync"] = timed(["dvc", "add", "-q", "source"], flush, cwd=directory)
    return taken


def rows_of(
    what: str, ours: list[float], theirs: list[dict[str, float]], share_min: float | None
) -> list[tuple[str, str, str, str, str]]:
    """Speed as a share of each peer's: above 1 is faster than that."""
    rows = []
    for name in theirs[0]:
        peer = median([taken[name] for taken in theirs])
        share = peer / median(ours)
        held = verdict(share >= share_min, f">= {share_min}x") if share_min and name.startswith("cp") else ""
        rows.append((what, f"{median(ours):.2f} s", f"{name} {peer:.2f} s", f"{share:.2f}x", held))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    large = (LARGE_FILES, chosen.bytes // LARGE_FILES)
    small = (chosen.small, SMALL_BYTES)
    new, again, many = [], [], []
    beside_new, beside_many = [], []
    with running() as stack:
        first_output(stack)
        for _ in range(chosen.rounds):
            seed = random.randrange(1 << 60)
            new.append(saving_seconds(stack, seed, *large))
            beside_new.append(peers(seed, *large))
            again.append(saving_seconds(stack, seed, *large))
            many.append(saving_seconds(stack, seed, *small))
            beside_many.append(peers(seed, *small))
    size = f"{chosen.bytes / 1e9:g} GB"
    rows = rows_of(f"save {size}, new", new, beside_new, NEW_SHARE_MIN)
    held = verdict(median(again) <= UNCHANGED_SECONDS_MAX, f"<= {UNCHANGED_SECONDS_MAX:g} s")
    rows.append((f"save {size}, unchanged", f"{median(again):.2f} s", "nothing is sent", "", held))
    rows += rows_of(f"save {chosen.small:,} files of 4 KiB", many, beside_many, None)
    table("Saving, local engine, local directory", rows)
    for name in ("rclone", "dvc"):
        if shutil.which(name) is None:
            print(f"{name} is not installed here.")


if __name__ == "__main__":
    main()
