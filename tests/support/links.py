"""Network devices for tests. What a session that was killed has left under the same name goes first."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def bridge(name: str, address: str) -> Iterator[None]:
    """A bridge with an address, such as 10.231.77.1/24."""
    forget("link", name)
    ip("link", "add", name, "type", "bridge")
    try:
        ip("addr", "add", address, "dev", name)
        ip("link", "set", name, "up")
        yield
    finally:
        forget("link", name)


@contextmanager
def space(name: str) -> Iterator[list[str]]:
    """A network namespace; what to put before a command that is to run in it."""
    forget("netns", name)
    ip("netns", "add", name)
    try:
        yield ["ip", "netns", "exec", name]
    finally:
        forget("netns", name)


def forget(kind: str, name: str) -> None:
    """Remove a device or a namespace, if it is there."""
    subprocess.run(["ip", kind, "delete", name], check=False, capture_output=True)
