"""The supervisor's socket: one word in (`status`, `watch`, `stop`), JSON lines out.

`status` gets one line with memory; `watch` a line at once and at every change until the supervisor ends;
`stop` asks for the end and then watches it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol, Self

ASK_SECONDS_MAX = 10.0
HANG_UP_SECONDS_MAX = 1.0
_LINE_BYTES_MAX = 1 << 20


class Snapshot(Protocol):
    """What the supervisor says about itself."""

    def __call__(self, *, with_memory: bool = False) -> dict[str, Any]: ...


class Server:
    """Answers while it is open. `tell` sends a snapshot to everybody who watches."""

    def __init__(self, path: Path, snapshot: Snapshot, stop: Callable[[], None]) -> None:
        self._path = path
        self._snapshot = snapshot
        self._stop = stop
        self._watchers: set[asyncio.StreamWriter] = set()
        self._inode = 0
        self._answers: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, str(self._path))
        self._path.chmod(0o600)
        self._inode = self._path.stat().st_ino
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._path.unlink(missing_ok=True)
        for writer in self._watchers:
            writer.close()
        if self._answers:
            await asyncio.wait(self._answers, timeout=HANG_UP_SECONDS_MAX)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ASK_SECONDS_MAX):
                word = (await reader.readline()).strip()
            if word == b"status":
                writer.write(_line(self._snapshot(with_memory=True)))
            else:
                if word == b"stop":
                    self._stop()  # a second one means: at once
                self._watchers.add(writer)
                writer.write(_line(self._snapshot()))
                await reader.read()  # until the other side hangs up
        self._watchers.discard(writer)
        writer.close()

    def mine(self) -> bool:
        """Whether the socket still stands where it was put: its directory may have been removed."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def tell(self, snapshot: dict[str, Any]) -> None:
        """Send a line to all who watch."""
        for writer in self._watchers:
            writer.write(_line(snapshot))


def _line(snapshot: dict[str, Any]) -> bytes:
    return json.dumps(snapshot).encode() + b"\n"


async def ask(path: Path) -> dict[str, Any] | None:
    """The status of the supervisor, or None when none answers."""
    async for snapshot in listen(path, "status"):
        return snapshot
    return None


async def listen(path: Path, word: str) -> AsyncIterator[dict[str, Any]]:
    """Say a word and read what comes, until the supervisor hangs up. Nothing comes when none is there."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=_LINE_BYTES_MAX)
    except OSError:
        return
    try:
        writer.write(word.encode() + b"\n")
        while line := await reader.readline():
            yield json.loads(line)
    except OSError:
        return
    finally:
        writer.close()
