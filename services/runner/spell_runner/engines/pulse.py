"""Whether the Docker daemon of this machine answers: asked at most every other second, and waited for only shortly (shell)."""

import asyncio
import contextlib
import time

ANSWER_SECONDS_MAX = 1.0
FRESH_SECONDS = 2.0
_PING = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"


class Pulse:
    """One for the machine; `socket` is the path of the daemon's."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._beats = False
        self._asked_at: float | None = None

    async def beats(self) -> bool:
        """Whether it answers, or did a moment ago."""
        if self._asked_at is None or time.monotonic() - self._asked_at > FRESH_SECONDS:
            self._beats = await self._ask()
            self._asked_at = time.monotonic()
        return self._beats

    async def _ask(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(_PING)
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        return False
