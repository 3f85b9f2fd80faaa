"""Saving: large files that are new, the same ones again, and many small ones, beside `cp -a`, rclone and DVC; and mounting.

    python bench/storage.py [--bytes 1000000000] [--small 10000] [--rounds 3] [--mounted 50000]

Ours is the time that a run spends in Saving: digests, what storage lacks, and a manifest once everything is on the disk.
Theirs is the same files, just written as well, copied to a directory beside and flushed: by file where they are few, with
`sync -f` where they are many, as suits them best. "Unchanged" means written again with the same bytes, as a run does.
Beside each time stands the processor time of all processes at it: it says more where a machine has other work to do.

DVC is installed into a cache of this bench's own. Where it, or rclone, cannot be had, the table says so.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import mounts
from stack import Stack, cpu_seconds, first_output, median, processes, running, table, verdict
from uv import find_uv_bin

LARGE_FILES = 10
SMALL_BYTES = 4_096
PIECE_BYTES = 256 << 10
NEW_SHARE_MIN = 0.7
UNCHANGED_SECONDS_MAX = 1.0
WAIT_SECONDS_MAX = 300.0
INSTALL_SECONDS_MAX = 180.0
DVC = "dvc>=3,<4"
CP, RCLONE, DVC_ADD = "cp -a + fsync", "rclone copy + fsync", "dvc add + fsync"
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


class Taken(NamedTuple):
    """Seconds by the clock, and of processors."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s (CPU {self.cpu:.2f} s)"


def middle(several: list[Taken]) -> Taken:
    return Taken(median([one.wall for one in several]), median([one.cpu for one in several]))


def saving(stack: Stack, seed: int, files: int, size: int) -> Taken:
    """How long a run that writes these files is in Saving, and what all services work in its life."""
    connection = stack.connection()
    command = f"python3 -c {shlex.quote(WRITER)} {seed} {files} {size}"
    before = {pid: cpu_seconds(pid) for pid in processes(stack.directory)}
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
    worked = sum(cpu_seconds(pid) - known for pid, known in before.items())
    return Taken((at["pushing"] - at["saving"]).total_seconds(), worked)


def timed(*commands: list[str], cwd: Path) -> Taken:
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(time.perf_counter() - begun, worked)


def peers(seed: int, files: int, size: int, dvc: str | None) -> tuple[dict[str, Taken], dict[str, Taken]]:
    """What others take for the same files, new and once more, by name."""
    new: dict[str, Taken] = {}
    again: dict[str, Taken] = {}
    write = [sys.executable, "-c", WRITER, str(seed), str(files), str(size)]

    def flush(place: str) -> list[str]:
        by_file = f"find {place} -type f -print0 | xargs -0 sync"
        return ["sync", "-f", "."] if files > 100 * LARGE_FILES else ["sh", "-c", by_file]

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="spb") as name:
        directory = Path(name)
        source = directory / "source"
        source.mkdir()
        timed(write, cwd=source)
        new[CP] = timed(["cp", "-a", "source", "copy"], flush("copy"), cwd=directory)
        if shutil.which("rclone"):
            # Told to compare contents, as ours does: times and sizes say nothing about files that a run writes anew.
            copy = ["rclone", "copy", "--checksum", "source", "remote"]
            new[RCLONE] = timed(copy, flush("remote"), cwd=directory)
            timed(write, cwd=source)
            again[RCLONE] = timed(copy, flush("remote"), cwd=directory)
        if dvc is not None:
            timed([dvc, "init", "-q", "--no-scm"], cwd=directory)
            new[DVC_ADD] = timed([dvc, "add", "-q", "source"], flush(".dvc/cache"), cwd=directory)
            # What was added may not be written to any more.
            timed(["rm", "-rf", "source"], ["mkdir", "source"], cwd=directory)
            timed(write, cwd=source)
            again[DVC_ADD] = timed([dvc, "add", "-q", "source"], flush(".dvc/cache"), cwd=directory)
    return new, again


def installed_dvc() -> str | None:
    """The program, installed if it can be."""
    if found := shutil.which("dvc"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spell-bench" / "dvc"
    program = cache / "bin" / "dvc"
    uv = find_uv_bin()
    for command in (
        [uv, "venv", "-q", "--allow-existing", "--python", sys.executable, str(cache)],
        [uv, "pip", "install", "-q", "--python", str(cache / "bin" / "python"), DVC],
    ):
        if program.exists():
            break
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS_MAX)
        except (OSError, subprocess.SubprocessError):
            return None
    return str(program)


def limits(size: int) -> list[tuple[str, str, str, str, str]]:
    """What this machine takes for the least that saving has to do, in one thread."""
    piece = random.randbytes(PIECE_BYTES)
    pieces = size // PIECE_BYTES
    digest = hashlib.sha256()

    def hashed() -> None:
        for _ in range(pieces):
            digest.update(piece)

    def written() -> None:
        with tempfile.NamedTemporaryFile(dir="/tmp", prefix="spb", buffering=0) as file:
            for _ in range(pieces):
                file.write(piece)
            os.fsync(file.fileno())

    named = {"SHA-256 of it, once": hashed, "write it once, and fsync": written}
    return [(name, "", str(in_thread(work)), "", "") for name, work in named.items()]


def in_thread(work: Callable[[], None]) -> Taken:
    begun, before = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - begun, time.process_time() - before)


def rows_of(
    what: str, ours: list[Taken], theirs: list[dict[str, Taken]], share_min: float | None = None
) -> list[tuple[str, str, str, str, str]]:
    """Speed as a share of each peer's: above 1 is faster than that."""
    rows = []
    for name in theirs[0]:
        peer = middle([taken[name] for taken in theirs if name in taken])
        share = peer.wall / middle(ours).wall
        held = verdict(share >= share_min, f">= {share_min}x") if share_min and name == CP else ""
        rows.append((what, str(middle(ours)), f"{name} {peer}", f"{share:.2f}x", held))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mounted", type=int, default=50_000)
    chosen = parser.parse_args()
    large = (LARGE_FILES, chosen.bytes // LARGE_FILES)
    small = (chosen.small, SMALL_BYTES)
    dvc = installed_dvc()
    new, again, many, many_again = [], [], [], []
    beside_large, beside_small = [], []
    with running() as stack:
        first_output(stack)
        for number in range(chosen.rounds):
            # Once is enough for what takes ten times as long.
            dvc_now = dvc if number == 0 else None
            seed = random.randrange(1 << 60)
            new.append(saving(stack, seed, *large))
            again.append(saving(stack, seed, *large))
            beside_large.append(peers(seed, *large, dvc_now))
            many.append(saving(stack, seed, *small))
            many_again.append(saving(stack, seed, *small))
            beside_small.append(peers(seed, *small, dvc_now))
        mounting = mounts.measured(stack, chosen.mounted, 20)[:1]
    size, files = f"{chosen.bytes / 1e9:g} GB", f"{chosen.small:,} files of 4 KiB"
    rows = limits(chosen.bytes)
    rows += rows_of(f"save {size}, new", new, [taken for taken, _ in beside_large], NEW_SHARE_MIN)
    unchanged = middle(again)
    held = verdict(unchanged.wall <= UNCHANGED_SECONDS_MAX, f"<= {UNCHANGED_SECONDS_MAX:g} s")
    rows.append((f"save {size}, unchanged", str(unchanged), "", "", held))
    rows += rows_of(f"save {size}, unchanged", again, [taken for _, taken in beside_large])
    rows += rows_of(f"save {files}, new", many, [taken for taken, _ in beside_small])
    rows += rows_of(f"save {files}, unchanged", many_again, [taken for _, taken in beside_small])
    table("Saving and mounting, local engine, local directory", rows + mounting)
    for name, found in (("rclone", shutil.which("rclone")), ("DVC", dvc)):
        if found is None:
            print(f"{name} is not here and could not be had: it is left out.")


if __name__ == "__main__":
    main()
