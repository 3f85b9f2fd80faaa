"""How much memory processes really take: PSS, which splits shared pages among those who share them."""

from pathlib import Path


def of_process(pid: int) -> int:
    """The proportional set size of one process in bytes; 0 where the kernel does not tell."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def of_tree(pid: int) -> int:
    """The same for a process and all its children, theirs included."""
    return of_process(pid) + sum(of_tree(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found
