"""Finds out how well this machine can keep a run apart, by really starting one (shell)."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import spell_proto.journal
from spell_proto import logs
from spell_runner import workspace
from spell_runner.errors import IsolationError
from spell_runner.shim import launch
from spell_runner.shim.launch import Launch

log = logs.get()

PROBE_SECONDS_MAX = 20.0
_BOOT = (
    "import os, sys; sys.path[:0] = sys.argv[1:3]; os.chdir(sys.argv[3]); "
    "from spell_runner.shim.shim import main; main('0-0')"
)
#: What must be true of a sandbox: the workspace takes files, and the platform's are out of sight.
_CHECK = 'echo x > /spell/probe && test ! -e "$HIDDEN/probe" && test -d /proc/self'


@dataclass(frozen=True, slots=True)
class Isolation:
    """How runs are kept apart: `name` is what they are told, `overlay` whether their workspace is one."""

    name: str
    overlay: bool
    bubblewrap: str = ""


async def probe(wanted: str, data: Path, hidden: tuple[str, ...], root: Path, empty: Path) -> Isolation:
    """The best that works, or what was asked for.

    Raises:
        IsolationError: what was asked for does not work; the message says what was tried and what came of it.
    """
    bubblewrap = shutil.which("bwrap") or ""
    problems: list[str] = []
    for name in ("bubblewrap", "unshare") if wanted == "auto" else (wanted,):
        if name == "none":
            break
        if name == "bubblewrap" and not bubblewrap:
            problems.append("bubblewrap is not installed")
            continue
        for overlay in (True, False):
            candidate = Isolation(name, overlay, bubblewrap)
            problem = await asyncio.to_thread(_try_it, candidate, data, hidden, root, empty)
            if problem is None:
                return candidate
            what = f"{name} {'with' if overlay else 'without'} an overlay"
            problems.append(f"{what}: {problem}")
            log.info("isolation does not work", isolation=name, overlay=overlay, problem=problem)
    if wanted not in {"auto", "none"}:
        raise IsolationError(f"isolation {wanted} was asked for and does not work: {'; '.join(problems)}")
    return Isolation("none", overlay=False)


def _try_it(candidate: Isolation, data: Path, hidden: tuple[str, ...], root: Path, empty: Path) -> str | None:
    """Run the check in a sandbox of this kind, as a shim would; what is wrong with it."""
    # Two levels down, like an attempt: the doorbell is rung relative to that.
    attempts = data / "probes"
    attempts.mkdir(mode=0o700, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=attempts))
    (data / "probe").touch()
    try:
        for part in (launch.UPPER, launch.WORK, launch.TEMPORARY, launch.WORKSPACE):
            (directory / part).mkdir()
        told = Launch(
            argv=("/bin/sh", "-c", _CHECK),
            env={"PATH": os.defpath, "HIDDEN": str(data)},
            isolation=candidate.name,
            overlay=candidate.overlay,
            lower=str(empty),
            cwd="/spell",
            root=str(root),
            hidden=hidden,
            read_only=(),
            log_bytes_max=1 << 16,
            bubblewrap=candidate.bubblewrap,
        )
        (directory / launch.LAUNCH).write_bytes(told.encode())
        return _outcome(directory, candidate)
    finally:
        (data / "probe").unlink(missing_ok=True)
        workspace.remove(attempts)


def _outcome(directory: Path, candidate: Isolation) -> str | None:
    above = Path(spell_proto.journal.__file__).parent.parent, Path(launch.__file__).parent.parent.parent
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, *map(str, above), str(directory)]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=PROBE_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return f"the check did not end within {PROBE_SECONDS_MAX:.0f} s"
    claim = launch.read(directory)
    if claim is None or claim.ending is None:
        return f"the shim failed: {done.stderr.decode(errors='replace')[-300:]}"
    if claim.ending.error is not None:
        return claim.ending.error
    if claim.ending.exit_code != 0:
        said = (directory / launch.JOURNAL).read_bytes()[-300:].decode(errors="replace")
        return f"the check ended with {claim.ending.exit_code}: {said}"
    layer = launch.UPPER if candidate.overlay else launch.WORKSPACE
    return None if (directory / layer / "probe").exists() else "what it wrote did not arrive"
