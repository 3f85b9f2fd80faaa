"""Finds or has built the environment of an attempt, remembering what it has seen for a while (shell)."""

import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from spell_proto.errors import NotFoundError, RefusedError
from spell_proto.http import Caller
from spell_proto.spec import EnvironmentRequest, Shape
from spell_proto.state import Reason
from spell_runner import asking
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes

REMEMBER_SECONDS = 3600.0
CACHED = "Retrieving cached environment..."
#: What a run gets that asks for nothing.
BARE = "Python alone, without packages: --framework and --pip add some (spell frameworks lists the first)"
WAITING = "The builder does not answer; waiting for it"


class Resolved(Shape):
    key: str
    path: str


_RESOLVED: TypeAdapter[Resolved] = TypeAdapter(Resolved)


@dataclass(frozen=True, slots=True)
class _Seen:
    path: Path
    at: float


class Environments:
    """One for the machine."""

    def __init__(self, builder: Caller) -> None:
        self._builder = builder
        self._seen: dict[str, _Seen] = {}

    async def get(self, run_id: int, request: EnvironmentRequest, notes: Notes) -> Path:
        """The directory of the environment; waits for as long as the builder is away.

        Raises:
            AttemptError: it cannot be built.
        """
        digest = request.digest()
        # The builder is told of each run that uses packages: what is used is kept, and may be built anew meanwhile.
        seen = self._seen.get(digest) if request.bare else None
        if seen and time.monotonic() - seen.at < REMEMBER_SECONDS and (seen.path / "bin/python").exists():
            notes.lines([CACHED, BARE])
            return seen.path

        async def ask() -> Path:
            return await self._ask(digest, run_id, request, notes)

        try:
            path = await asking.until_answered(ask, notes, run_id, "the builder", WAITING)
        except RefusedError as error:
            raise AttemptError(Reason.BUILD_FAILED, error.message) from error
        if request.bare:
            notes.line(BARE)
        self._seen[digest] = _Seen(path, time.monotonic())
        return path

    async def _ask(self, digest: str, run_id: int, request: EnvironmentRequest, notes: Notes) -> Path:
        if request.latest:
            return await self._build(run_id, request, notes)
        params = {} if request.bare else {"run_id": run_id}
        try:
            found = await self._builder.call(
                "GET", f"/environments/resolved/{digest}", _RESOLVED, params=params
            )
        except NotFoundError:
            return await self._build(run_id, request, notes)
        notes.line(CACHED)
        return Path(found.path)

    async def _build(self, run_id: int, request: EnvironmentRequest, notes: Notes) -> Path:
        body = {"run_id": run_id, "environment": request.model_dump()}
        ready = await asking.last_word(
            self._builder, "the builder", "/environments/ensure", body, notes, Reason.BUILD_FAILED
        )
        if ready.get("cached"):
            notes.line(CACHED)
        return Path(ready["path"])
