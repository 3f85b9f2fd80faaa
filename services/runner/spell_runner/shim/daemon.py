"""Speaks to a Docker daemon over its socket, one connection for each question (shell).

HTTP 1.0 on purpose: an answer ends with its connection, so nothing here has to know about chunks. Of the answers
only what a shim needs is understood.

Standard library only: this is loaded once by the fork server and then only forked.
"""

import errno
import json
import socket
from typing import Any

CONTROL_SECONDS_MAX = 30.0
_HEAD_BYTES_MAX = 64 * 1024
_READ_BYTES = 64 * 1024


class DaemonError(OSError):
    """The daemon refused, with its own words; `status` is that of HTTP. 0: it broke off, or said nothing sensible."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(errno.EIO, message)
        self.status = status


class Daemon:
    """A daemon by the path of its socket.

    Every method raises `DaemonError` when the daemon refuses, and `OSError` when it is away or silent for too long.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def ask(
        self, method: str, path: str, body: Any = None, *, seconds: float = CONTROL_SECONDS_MAX
    ) -> dict[str, Any]:
        """The members of the answer; none where it has no body."""
        connection, data = self._connect(method, path, body, seconds)
        with connection:
            while chunk := connection.recv(_READ_BYTES):
                data += chunk
        return _members(data)

    def stream(self, method: str, path: str) -> tuple[socket.socket, bytes]:
        """A connection whose head is read, with what has come behind it already. It never blocks."""
        connection, data = self._connect(method, path, None, CONTROL_SECONDS_MAX)
        connection.setblocking(False)
        return connection, data

    def _connect(self, method: str, path: str, body: Any, seconds: float) -> tuple[socket.socket, bytes]:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect(self.path)
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            data = b""
            while b"\r\n\r\n" not in data:
                chunk = connection.recv(_READ_BYTES)
                if not chunk or len(data) > _HEAD_BYTES_MAX:
                    raise DaemonError(0, "the Docker daemon broke off")  # noqa: TRY301 -- the socket is closed below
                data += chunk
            first, _, rest = data.partition(b"\r\n\r\n")
            status = int(first.split(b" ", 2)[1])
            if status >= 300:
                while status != 304 and (chunk := connection.recv(_READ_BYTES)):
                    rest += chunk
                said = _members(rest).get("message", f"Docker answered {status}")
                raise DaemonError(status, str(said))  # noqa: TRY301 -- the socket is closed below
        except BaseException:
            connection.close()
            raise
        return connection, rest


def container(name: str, rest: str = "") -> str:
    """The path of a container, and of what is below it."""
    return f"/containers/{name}{rest}"


def _members(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
