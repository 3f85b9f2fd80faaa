"""Finds or has built the environment of an attempt, remembering what it has seen for a while (shell)."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
from pydantic import TypeAdapter

from spell_proto import logs
from spell_proto.errors import NotFoundError, RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.spec import EnvironmentRequest, Shape
from spell_proto.state import Reason
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes

log = logs.get()

REMEMBER_SECONDS = 3600.0
RETRY_SECONDS_MAX = 5.0
#: The builder keeps a stream alive with empty lines; silence this long means that it is gone.
SILENCE_SECONDS_MAX = 120.0
SAY_AFTER_SECONDS = 3.0
CACHED = "Retrieving cached environment..."


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
            notes.line(CACHED)
            return seen.path
        began, pause, said = time.monotonic(), 0.1, False
        while True:
            try:
                path = await self._ask(digest, run_id, request, notes)
            except (UnavailableError, aiohttp.ClientError, TimeoutError, OSError) as error:
                log.info("the builder does not answer", run_id=run_id, problem=repr(error))
                if not said and time.monotonic() - began > SAY_AFTER_SECONDS:
                    said = True
                    notes.line("The builder does not answer; waiting for it")
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            except RefusedError as error:
                raise AttemptError(Reason.BUILD_FAILED, error.message) from error
            else:
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
        body = orjson.dumps({"run_id": run_id, "environment": request.model_dump()})
        headers = {"Content-Type": "application/json"}
        async with self._builder.open(
            "POST", "/environments/ensure", data=body, headers=headers, stream=True
        ) as response:
            rest = b""
            while True:
                async with asyncio.timeout(SILENCE_SECONDS_MAX):
                    data = await response.content.readany()
                if not data:
                    raise UnavailableError("unavailable", "the builder broke off")
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    path = _said(orjson.loads(line or b"{}"), notes)
                    if path is not None:
                        return path


def _said(message: dict[str, object], notes: Notes) -> Path | None:
    match message:
        case {"line": str(text)}:
            notes.line(text, level="error" if message.get("level") == "error" else "info")
        case {"ready": {"path": str(path), **more}}:
            if more.get("cached"):
                notes.line(CACHED)
            return Path(path)
        case {"failed": {"message": str(text)}}:
            raise AttemptError(Reason.BUILD_FAILED, text)
        case _:
            pass
    return None
