"""Many small files on their way: brought with `spell upload`, fetched with `spell cp`, mounted for the first time.

    python bench/files.py [--files 3000] [--bytes 180] [--rounds 1]

The files are new each time. Beside the time stands what the processor has spent on it, ours and all services' together:
on a machine with other work it tells more.
"""

import argparse
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stack import Stack, first_output, median, running, table, verdict

FILES_PER_SECOND_MIN = 2_000


def written(directory: Path, files: int, size: int) -> Path:
    """A directory with new files."""
    for number in range(files):
        place = directory / f"d{number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(random.randbytes(size))
    return directory


def processor_seconds(stack: Stack) -> float:
    """What all processes of a stack have spent so far, and those that we have started."""
    mark, ticks = f"SPELL_DIR={stack.directory}".encode(), 0
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (place / "environ").read_bytes().split(b"\0"):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + used.ru_utime + used.ru_stime


def timed(stack: Stack, work: Callable[[], None]) -> tuple[float, float]:
    """How long something takes, and how much of the processor."""
    spent, began = processor_seconds(stack), time.perf_counter()
    work()
    return time.perf_counter() - began, processor_seconds(stack) - spent


def spell(stack: Stack, *words: str) -> None:
    done = stack.spell(*words)
    assert done.returncode == 0, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=3_000)
    parser.add_argument("--bytes", type=int, default=180)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {}
    with running() as stack:
        first_output(stack)
        for number in range(chosen.rounds):
            name, copy = f"many{number}", stack.directory / f"copy{number}"
            source = written(stack.directory / f"new{number}", chosen.files, chosen.bytes)
            asked = {"mounts": [{"resource": f"uploads/{name}", "target": "/mnt/files"}]}
            steps: dict[str, Callable[[], object]] = {
                "spell upload": lambda name=name, source=source: spell(
                    stack, "upload", "-n", name, str(source)
                ),
                "spell cp": lambda name=name, copy=copy: spell(stack, "cp", f"uploads/{name}", str(copy)),
                "first mount": lambda asked=asked: first_output(stack, asked),
            }
            for what, step in steps.items():
                taken.setdefault(what, []).append(timed(stack, step))
            assert sum(path.is_file() for path in copy.rglob("*")) == chosen.files
            shutil.rmtree(copy)
    rows = []
    for what, each in taken.items():
        seconds = median([one[0] for one in each])
        speed = chosen.files / seconds
        rows.append(
            (
                f"{what}, {chosen.files:,} files of {chosen.bytes} bytes",
                f"{seconds:.2f} s",
                f"{median([one[1] for one in each]):.2f} s of the processor",
                f"{speed:,.0f} files/s",
                verdict(speed >= FILES_PER_SECOND_MIN, f">= {FILES_PER_SECOND_MIN:,}/s"),
            )
        )
    table("Many small files, local engine, local directory", rows)


if __name__ == "__main__":
    main()
