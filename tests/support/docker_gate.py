"""A socket in front of a Docker daemon, at which a test says what becomes of questions."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

HEAD_SECONDS_MAX = 5.0


class Gate:
    """Passes every connection on, but those whose beginning matches `hung`, which get no answer, `broken`, which is broken
    off, or `odd`, which is answered with an empty object.
    """

    def __init__(self, behind: Path) -> None:
        self.behind = behind
        self.hung = self.broken = self.odd = None
        self.asked: list[bytes] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            first = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", first)
            first += await reader.readexactly(int(length[1])) if length else b""
            self.asked.append(first)
            if self.broken is not None and self.broken.search(first):
                return
            if self.odd is not None and self.odd.search(first):
                writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}")
                return
            if self.hung is not None and self.hung.search(first):
                await reader.read()
                return
            there, onward = await asyncio.open_unix_connection(str(self.behind))
            with contextlib.closing(onward):
                # One question for each connection: the next one has to be looked at as well.
                onward.write(first.replace(b"\r\nHost:", b"\r\nConnection: close\r\nHost:", 1))
                await asyncio.wait(
                    [asyncio.ensure_future(_pipe(*ends)) for ends in ((reader, onward), (there, writer))],
                    return_when=asyncio.FIRST_COMPLETED,
                )


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def gate(daemon: Path, socket: Path) -> AsyncIterator[Gate]:
    """A gate at `socket` while the context is open."""
    made = Gate(daemon)
    server = await asyncio.start_unix_server(made.take, str(socket), limit=1 << 22)
    try:
        yield made
    finally:
        server.close()
