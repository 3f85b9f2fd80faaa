"""What engines have in common whose commands have shims: starting, looking, ending, and finding what was made (shell)."""

import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from spell_proto import logs
from spell_proto.state import Intent, Reason
from spell_runner import gpus
from spell_runner.directory import Directory
from spell_runner.disks import Disks
from spell_runner.engines.server import ShimServer
from spell_runner.errors import DiscardedError
from spell_runner.mounts import made
from spell_runner.mounts.layers import Mounted
from spell_runner.outputs import Changes
from spell_runner.phases import Exit, Look, Status
from spell_runner.settings import Machine
from spell_runner.shim import launch, processes
from spell_runner.shim.launch import Launch
from spell_runner.tasks import in_thread
from spell_runner.trees import Code
from spell_runner.workspace import Abort

log = logs.get()


class Shimmed:
    """The part of an engine that goes by what stands in the directory of an attempt."""

    hold_seconds = 0.0
    talkative = True

    def __init__(
        self, data: Path, server: ShimServer, grace_seconds: float, disks: Disks | None = None
    ) -> None:
        self._disks = disks or Disks(data)
        self._data = data
        self._server = server
        self._grace_seconds = grace_seconds

    async def open(self) -> None:
        launch.make_cancellation(self._data)
        await self._server.open()

    async def close(self) -> None:
        await self._server.close()

    async def watch(self) -> None:
        """Nothing, unless an engine says otherwise."""

    async def start(self, directory: Directory) -> None:
        await self._server.start(directory.path.name)

    async def _give_disk(
        self,
        directory: Directory,
        code: Code | None,
        mounted: Sequence[Mounted],
        *,
        overlay: bool,
        problem: str | None = None,
    ) -> None:
        """Give an attempt a disk of its own, where runs have one, before anything is made that lies there."""
        copied = [] if overlay else [Path(one.path) for one in mounted]
        if code is not None and not overlay:
            copied.append(code.lower)
        await in_thread(partial(self._disks.give, directory, copied, problem))

    def _write_launch(self, directory: Directory, told: Launch) -> None:
        """From here on the command may be started."""
        overlays = 1 + len(told.layers) if told.overlay else 0
        directory.write(launch.LAUNCH, replace(told, disk=self._disks.of(directory, overlays)).encode())

    # ---- meanwhile -------------------------------------------------------------------------------------------

    def look(self, directory: Directory, *, alive: bool) -> Look:
        claim = launch.read(directory.base)
        if claim is None:
            asked = os.access(directory / launch.LAUNCH, os.F_OK)
            return Look(Status.ASKED if asked else Status.ABSENT)
        if claim.pid == 0:
            return Look(Status.CANCELLED)
        started = None if claim.started_us is None else _time(claim.started_us)
        if claim.ending is not None:
            return Look(Status.EXITED, started, _exit(claim.ending))
        if alive and not processes.alive(claim.pid, claim.ticks):
            # It may have written its last line between our two looks.
            again = launch.read(directory.base)
            if again is not None and again.ending is not None:
                return Look(Status.EXITED, started, _exit(again.ending))
            return Look(Status.LOST, started)
        return Look(Status.RUNNING, started)

    def cancel(self, directory: Directory) -> None:
        launch.cancel(directory.base)

    def end(self, directory: Directory, intent: Intent) -> None:
        self._tell(directory, "kill" if intent is Intent.KILL else f"stop {self._grace_seconds}")

    def exceed(self, directory: Directory, message: str) -> None:
        self._tell(directory, f"exceed {message}")

    def reclaim(self, directory: Directory, grace_seconds: float) -> None:
        self._tell(directory, f"reclaim {min(grace_seconds, self._grace_seconds)}")

    def _tell(self, directory: Directory, order: str) -> None:
        # Through a descriptor: the path of the socket itself may be too long for an address.
        fd = os.open(directory.path, os.O_PATH | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as control:
                control.sendto(order.encode(), f"/proc/self/fd/{fd}/{launch.CONTROL}")
        except OSError as error:
            log.info("a shim cannot be told", attempt=directory.path.name, order=order, problem=repr(error))
        finally:
            os.close(fd)

    # ---- after -----------------------------------------------------------------------------------------------

    def touched(self, directory: Directory) -> bool:
        parts = [launch.UPPER, launch.WORKSPACE]
        if os.access(directory / launch.MOUNTS, os.F_OK):
            parts += [part for layer in _told(directory).layers for part in (layer.upper, layer.place)]
        try:
            there = [part for part in parts if os.access(directory / part, os.F_OK)]
            return not there or any(os.listdir(directory / part) for part in there)  # noqa: PTH208 -- plain strings
        except PermissionError:
            # It took the right to look into its workspace away, and so has touched it.
            return True

    def changes(self, directory: Directory, abort: Abort) -> Changes:
        told = _told(directory)
        if not os.path.lexists(directory / (launch.UPPER if told.overlay else launch.WORKSPACE)):
            raise DiscardedError
        find = made.in_layers if told.overlay else made.in_copies
        return find(told, directory, abort)


def _told(directory: Directory) -> Launch:
    return Launch.decode(Path(directory / launch.LAUNCH).read_bytes())


def used_code(attempts: Path) -> set[str]:
    """The trees, objects and copies of environments that the attempts on this machine stand on."""
    found = set()
    for told in attempts.glob(f"*/{launch.LAUNCH}"):
        with contextlib.suppress(OSError, ValueError):
            said = Launch.decode(told.read_bytes())
            found |= {said.lower, said.objects, *(source for source, _ in said.bound)}
    return found


def choose_gpus(machine: Machine, attempts: Path) -> tuple[str, ...]:
    """The GPUs of one more command. Nothing is read where the machine has none."""
    return gpus.choose(machine.gpus, used_gpus(attempts), machine.run_gpus) if machine.gpus else ()


def used_gpus(attempts: Path) -> list[str]:
    """The GPUs of the commands on this machine that run, or are about to, once for each of them."""
    found: list[str] = []
    for told in attempts.glob(f"*/{launch.LAUNCH}"):
        with contextlib.suppress(OSError, ValueError):
            gpus = Launch.decode(told.read_bytes()).gpus
            if gpus and _may_run(launch.read(told.parent)):
                found.extend(gpus)
    return found


def _may_run(claim: launch.Claim | None) -> bool:
    if claim is None:
        return True
    return claim.pid > 0 and claim.ending is None and processes.alive(claim.pid, claim.ticks)


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


def _exit(ending: launch.Ending) -> Exit:
    return Exit(
        at=_time(ending.ended_us),
        exit_code=ending.exit_code,
        cause=ending.exit_cause,
        stdout_bytes=ending.stdout_bytes,
        stderr_bytes=ending.stderr_bytes,
        dropped_bytes=ending.dropped_bytes,
        sha256=ending.sha256,
        journal_bytes=ending.journal_bytes,
        error=ending.error,
        reason=None if ending.reason is None else Reason(ending.reason),
        message=ending.message,
    )
