"""The scheduler as the builder sees it: which runs have not ended (shell)."""

from collections.abc import Sequence

from aiohttp import ClientError
from pydantic import TypeAdapter

from spell_proto import logs
from spell_proto.environments import RunsAsked
from spell_proto.errors import RefusedError
from spell_proto.http import Caller

log = logs.get()

_RUNS = TypeAdapter(RunsAsked)


class Runs:
    """One question. Without an answer every run counts as one that goes on."""

    def __init__(self, scheduler: Caller) -> None:
        self._scheduler = scheduler

    async def active(self, run_ids: Sequence[int]) -> set[int]:
        try:
            asked = RunsAsked(run_ids=tuple(run_ids))
            return set((await self._scheduler.call("POST", "/runs/active", _RUNS, body=asked)).run_ids)
        except (RefusedError, ClientError, TimeoutError, OSError) as error:
            log.info("the scheduler does not answer", problem=repr(error))
            return set(run_ids)
