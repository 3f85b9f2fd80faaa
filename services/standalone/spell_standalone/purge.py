"""What of a stack outlives its supervisor: the shims, which hold the runs. Counted here, and ended on a purge."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spell_standalone import daemon_leftovers, memory
from spell_standalone.errors import StandaloneError

_END_SECONDS_MAX = 10.0
#: As they name themselves: one shim for each run, and the server that forks them.
_SHIM = "spell-shim"
_SERVER = "spell-shimd"
_OCTAL = re.compile(r"\\([0-7]{3})")


def runs_alive(data: Path) -> int:
    """How many runs of the stack in `data` are held by a shim right now."""
    return len(_named({_SHIM}, data.resolve()))


def _named(names: set[str], data: Path) -> set[int]:
    """The processes with one of these names that stand in the data directory."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text().strip() in names and (entry / "cwd").readlink().is_relative_to(
                data
            ):
                found.add(int(entry.name))
        except OSError:
            continue  # it has ended, or it is somebody else's
    return found


def _with_descendants(pid: int) -> set[int]:
    found = {pid}
    for child in memory.children(pid):
        found |= _with_descendants(child)
    return found


async def purge(data: Path) -> None:
    """End all runs of the stack in `data`, which is stopped and locked, and remove the directory.

    Raises:
        StandaloneError: a process does not end, or something cannot be removed.
    """
    deadline = time.monotonic() + _END_SECONDS_MAX
    if data.is_symlink():
        raise StandaloneError(f"{data} is a link: remove what it points to by hand")
    data = data.resolve()
    while shims := _named({_SHIM, _SERVER}, data):
        if time.monotonic() > deadline:
            raise StandaloneError(f"process {min(shims)} of a run does not end; nothing was removed")
        for pid in {descendant for shim in shims for descendant in _with_descendants(shim)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
    await asyncio.to_thread(daemon_leftovers.remove, data, os.environ)
    problems: list[str] = []

    def note(_action: Callable[..., Any], path: str, info: Any) -> None:
        problems.append(f"{path}: {info[1]}")

    await asyncio.to_thread(_unmount, data)
    _open_up(data)
    if data.exists():
        shutil.rmtree(data, onerror=note)
    if data.exists():
        raise StandaloneError(f"{data} could not be removed whole: {'; '.join(problems[:3])}")


def _unmount(data: Path) -> None:
    """Take down the disks of runs, which no runner is there to do; the last one that was mounted first."""
    told = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    places = [_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ", 5)[4]) for line in told]
    for place in reversed(places):
        if place.startswith(f"{data}/"):
            # What cannot be unmounted cannot be removed, and then that is said.
            subprocess.run(["umount", "--lazy", "--", place], capture_output=True, check=False)


def _open_up(data: Path) -> None:
    """Let its owner empty every directory: environments and trees are kept read-only, and overlayfs makes
    directories that nobody may enter.
    """
    for place, names, _ in os.walk(data):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                with contextlib.suppress(OSError):  # the removal will say it
                    path.chmod(stat.S_IRWXU)
