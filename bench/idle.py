"""What a stack costs while nothing happens: memory (PSS) and CPU, per process and together.

python bench/idle.py [--seconds 20]
"""

import argparse
import os
import time
from pathlib import Path

from stack import cpu_seconds, processes, running, table, verdict

from spell_standalone.memory import of_process as pss_bytes


def rss_bytes(pid: int) -> int:
    """Memory of a process with all shared pages: what `top` shows."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    with running() as stack:
        done = stack.spell("run", "-f", "true")
        assert done.returncode == 0, done.stderr
        time.sleep(5)  # not a wait for anything: the measurement starts on a quiet stack
        found = processes(stack.directory)
        before = {pid: cpu_seconds(pid) for pid in found}
        time.sleep(seconds)
        shares = {pid: (cpu_seconds(pid) - before[pid]) / seconds * 100 for pid in found}
        memory = {pid: pss_bytes(pid) / 1e6 for pid in found}
        resident = sum(rss_bytes(pid) for pid in found) / 1e6
    names = sorted({*found.values()}, key=lambda name: -sum(memory[p] for p in found if found[p] == name))
    rows = []
    for name in names:
        pids = [pid for pid in found if found[pid] == name]
        used, share = sum(memory[pid] for pid in pids), sum(shares[pid] for pid in pids)
        rows.append((f"{name} ({len(pids)})", f"{used:.0f} MB, {share:.2f} %", "", "", ""))
    total, share = sum(memory.values()), sum(shares.values())
    rows.append(
        (
            "memory (PSS)",
            f"{total:.0f} MB",
            "400 MB",
            f"{total / 400:.2f}x",
            verdict(total <= 400, "<= 400 MB"),
        )
    )
    rows.append(("memory (RSS, shared pages counted again)", f"{resident:.0f} MB", "", "", ""))
    rows.append(("CPU of one core", f"{share:.2f} %", "1 %", f"{share:.2f}x", verdict(share < 1, "< 1 %")))
    table(f"An idle stack over {seconds:.0f} s", rows)


if __name__ == "__main__":
    main()
