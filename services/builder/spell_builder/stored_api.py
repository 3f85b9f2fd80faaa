"""Where a runner on another machine finds what is stored of an environment: it waits here until there is something."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from spell_builder.builder import Builder
from spell_builder.errors import PushError
from spell_builder.flight import Flight, GivenUpError
from spell_builder.pushes import Pushes
from spell_proto import http, logs
from spell_proto.environments import ArchiveAsked
from spell_proto.errors import ConflictError, NotFoundError, UnavailableError

log = logs.get()

KEEP_ALIVE_SECONDS = 10.0
WAITING = "The environment is on its way to the shared cache; waiting for it"
_ASKED: TypeAdapter[ArchiveAsked] = TypeAdapter(ArchiveAsked)


class StoredRoutes:
    """The handler of /environments/{key}/<kind>. `pushes` is what stores them; `setting` is what has it store them."""

    kind: str
    setting: str

    def __init__(self, builder: Builder, pushes: Pushes | None) -> None:
        self._builder = builder
        self._pushes = pushes

    def add_to(self, app: web.Application) -> None:
        app.router.add_post(f"/environments/{{key:[0-9a-f]{{64}}}}/{self.kind}", self.answer)

    async def _suspect(self, key: str, damaged: str) -> None:
        """Somebody found what is stored damaged: where it is, nobody is told of it any more."""
        raise NotImplementedError

    async def _view(self, key: str, *, fetching: bool) -> dict[str, Any] | None:
        """What is told of an environment; None where it is not stored."""
        raise NotImplementedError

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Stream signs of life until it is stored, then where it is. No outcome means: ask again."""
        key = request.match_info["key"]
        asked = await http.read_json(request, _ASKED)
        if self._pushes is None:
            raise ConflictError(
                "environments_not_shared",
                f"environment {key[:12]} is on another machine, and the builder shares none ({self.setting})",
            )
        try:
            flight = await self._begun(self._pushes, key, asked)
        except GivenUpError as error:
            raise UnavailableError("unavailable", str(error)) from error
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            try:
                if flight is not None:
                    if asked.fetching:
                        await response.write(orjson.dumps({"line": WAITING}) + b"\n")
                    async for part in told(flight):
                        await response.write(part)
                await response.write(await self._outcome(key, asked, flight))
                await response.write_eof()
            except GivenUpError as error:
                log.info("an environment cannot be had now", key=key, problem=str(error))
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _begun(self, pushes: Pushes, key: str, asked: ArchiveAsked) -> Flight | None:
        """The flight that stores it; none where it is stored already."""
        if asked.damaged is not None:
            await self._suspect(key, asked.damaged)
        if await self._view(key, fetching=False) is not None:
            return None
        if not self._builder.there(key):
            raise NotFoundError("environment_unknown", f"environment {key[:12]} is not there any more")
        return pushes.push(key)

    async def _outcome(self, key: str, asked: ArchiveAsked, flight: Flight | None) -> bytes:
        try:
            if flight is not None:
                flight.outcome()
        except PushError as error:
            if asked.fetching and error.passing:
                raise GivenUpError(str(error)) from error
            message = f"the environment could not be shared: {error}"
            return orjson.dumps({"failed": {"message": message}}) + b"\n"
        view = await self._view(key, fetching=asked.fetching)
        if view is None:
            raise GivenUpError("it was removed just now")
        return orjson.dumps({"ready": view}) + b"\n"


async def told(flight: Flight) -> AsyncIterator[bytes]:
    """The lines of a flight as they come, with signs of life between them."""
    seen = 0
    while not flight.over or seen < len(flight.lines):
        lines = await flight.more(seen, KEEP_ALIVE_SECONDS)
        seen += len(lines)
        members: list[dict[str, Any]] = [{"line": line.text, "level": line.level} for line in lines]
        if members or not flight.over:
            yield b"".join(orjson.dumps(member) + b"\n" for member in members or [{}])
