# ruff: noqa: PTH123, PTH208 -- this runs in the few milliseconds of a start, where plain system calls are the point
"""Processes by /proc: whether one still lives, who descends from whom, and signals to whole trees (shell).

Standard library only: this is loaded once by the fork server and then only forked.
"""

import os
import signal


def _stat(pid: int | str) -> list[bytes] | None:
    # The name in brackets may hold spaces and brackets itself: what follows the last one is safe to split.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return None
    return data[data.rfind(b")") + 2 :].split()


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its id, this names it for good. 0 when there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def alive(pid: int, ticks: int) -> bool:
    """Whether that very process runs (a zombie does not)."""
    fields = _stat(pid)
    return fields is not None and int(fields[19]) == ticks and fields[0] not in {b"Z", b"X"}


def descendants(root: int) -> dict[int, int]:
    """Every living process below `root` -> how deep it is; the children of `root` are 1 deep."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(name)
            if fields is not None and fields[0] not in {b"Z", b"X"}:
                children.setdefault(int(fields[1]), []).append(int(name))
    found: dict[int, int] = {}
    level, depth = [root], 1
    while level:
        level = [child for parent in level for child in children.get(parent, ()) if child not in found]
        found.update((pid, depth) for pid in level)
        depth += 1
    return found


def signal_below(root: int, number: int, *, skip: int = 0) -> int:
    """Send a signal to all descendants more than `skip` deep; how many got it."""
    sent = 0
    for pid, depth in descendants(root).items():
        if depth > skip:
            try:
                os.kill(pid, number)
                sent += 1
                if number == signal.SIGTERM:
                    # A stopped process does not see TERM before it goes on.
                    os.kill(pid, signal.SIGCONT)
            except (ProcessLookupError, PermissionError):
                continue
    return sent


def kill_marked(mark: bytes) -> int:
    """Kill every process of ours whose first environment holds `mark`: what a dead shim has left behind."""
    killed = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = mark in file.read()
            if marked:
                os.kill(int(name), signal.SIGKILL)
                killed += 1
        except OSError:
            continue
    return killed
