"""Where shims ring: a datagram socket that says which attempt has news (shell)."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "runner.dgram"
OnRing = Callable[[bytes, str], None]
#: Others get their turn after so many rings.
RINGS_AT_ONCE = 256


@contextmanager
def answered(data: Path, on_ring: OnRing) -> Iterator[None]:
    """Call `on_ring` with `o` (output) or `s` (started, or over) and the name of an attempt, while the context is open."""
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    (data / NAME).unlink(missing_ok=True)
    # Through a descriptor: the path itself may be too long for an address.
    fd = os.open(data, os.O_PATH | os.O_CLOEXEC)
    try:
        bell.bind(f"/proc/self/fd/{fd}/{NAME}")
    finally:
        os.close(fd)
    (data / NAME).chmod(0o600)

    def ready() -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(RINGS_AT_ONCE):
                what, _, name = bell.recv(256).partition(b" ")
                on_ring(what, name.decode(errors="replace"))

    loop = asyncio.get_running_loop()
    loop.add_reader(bell.fileno(), ready)
    try:
        yield
    finally:
        loop.remove_reader(bell.fileno())
        bell.close()
