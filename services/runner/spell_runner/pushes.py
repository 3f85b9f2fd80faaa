"""Waits at the end of a run until its environment has reached the shared cache (shell)."""

import asyncio
import time

import aiohttp

from spell_proto import logs
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.state import Reason
from spell_runner import asking
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes

log = logs.get()

#: How long a builder that does not answer is waited for: nothing of the run is lost without it.
AWAY_SECONDS_MAX = 60.0
_PAUSE_SECONDS_MAX = 5.0


async def until_stored(builder: Caller, path: str, run_id: int, notes: Notes) -> None:
    """Wait until an environment is stored, or is not going to be. The run's log says so then: it is no worse for it.

    `path` is where the builder tells.
    """
    heard, pause = time.monotonic(), 0.1

    def alive() -> None:
        nonlocal heard, pause
        heard, pause = time.monotonic(), 0.1

    while True:
        try:
            await asking.last_word(builder, "the builder", path, {}, notes, Reason.BUILD_FAILED, alive)
        except (UnavailableError, aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("the builder does not answer", run_id=run_id, problem=repr(error))
            if time.monotonic() - heard > AWAY_SECONDS_MAX:
                notes.line("The builder does not answer; the environment may not be saved")
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)
        except (AttemptError, RefusedError) as error:
            notes.line(f"The environment is not saved for other machines: {error}")
            return
        else:
            return
