"""The runner's end of the fork server: starts it when it is not there, and tells it what to start (shell)."""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import spell_proto.journal
from spell_proto import logs
from spell_runner.shim import (
    container,
    daemon,
    launch,
    linux,
    memory,
    processes,
    room,
    sandbox,
    server,
    shim,
    sink,
)

log = logs.get()

UP_SECONDS_MAX = 10.0
_BOOT = (
    "import sys; sys.path[:0] = sys.argv[1:3]; from spell_runner.shim.server import main; main(sys.argv[3:])"
)
_MODULES = (
    spell_proto.journal,
    container,
    daemon,
    launch,
    linux,
    memory,
    processes,
    room,
    sandbox,
    server,
    shim,
    sink,
)


class ShimServer:
    """One for the machine. The server lives longer than we do."""

    def __init__(self, data: Path, linger_seconds: float) -> None:
        self._data = data
        self._linger = linger_seconds
        self._code = hashlib.sha256(b"".join(_source(module.__file__) for module in _MODULES)).hexdigest()
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def open(self) -> None:
        """Connect, starting the server where there is none, or one of other code."""
        async with self._lock:
            if self._writer is None or self._writer.is_closing():
                async with asyncio.timeout(UP_SECONDS_MAX):
                    self._writer = await self._connect()

    async def close(self) -> None:
        """Leave the server alone: it ends by itself when nobody else comes."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def start(self, name: str) -> None:
        """Have a shim forked for an attempt. A server that died has not done it: the attempt stays unclaimed."""
        await self.open()
        assert self._writer is not None
        self._writer.write(f"start {name}\n".encode())

    async def _connect(self) -> asyncio.StreamWriter:
        pause = 0.002
        while True:
            try:
                reader, writer = await self._dial()
                greeting = (await reader.readline()).strip()
            except OSError:
                self._launch()
            else:
                if greeting == self._code.encode():
                    return writer
                # Code from before an update: its shims go on, new ones come from the new server.
                with contextlib.suppress(OSError):
                    writer.write(b"retire\n")
                    await writer.drain()
                    await reader.read()
                writer.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        fd = os.open(self._data, os.O_PATH | os.O_CLOEXEC)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/{server.SOCKET}")
        finally:
            os.close(fd)

    def _launch(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        paths = [str(Path(module.__file__ or "").parent.parent) for module in (spell_proto.journal, launch)]
        paths[1] = str(Path(paths[1]).parent)
        argv = [sys.executable, "-I", "-S", "-c", _BOOT, *paths]
        argv += [str(self._data), self._code, str(self._linger)]
        with (self._data / "shimd.log").open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        log.info("fork server started", pid=self._process.pid)


def _source(path: str | None) -> bytes:
    assert path is not None
    return Path(path).read_bytes()
