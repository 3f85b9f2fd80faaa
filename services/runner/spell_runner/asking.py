"""How another service is asked for what an attempt cannot go on without: patiently, its lines passed on as they come (shell)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import orjson

from spell_proto import logs
from spell_proto.errors import UnavailableError
from spell_proto.http import Caller
from spell_proto.state import Reason
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes

log = logs.get()
T = TypeVar("T")

RETRY_SECONDS_MAX = 5.0
SAY_AFTER_SECONDS = 3.0
#: A service keeps a stream alive with empty lines; silence this long means that it is gone.
SILENCE_SECONDS_MAX = 120.0


async def until_answered(
    ask: Callable[[], Awaitable[T]], notes: Notes, run_id: int, service: str, waiting: str
) -> T:
    """What `ask` answers, asked again for as long as `service` is away; `waiting` is what the run's log then says.

    Raises:
        RefusedError: the service refused.
        AttemptError: the service could not do it.
    """
    away = f"{service} does not answer"
    began, pause, said = time.monotonic(), 0.1, False
    while True:
        try:
            return await ask()
        except (UnavailableError, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info(away, run_id=run_id, problem=repr(error))
            if not said and time.monotonic() - began > SAY_AFTER_SECONDS:
                said = True
                notes.line(waiting)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)


async def last_word(
    caller: Caller,
    service: str,
    path: str,
    body: dict[str, Any],
    notes: Notes,
    reason: Reason,
    alive: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """What a service has ready after work that it writes lines about: those go into the run's log. `alive` is called at each
    sign of life.

    Raises:
        AttemptError: the service could not do it; the run fails with `reason`.
        RefusedError: the service refused.
        UnavailableError: it does not answer, or broke off.
        TimeoutError: it fell silent.
        ClientError: aiohttp's, the connection broke.
    """
    data, headers = orjson.dumps(body), {"Content-Type": "application/json"}
    async with caller.open("POST", path, data=data, headers=headers, stream=True) as response:
        rest = b""
        while True:
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                read = await response.content.readany()
            if not read:
                raise UnavailableError("unavailable", f"{service} broke off")
            if alive is not None:
                alive()
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                ready = _ready(orjson.loads(line or b"{}"), notes, reason)
                if ready is not None:
                    return ready


def _ready(message: dict[str, Any], notes: Notes, reason: Reason) -> dict[str, Any] | None:
    match message:
        case {"line": str(text)}:
            notes.line(text, level="error" if message.get("level") == "error" else "info")
        case {"ready": dict(ready)}:
            return ready
        case {"failed": {"message": str(text)}}:
            raise AttemptError(reason, text)
        case _:
            pass
    return None
