"""Files over https on the loopback interface, and a forward proxy in front of names that only it knows.

with files(directory, context) as port, proxy({"index.example.test:443": port}) as between:
    environment["SPELL_HTTPS_PROXY"] = between.url
    ...
    assert between.connects["index.example.test:443"]
"""

import asyncio
import base64
import contextlib
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def files(directory: Path, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve a directory, in plain http without a context; the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=directory)) as server:
        server.daemon_threads = True
        if context is not None:
            # On the thread of each connection, so that no client makes the others wait.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Proxy:
    """What a proxy was asked for. With a `login`, nobody gets through without it."""

    def __init__(self, ports: Mapping[str, int], login: str) -> None:
        self._ports = ports
        self._wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        self._login = f"{login}@" if login else ""
        self.connects: Counter[str] = Counter()
        self.refused = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._login}127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await self._admitted(reader, writer)
            method, target, _ = head.split(" ", 2)
            if method == "CONNECT" and target in self._ports:
                self.connects[target] += 1
                await self._join(reader, writer, self._ports[target])
            else:
                writer.write(b"HTTP/1.1 502 Unknown\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def _admitted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """The head of the first request that has the login: git asks without it at first."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if not self._wanted or f"proxy-authorization: {self._wanted}".lower() in head.lower():
                return head
            self.refused += 1
            writer.write(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        onward = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Here\r\n\r\n")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pour(reader, onward[1]))
            tasks.create_task(_pour(onward[0], writer))


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def proxy(ports: Mapping[str, int], login: str = "") -> Iterator[Proxy]:
    """A forward proxy that leads `name:port` to a port of this machine, and nowhere else."""
    made = Proxy(ports, login)
    loop = asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
        made.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
