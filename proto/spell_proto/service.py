"""How a service starts and stops: logs, event loop, one stop event from SIGTERM and SIGINT, exit 0 after a drain."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import metadata

import uvloop

from spell_proto import logs
from spell_proto.errors import SettingsError

#: How long a drain may take before the process gives up and leaves the rest to recovery.
DRAIN_SECONDS_MAX = 25.0

Main = Callable[[asyncio.Event], Awaitable[None]]


def version() -> str:
    """The version of the installed distribution."""
    return metadata.version("spellrun")


def run(name: str, main: Main) -> None:
    """Run a service until SIGTERM or SIGINT; `main` gets the event that is set then and returns when drained.

    A second signal, or a drain longer than `DRAIN_SECONDS_MAX`, ends the process at once: kill -9 is safe at
    every line, so leaving early costs a recovery and nothing else.
    """
    logs.configure(name)
    # A child that ignores SIGCHLD would make every wait() of ours hang.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        logs.configure(name, logs.checked_level(os.environ.get("SPELL_LOG_LEVEL") or "info"))
        uvloop.run(_until_stopped(main))
    except SettingsError as error:
        logs.get().error("cannot start", problem=str(error))
        sys.exit(78)


async def _until_stopped(main: Main) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()
        loop.call_later(DRAIN_SECONDS_MAX, os._exit, 1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    await main(stop)


async def ticker(stop: asyncio.Event, seconds: float, *, wake: asyncio.Event | None = None) -> bool:
    """Wait until `seconds` have passed or `wake` is set, and say whether to go on: False once `stop` is set."""
    waiters = {asyncio.ensure_future(event.wait()) for event in (stop, wake) if event is not None}
    try:
        await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
    if wake is not None:
        wake.clear()
    return not stop.is_set()


class Pace:
    """Batches grow under load: one that follows the last within a few milliseconds waits a moment for company.

    On a quiet system nothing waits. `gather` before a batch is taken, `done` after it was handled.
    """

    BUSY_SECONDS = 0.006
    GATHER_SECONDS = 0.004

    def __init__(self) -> None:
        self._done_at = 0.0

    async def gather(self) -> None:
        if time.monotonic() - self._done_at < self.BUSY_SECONDS:
            await asyncio.sleep(self.GATHER_SECONDS)

    def done(self) -> None:
        self._done_at = time.monotonic()
