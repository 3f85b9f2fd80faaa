# ruff: noqa: PTH104, PTH108 -- this runs in the few milliseconds of a start, where plain system calls are the point
"""The fork server: forks a shim for every attempt it is told to start, and outlives the runner that started it (shell).

A runner connects to `shimd.sock` in the data directory, reads one line (which code the server runs) and sends
lines: `start <attempt>` forks a shim, `retire` ends the server; shims go on without it. Nothing is answered: a
shim's claim on its attempt says more. Without a runner the server ends after a while.

Standard library only: it is loaded in some 20 ms and forked in less than one.
"""

import contextlib
import fcntl
import gc
import os
import re
import select
import signal
import socket
import sys
from typing import NoReturn

from spell_runner.shim import container, linux, shim

SOCKET = "shimd.sock"
LOCK = "shimd.lock"
_ATTEMPT = re.compile(rb"[0-9]+-[0-9]+")
_KINDS: dict[str, type[shim.Shim]] = {"docker": container.ContainerShim}


class Server:
    """A listening socket, its connections, and the shims that are its children."""

    def __init__(self, code: str, linger_seconds: float) -> None:
        self._greeting = code.encode() + b"\n"
        self._linger = linger_seconds
        self._connections: dict[int, tuple[socket.socket, bytes]] = {}
        self._poll = select.poll()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET + ".new")
        self._listener.bind(SOCKET + ".new")
        self._listener.listen(16)
        os.rename(SOCKET + ".new", SOCKET)
        self._wake, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def serve(self) -> None:
        """Until told to retire, or left alone for too long."""
        while True:
            idle = None if self._connections else self._linger * 1000
            events = self._poll.poll(idle)
            if not events and not self._connections:
                return
            for fd, _ in events:
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 4096)
                    _reap()
                elif fd == self._listener.fileno():
                    self._accept()
                elif not self._read(fd):
                    return

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.send(self._greeting)
        self._connections[connection.fileno()] = (connection, b"")
        self._poll.register(connection, select.POLLIN)

    def _read(self, fd: int) -> bool:
        connection, rest = self._connections[fd]
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(fd)
            connection.close()
            del self._connections[fd]
            return True
        *lines, rest = (rest + data).split(b"\n")
        self._connections[fd] = (connection, rest)
        for line in lines:
            word, _, name = line.partition(b" ")
            if word == b"retire":
                return False
            if word == b"start" and _ATTEMPT.fullmatch(name):
                self._fork(name.decode())
        return True

    def _fork(self, name: str) -> None:
        # A directory that is gone belongs to an attempt that is over.
        with contextlib.suppress(FileNotFoundError):
            place = os.open(f"attempts/{name}", os.O_PATH | os.O_CLOEXEC)
            pid = os.fork()
            if pid == 0:
                self._become_shim(name, place)
            os.close(place)

    def _become_shim(self, name: str, place: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            os.fchdir(place)
            os.closerange(3, 3 + 64)
            shim.main(name, _KINDS)
        except Exception:  # noqa: BLE001 -- the last frame of this process
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(70)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(argv: list[str]) -> None:
    """`<data directory> <code> <linger seconds>`: serve there, unless another server does."""
    directory, code, linger = argv
    os.chdir(directory)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    linux.set_name("spell-shimd")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The memory of the server stays shared with its children as long as nothing moves in it.
    gc.disable()
    gc.freeze()
    Server(code, float(linger)).serve()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)
