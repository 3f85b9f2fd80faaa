"""One process of the stack: started, watched until it answers, started again when it ends, stopped in order."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from spell_standalone.errors import StandaloneError
from spell_standalone.layout import Layout, replace_file

log = logging.getLogger("supervisor")

BACKOFF_SECONDS_FIRST = 0.2
BACKOFF_SECONDS_MAX = 5.0
#: A process that ran this long was well: its next end counts as the first again.
WELL_SECONDS = 30.0
#: A service drains for at most 25 s and then leaves by itself.
STOP_SECONDS_MAX = 27.0
READY_SECONDS_MAX = 120.0
#: With this a service ends that cannot make sense of its settings.
EX_CONFIG = os.EX_CONFIG
LAST_WORDS_BYTES = 8192


class State(StrEnum):
    """What a process of the stack is doing."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run one process. `ready` says whether it answers within so many seconds; `before` runs before each
    start.
    """

    name: str
    argv: list[str]
    environment: Mapping[str, str] = field(repr=False)
    ready: Callable[[float], Awaitable[bool]]
    before: Callable[[], Awaitable[None]] = _nothing
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds_max: float = STOP_SECONDS_MAX


def backoff_seconds(failures: int) -> float:
    """How long to wait before the start after the `failures`-th end in a row: not at all, then ever longer."""
    if failures <= 1:
        return 0.0
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_FIRST * 2.0 ** min(failures - 2, 16))


class Child:
    """A process that is kept running until `stop`. `changed` is called whenever something visible changes."""

    def __init__(self, plan: Plan, layout: Layout, changed: Callable[[], None]) -> None:
        self.plan = plan
        self.state = State.WAITING
        self.restarts = 0
        #: Ends in a row, without having been well in between.
        self.failures = 0
        self.problem = ""
        #: It has refused a setting: starting it again changes nothing.
        self.misconfigured = False
        self.started_at = 0.0
        self.ready = asyncio.Event()
        self._layout = layout
        self._changed = changed
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed()

    async def keep(self) -> None:
        """Run the process, again and again, until `stop`."""
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                await self.plan.before()
                ended = await self._once()
            except (OSError, StandaloneError) as error:
                ended = str(error)
            if self._stopping.is_set():
                break
            self.failures = 1 if time.monotonic() - begun >= WELL_SECONDS else self.failures + 1
            self.restarts += 1
            self.problem = ended
            log.warning("%s ended and is started again: %s", self.plan.name, ended)
            self._enter(State.RESTARTING)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_seconds(self.failures)):
                    await self._stopping.wait()
        self._enter(State.STOPPED)

    async def _once(self) -> str:
        """Run the process to its end and say how it ended."""
        with self._layout.log(self.plan.name).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self.plan.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.plan.environment),
                cwd=self._layout.data,
                start_new_session=True,
            )
        self._process = process
        self.started_at = time.time()
        if self._stopping.is_set():
            process.kill()
        pid_file = self._layout.pid_file(self.plan.name)
        try:
            replace_file(pid_file, f"{process.pid} {birth(process.pid)}\n")
        except OSError as error:
            # It runs all the same. Only a supervisor that comes after a crash of this one would need the file.
            log.warning("%s cannot be written: %s", pid_file, error.strerror)
        log.info("%s started, process %d", self.plan.name, process.pid)
        self._enter(State.STARTING)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._until_ready())
            await process.wait()
            watching.cancel()
        self.ready.clear()
        pid_file.unlink(missing_ok=True)
        refused = (
            _refused_setting(self._layout.log(self.plan.name)) if process.returncode == EX_CONFIG else ""
        )
        self.misconfigured = bool(refused)
        return refused or _ending(process.returncode)

    async def _until_ready(self) -> None:
        if await self.plan.ready(READY_SECONDS_MAX):
            log.info("%s answers", self.plan.name)
            self.problem = ""
            self.ready.set()
            self._enter(State.RUNNING)
        else:
            self.problem = f"it runs and does not answer for {READY_SECONDS_MAX:.0f} s"
            self._changed()

    async def stop(self) -> None:
        """Ask the process to end, wait as long as its plan allows, then end it."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.plan.stop_signal)
        try:
            async with asyncio.timeout(self.plan.stop_seconds_max):
                await process.wait()
        except TimeoutError:
            log.warning("%s did not end in %.0f s", self.plan.name, self.plan.stop_seconds_max)
            self.kill()
            await process.wait()
        log.info("%s was stopped and %s", self.plan.name, _ending(process.returncode))

    def kill(self) -> None:
        """End the process at once."""
        self._stopping.set()
        self.start_again()

    def start_again(self) -> None:
        """End the process, so that another one takes its place."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _refused_setting(log_file: Path) -> str:
    """The sentence with which a service refused a setting: the last line it logged. Empty when it is none."""
    with log_file.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_WORDS_BYTES))
        last = file.read().rpartition(b'{"')
    try:
        return str(json.loads(last[1] + last[2])["problem"])
    except (ValueError, KeyError):
        return ""


def _ending(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"


def birth(pid: int) -> str:
    """When a process began: the boot, and the kernel's own count in it. With the pid, it names one process for ever.

    Empty for one that has ended, also where nobody has asked yet how it ended.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else f"{boot}-{fields[18]}"


async def end_left_over(layout: Layout) -> None:
    """End processes of this stack that outlived a supervisor which was killed."""
    pids = []
    for file in layout.pids.glob("*.pid"):
        try:
            pid, began = file.read_text().split()
            alive = birth(int(pid)) == began
        except (OSError, ValueError):
            alive = False
        if alive:
            log.warning("ending %s, process %s, of an earlier supervisor", file.stem, pid)
            # Postgres ends in order; everything else may be killed at any line.
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGINT if file.stem == "postgres" else signal.SIGKILL)
            pids.append((int(pid), began))
        file.unlink(missing_ok=True)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while time.monotonic() < deadline:
        if not any(birth(pid) == began for pid, began in pids):
            break
        await asyncio.sleep(0.02)
