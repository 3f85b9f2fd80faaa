# ruff: noqa: PTH104, PTH108, PTH109, PTH123 -- this runs in the few milliseconds of a start, where plain system calls are the point
"""One shim: the parent of one command, from its start to the last byte of its output (shell).

It claims the attempt, starts the command, takes its output into the journal, ends it when told to, and writes
down how it ended. It needs nobody: the runner may die and come back meanwhile.

Standard library only: this is loaded once by the fork server and then only forked.
"""

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

from spell_proto.journal import RecordKind
from spell_runner.shim import launch as files
from spell_runner.shim import linux, memory, processes, room, sandbox
from spell_runner.shim.launch import Ending, Launch
from spell_runner.shim.sink import Sink, now_us

READ_BYTES = 64 * 1024
#: A doorbell is rung at most this often for output; what came meanwhile is announced at the end of the interval.
RING_SECONDS = 0.002
#: How long to wait between two rounds of killing what does not die.
KILL_AGAIN_SECONDS = 0.02
#: As `spell_proto.state` spells it, which is not loaded here.
_DISK_QUOTA, _SPOT_RECLAIMED = "disk_quota", "spot_reclaimed"
_KILLED = 128 + signal.SIGKILL
#: How many processes between the shim and the command are not the command's: the sandbox's own.
_SANDBOX_DEPTH = {"none": 0, "unshare": 1, "bubblewrap": 2}


class Shim:
    """Everything about one command."""

    def __init__(self, name: str, launch: Launch) -> None:
        self._name = name.encode()
        self._launch = launch
        self._depth = _SANDBOX_DEPTH.get(launch.isolation, 0)
        self._sink = Sink(files.JOURNAL, launch.log_bytes_max)
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._control.bind(own := f"{files.CONTROL}.{os.getpid()}")
        self._own_control = own
        self._bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._rang = 0.0
        self._ring_due: float | None = None
        self._pipes: dict[int, RecordKind] = {}
        self._command = 0
        self._status: int | None = None
        self._childless = False
        self._cause = "exit"
        self._reason: str | None = None
        self._message = ""
        self._exceeded = ""
        self._grace: float | None = None
        self._kill_until: float | None = None
        self._started_us = 0
        self._started = 0.0
        self._kills = 0

    # ---- the life of a command -------------------------------------------------------------------------------

    def run(self) -> None:
        """Claim, start, watch, write down. Returns at once when somebody else has the claim."""
        if not files.take(".", os.getpid(), processes.start_ticks(os.getpid())):
            os.unlink(self._own_control)
            return
        os.rename(self._own_control, files.CONTROL)
        problem = None
        self._take_orders()
        if self._cause == "exit":
            try:
                self._start()
            except OSError as error:
                problem = _sentence(error)
                if self._command:
                    # It runs, and nothing can be written down about it.
                    self._kill_again()
                    self._clear()
            else:
                self._watch()
                self._clear()
        self._write_down(problem)

    def _start(self) -> None:
        wake, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wake = wake
        stdout, out = os.pipe2(os.O_CLOEXEC)
        stderr, err = os.pipe2(os.O_CLOEXEC)
        self._kills = memory.kills()
        self._started, self._started_us = time.monotonic(), now_us()
        match self._launch.isolation:
            case "unshare":
                self._command = self._start_unshared(out, err)
            case "bubblewrap":
                self._command = self._start_bubblewrap(out, err)
            case _:
                self._command = self._start_plain(out, err)
        os.close(out)
        os.close(err)
        self._pipes = {stdout: RecordKind.STDOUT, stderr: RecordKind.STDERR}
        for fd in self._pipes:
            os.set_blocking(fd, False)
        self._sink.phase("running", "Run is running")
        files.append(files.CLAIM, {"started_us": self._started_us})
        self._ring(b"s")

    def _start_plain(self, out: int, err: int) -> int:
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        sandbox.make_directory(self._launch.cwd)
        os.chdir(self._launch.cwd)
        try:
            return sandbox.spawn(self._launch.argv, self._launch.env, out, err)
        finally:
            os.fchdir(here)
            os.close(here)

    def _start_bubblewrap(self, out: int, err: int) -> int:
        if self._launch.overlay:
            sandbox.mount_workspace(self._launch)
        sandbox.make_beneath(self._launch.part(files.WORKSPACE), self._launch.cwd.removeprefix(sandbox.SPELL))
        argv = sandbox.bubblewrap_argv(self._launch, os.getcwd())
        return sandbox.spawn(argv, self._launch.env, out, err)

    def _start_unshared(self, out: int, err: int) -> int:
        sandbox.leave_host()
        problem, problems = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _be_first(self._launch, out, err, problems)
        os.close(problems)
        # Empty as soon as the command is started: what the first process holds open is closed by then.
        text = os.read(problem, 4096)
        os.close(problem)
        if text:
            os.waitpid(pid, 0)
            number, _, message = text.decode(errors="replace").partition(" ")
            raise OSError(int(number), message)
        return pid

    def _watch(self) -> None:
        poll = select.poll()
        for fd in (*self._pipes, self._wake, self._control.fileno()):
            poll.register(fd, select.POLLIN)
        while self._status is None:
            for fd, _ in poll.poll(self._patience()):
                if fd in self._pipes:
                    if not self._read(fd):
                        poll.unregister(fd)
                        os.close(fd)
                        del self._pipes[fd]
                elif fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 4096)
                    self._reap()
                else:
                    self._take_orders()
            self._on_time()

    def _clear(self) -> None:
        """Like a container: what the command has left behind goes with it, then the pipes are read empty.

        Nobody who could write is left then, so an empty pipe has ended, even if some process elsewhere was
        handed its other end.
        """
        self._reap()
        while not self._childless:
            processes.signal_below(os.getpid(), signal.SIGKILL)
            select.select([self._wake], [], [], KILL_AGAIN_SECONDS)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
            self._reap()
        for fd in self._pipes:
            while self._read(fd) > 0:
                pass
        self._suspect_memory()

    def _suspect_memory(self) -> None:
        """Say so where the machine ran out of memory meanwhile and the command may be what was killed for it."""
        if self._cause != "exit" or self._status is None or _exit_code(self._status) != _KILLED:
            return
        if memory.kills() > self._kills:
            self._sink.note(
                "It was killed while this machine, or what it ran in, had run out of memory; its largest process had "
                f"used {memory.text(memory.largest_child())} at its peak"
            )

    def _write_down(self, problem: str | None) -> None:
        seconds = time.monotonic() - self._started if self._started else 0.0
        started = bool(self._command)
        if self._reason is None:
            self._message = self._exceeded or self._used_up()
            if self._message:
                self._reason = _DISK_QUOTA
            elif self._cause == "reclaim":
                self._reason = _SPOT_RECLAIMED
        self._sink.close()
        ending = Ending(
            exit_code=_exit_code(self._status) if self._status is not None else 0,
            exit_cause=self._cause,
            # Not by the clock, which may have been set meanwhile.
            ended_us=self._started_us + int(seconds * 1e6) if started else now_us(),
            seconds=seconds,
            stdout_bytes=self._sink.written[RecordKind.STDOUT],
            stderr_bytes=self._sink.written[RecordKind.STDERR],
            dropped_bytes=self._sink.dropped,
            sha256=self._sink.sha256,
            journal_bytes=self._sink.size,
            error=problem,
            reason=self._reason,
            message=self._message,
        )
        files.append(files.CLAIM, {name: getattr(ending, name) for name in Ending.__slots__})
        self._ring(b"s")

    def _used_up(self) -> str:
        """A sentence if the command has ended by itself and left a disk that is full: what it wrote last may be missing."""
        disk = self._launch.disk
        if disk is None or not self._command or self._cause != "exit":
            return ""
        return room.used_up(disk, frozen=os.path.lexists(self._launch.part(files.SNAPSHOT))) or ""

    # ---- output ----------------------------------------------------------------------------------------------

    def _read(self, fd: int) -> int:
        """Take what is in a pipe. 0: it has ended, -1: nothing is there right now."""
        try:
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return -1
        if chunk:
            self._sink.output(self._pipes[fd], chunk)
            self._ring_for_output()
        return len(chunk)

    def _ring_for_output(self) -> None:
        now = time.monotonic()
        if now - self._rang >= RING_SECONDS:
            self._rang, self._ring_due = now, None
            self._ring(b"o")
        elif self._ring_due is None:
            self._ring_due = self._rang + RING_SECONDS

    def _ring(self, what: bytes) -> None:
        with contextlib.suppress(OSError):
            self._bell.sendto(what + b" " + self._name, files.DOORBELL)

    # ---- the end ---------------------------------------------------------------------------------------------

    def _take_orders(self) -> None:
        while True:
            try:
                words = self._control.recv(256).decode().split()
            except BlockingIOError:
                return
            if words[:1] == ["kill"]:
                self._kill("kill")
            elif words[:1] == ["exceed"]:
                self._exceed(" ".join(words[1:]))
            elif words[:1] == ["stop"] and self._grace is None:
                self._stop(float(words[1]), "stop")
            elif words[:1] == ["reclaim"]:
                self._reclaim(float(words[1]))

    def _exceed(self, message: str) -> None:
        """It has taken more of the disk than it may: it is ended at once, and by itself, as far as its files go."""
        if not self._exceeded and not self._over():
            self._exceeded = message
            self._kill(self._cause)

    def _over(self) -> bool:
        """Whether the command ended before now: then what was ordered came too late, and its exit counts."""
        if self._command:
            self._reap()
        return self._status is not None

    def _stop(self, grace_seconds: float, cause: str) -> None:
        if self._over() or self._cause != "exit":
            return
        delivered = self._terminate()
        if delivered or not self._command:
            self._cause = cause
        self._grace = time.monotonic() + grace_seconds

    def _reclaim(self, grace_seconds: float) -> None:
        """The machine is about to be taken away: as a stop; and one that is under way has less time from now on."""
        if self._kill_until is not None:
            return
        if self._grace is not None:
            self._grace = min(self._grace, time.monotonic() + grace_seconds)
            return
        if self._command and not self._over():
            self._sink.note(
                f"This spot machine is about to be taken away: {grace_seconds:g} s to end by itself"
            )
        self._stop(grace_seconds, "reclaim")

    def _terminate(self) -> int:
        """Send TERM to everything that is the command's; how many got it."""
        return processes.signal_below(os.getpid(), signal.SIGTERM, skip=self._depth)

    def _kill(self, cause: str) -> None:
        if self._over():
            return
        self._cause = cause
        self._kill_until = time.monotonic()
        self._kill_again()

    def _kill_again(self) -> None:
        if self._command:
            processes.signal_below(os.getpid(), signal.SIGKILL)
            self._kill_until = time.monotonic() + KILL_AGAIN_SECONDS

    def _patience(self) -> float | None:
        """Milliseconds until something is due without an event."""
        due = [at for at in (self._ring_due, self._grace, self._kill_until) if at is not None]
        return max(0.0, (min(due) - time.monotonic()) * 1000 + 0.5) if due else None

    def _on_time(self) -> None:
        now = time.monotonic()
        if self._ring_due is not None and now >= self._ring_due:
            self._rang, self._ring_due = now, None
            self._ring(b"o")
        if self._status is not None:
            return
        if self._kill_until is not None and now >= self._kill_until:
            self._kill_again()
        elif self._grace is not None and now >= self._grace:
            self._grace = None if self._kill_until is not None else float("inf")
            self._kill(self._cause)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._command:
                self._status = status


NO_KINDS: Mapping[str, type[Shim]] = MappingProxyType({})


def _sentence(error: OSError) -> str:
    text = error.strerror or repr(error)
    return text if error.filename is None else f"{os.fsdecode(error.filename)}: {text}"


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _be_first(launch: Launch, out: int, err: int, problems: int) -> NoReturn:
    """Process 1 of a sandbox: starts the command, buries the dead, and ends as the command does."""
    code = 127
    try:
        linux.set_name("spell-init")
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sandbox.enter(launch)
        # The command can open what process 1 holds: the journal is none of its business.
        _close_all_but(out, err, problems)
        command = sandbox.spawn(launch.argv, launch.env, out, err)
        os.closerange(0, 1024)
        while True:
            pid, status = os.wait()
            if pid == command:
                code = _exit_code(status)
                break
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(problems, f"{error.errno or errno.EIO} {_sentence(error)}".encode())
    finally:
        os._exit(code)


def _close_all_but(*kept: int) -> None:
    first = 0
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1024)


def main(name: str, kinds: Mapping[str, type[Shim]] = NO_KINDS) -> None:
    """Be the shim of the attempt `name`, whose directory is the current one. Never returns.

    `kinds` are the shims of what is no child process: isolation -> class.
    """
    try:
        os.setsid()
        linux.set_name("spell-shim")
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o022)
        with open(files.LAUNCH, "rb") as file:
            launch = Launch.decode(file.read())
        kinds.get(launch.isolation, Shim)(name, launch).run()
    except FileNotFoundError:
        # The attempt was removed before its start.
        os._exit(0)
    os._exit(0)
