# ruff: noqa: PTH123 -- this runs in the few milliseconds of a start, where plain system calls are the point
"""The shim of a command in a container: has it created and started, takes its output, says how it ended (shell).

The container is created under the claim, so nothing is left of an attempt that was cancelled, and its name says
whose it is, so what a shim that died has left can be found. The shim is attached before the start: every byte comes
from the stream itself, none from a log that the daemon keeps. The daemon may go away meanwhile; what is true then is
found out when it is back.

Standard library only: this is loaded once by the fork server and then only forked.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import time

from spell_proto.journal import RecordKind
from spell_runner.shim import launch as files
from spell_runner.shim import memory, network, processes
from spell_runner.shim.daemon import CONTROL_SECONDS_MAX, Daemon, DaemonError, container
from spell_runner.shim.launch import Launch
from spell_runner.shim.shim import READ_BYTES, Shim
from spell_runner.shim.sink import now_us

#: Creating and starting wait for disks and for other containers.
START_SECONDS_MAX = 120.0
#: After the end of a container its stream should end at once; docker is known to forget it.
DRAIN_SECONDS_MAX = 5.0
#: What does not die is told again this often.
KILL_AGAIN_SECONDS = 1.0
#: How long to go on trying to remove a container of a daemon that is away.
REMOVE_SECONDS_MAX = 600.0
ASK_AGAIN_SECONDS = 0.25
#: So long after the start it is looked up where the kernel counts the memory of a container, out of the start's way.
LOOK_SECONDS = 0.2
#: What has used less of its limit than this, and was killed for memory, was killed for that of others.
_USED_UP = 0.9
_OOM_STATUS = 137
_STARTED = -1
_FRAME_HEAD_BYTES = 8
_KINDS = {1: RecordKind.STDOUT, 2: RecordKind.STDERR}

NO_GPUS = (
    "Docker on this machine cannot give GPUs to containers: the NVIDIA Container Toolkit has to be installed there "
    "and the daemon restarted"
)
DOCKER_RESTARTED, OOM = "docker_restarted", "oom"


class Frames:
    """Tells the two streams of an attached container apart: a head of 8 bytes says which one, and how much follows."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._kind = RecordKind.STDOUT

    def feed(self, data: bytes) -> list[tuple[RecordKind, bytes]]:
        """The pieces of output in `data`; a frame may come in several."""
        found, position = [], 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                found.append((self._kind, piece))
                self._left -= len(piece)
                position += len(piece)
                continue
            piece = data[position : position + _FRAME_HEAD_BYTES - len(self._head)]
            self._head += piece
            position += len(piece)
            if len(self._head) == _FRAME_HEAD_BYTES:
                self._kind = _KINDS.get(self._head[0], RecordKind.STDOUT)
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""
        return found


class ContainerShim(Shim):
    """See `Shim`; the container stands where the child process does."""

    def __init__(self, name: str, launch: Launch) -> None:
        super().__init__(name, launch)
        assert launch.container is not None
        self._daemon = Daemon(launch.container.daemon)
        self._container = launch.container.name
        self._create = launch.container.create
        self._frames = Frames()
        self._output: socket.socket | None = None
        self._waiting: socket.socket | None = None
        self._said = b""
        self._peak = memory.Peak()
        self._look_at: float | None = None

    # ---- the life of a container -----------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            try:
                self._begin()
            except DaemonError as error:
                if not self._mend_network(error):
                    raise
                self._begin()
        except OSError as error:
            self._remove(0.0)
            if "could not select device driver" in str(error):
                raise OSError(errno.ENODEV, NO_GPUS) from error
            raise
        self._command = _STARTED
        self._look_at = self._started + LOOK_SECONDS
        self._sink.phase("running", "Run is running")
        files.append(files.CLAIM, {"started_us": self._started_us})
        self._ring(b"s")

    def _begin(self) -> None:
        self._make()
        self._listen()
        self._started, self._started_us = time.monotonic(), now_us()
        self._daemon.ask("POST", container(self._container, "/start"), seconds=START_SECONDS_MAX)

    def _mend_network(self, error: DaemonError) -> bool:
        """Make the network of runs anew where it is gone: `docker network prune` removes it whenever nothing runs."""
        if error.status != 404 or f"network {network.NAME} not found" not in str(error):
            return False
        self._remove(0.0)
        try:
            self._daemon.ask("POST", "/networks/create", network.definition(self._daemon.path))
        except DaemonError as refusal:
            # 409: another shim was faster.
            return refusal.status == 409
        return True

    def _make(self) -> None:
        path = f"/containers/create?name={self._container}"
        try:
            self._daemon.ask("POST", path, self._create, seconds=START_SECONDS_MAX)
        except DaemonError as error:
            if error.status != 409:
                raise
            # The claim is ours, so nobody can be running this attempt: it is left from a run id of an earlier life.
            self._remove(0.0)
            self._daemon.ask("POST", path, self._create, seconds=START_SECONDS_MAX)

    def _listen(self) -> None:
        path = container(self._container, "/attach?stream=1&stdout=1&stderr=1")
        self._frames = Frames()
        self._output, data = self._daemon.stream("POST", path)
        self._took(data)
        self._waiting, self._said = self._daemon.stream(
            "POST", container(self._container, "/wait?condition=next-exit")
        )

    def _watch(self) -> None:
        while self._status is None and self._reason is None:
            poll = select.poll()
            poll.register(self._control.fileno(), select.POLLIN)
            for connection in (self._output, self._waiting):
                if connection is not None:
                    poll.register(connection.fileno(), select.POLLIN)
            if self._peak.events >= 0:
                poll.register(self._peak.events, select.POLLIN)
            for fd, _ in poll.poll(self._patience()):
                if self._output is not None and fd == self._output.fileno():
                    self._take_output()
                elif self._waiting is not None and fd == self._waiting.fileno():
                    self._hear_end()
                elif fd == self._peak.events:
                    self._peak.look()
                elif fd == self._control.fileno():
                    self._take_orders()
            if self._waiting is None and self._status is None:
                self._find_out()
            self._on_time()

    def _clear(self) -> None:
        """Nothing of a container outlives its first process, so what is left is to read the stream to its end."""
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while self._output is not None and (left := deadline - time.monotonic()) > 0:
            select.select([self._output], [], [], left)
            self._take_output()

    def _write_down(self, problem: str | None) -> None:
        if self._status is not None:
            self._examine(_exit_code(self._status))
        super()._write_down(problem)
        if self._command:
            self._remove(REMOVE_SECONDS_MAX)

    def _patience(self) -> float | None:
        patience = super()._patience()
        if self._look_at is None:
            return patience
        until = max(0.0, (self._look_at - time.monotonic()) * 1000 + 0.5)
        return until if patience is None else min(patience, until)

    def _on_time(self) -> None:
        super()._on_time()
        now = time.monotonic()
        if self._look_at is not None and now >= self._look_at:
            self._look_at = None
            self._peak.watch(memory.group_of(*self._first_process()))

    # ---- output and end --------------------------------------------------------------------------------------

    def _take_output(self) -> None:
        assert self._output is not None
        try:
            data = self._output.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._took(data)
        else:
            self._output.close()
            self._output = None

    def _took(self, data: bytes) -> None:
        for kind, piece in self._frames.feed(data):
            self._sink.output(kind, piece)
        if data:
            self._ring_for_output()

    def _hear_end(self) -> None:
        """Take what the daemon says about the end, if it has come."""
        if self._waiting is None:
            return
        try:
            data = self._waiting.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._said += data
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self._status = int(json.loads(self._said)["StatusCode"]) << 8
        if not data or self._status is not None:
            self._waiting.close()
            self._waiting, self._said = None, b""

    def _over(self) -> bool:
        if self._command:
            self._hear_end()
        return self._status is not None

    def _find_out(self) -> None:
        """The daemon broke off: wait for it to be back, and see what has become of the container."""
        while self._status is None and self._reason is None and self._waiting is None:
            select.select([self._control], [], [], ASK_AGAIN_SECONDS)
            self._take_orders()
            self._on_time()
            try:
                state = self._daemon.ask("GET", container(self._container, "/json"))["State"]
                if state.get("Running"):
                    self._listen()
                    self._sink.note("Docker was away for a while; output from that time may be missing")
                    continue
            except DaemonError as error:
                if error.status != 404:
                    continue
            except (OSError, KeyError):
                continue
            self._reason = DOCKER_RESTARTED

    def _examine(self, exit_code: int) -> None:
        """Tell an end that somebody else has made from that of the command itself."""
        if self._cause != "exit" or exit_code == 0:
            return
        try:
            state = self._daemon.ask("GET", container(self._container, "/json")).get("State", {})
        except DaemonError:
            return
        except OSError:
            # A daemon that shuts down ends its containers first; that it did is the last thing it says.
            self._reason = DOCKER_RESTARTED
            return
        if not state.get("OOMKilled"):
            return
        why = self._out_of_memory(int(self._create["HostConfig"]["Memory"]))
        if exit_code == _OOM_STATUS:
            self._reason = OOM
            self._message = why
        else:
            self._sink.note(f"A process of this run was killed: {why}")

    def _out_of_memory(self, limit: int) -> str:
        may, peak = f"it may use {memory.text(limit)}", self._peak.bytes
        if 0 < peak < _USED_UP * limit:
            return (
                f"the machine itself ran out of memory; {may}, and had used {memory.text(peak)} at its peak"
            )
        at_most = f", {memory.text(peak)} at its peak" if peak else ""
        return f"it ran out of memory: {may}, and had used all of it{at_most}"

    # ---- orders ----------------------------------------------------------------------------------------------

    def _terminate(self) -> int:
        first, _ = self._first_process()
        if first:
            return processes.signal_below(first, signal.SIGTERM)
        return self._signal("TERM")

    def _first_process(self) -> tuple[int, str]:
        """The container's process 1 as we see it, 0 where its processes are out of our sight; and the container's id."""
        with contextlib.suppress(OSError, KeyError):
            about = self._daemon.ask("GET", container(self._container, "/json"))
            pid = int(about["State"]["Pid"])
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                if pid and about["Id"] in file.read():
                    return pid, str(about["Id"])
        return 0, ""

    def _kill_again(self) -> None:
        if self._command:
            self._signal("KILL")
            self._kill_until = time.monotonic() + KILL_AGAIN_SECONDS

    def _signal(self, name: str) -> int:
        try:
            path = container(self._container, f"/kill?signal={name}")
            self._daemon.ask("POST", path, seconds=CONTROL_SECONDS_MAX / 3)
        except OSError:
            return 0
        return 1

    def _remove(self, seconds: float) -> None:
        """Remove the container, trying for so long while the daemon is away."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                remove(self._daemon, self._container)
            except OSError:
                if time.monotonic() >= deadline:
                    return
                time.sleep(1.0)
            else:
                return


def remove(daemon: Daemon, name: str) -> None:
    """Kill what runs in a container and remove it, with its nameless volumes.

    Raises:
        OSError: the daemon is away, or cannot.
    """
    try:
        daemon.ask("DELETE", container(name, "?force=1&v=1"))
    except DaemonError as error:
        # 404: it is gone; 409: somebody is at it.
        if error.status not in {404, 409}:
            raise


def _exit_code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)
