"""Where a runner on another machine finds the archive of an environment: it waits here until there is one."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from spell_builder import layers
from spell_builder.builder import Builder
from spell_builder.errors import PushError
from spell_builder.flight import Flight, GivenUpError
from spell_builder.requests import Requests
from spell_builder.sharing import Sharing
from spell_proto import http, logs
from spell_proto.environments import ArchiveAsked, ArchiveView, Python
from spell_proto.errors import ConflictError, NotFoundError, UnavailableError

log = logs.get()

KEEP_ALIVE_SECONDS = 10.0
WAITING = "The environment is on its way to the shared cache; waiting for it"
_ASKED: TypeAdapter[ArchiveAsked] = TypeAdapter(ArchiveAsked)


class ArchiveRoutes:
    """The handler of /environments/{key}/archive."""

    def __init__(self, builder: Builder, requests: Requests, sharing: Sharing | None) -> None:
        self._builder = builder
        self._requests = requests
        self._sharing = sharing

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/environments/{key:[0-9a-f]{64}}/archive", self.archive)

    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Stream signs of life until the archive is stored, then where it is. No outcome means: ask again."""
        key = request.match_info["key"]
        asked = await http.read_json(request, _ASKED)
        if self._sharing is None:
            raise ConflictError(
                "environments_not_shared",
                f"environment {key[:12]} is on another machine, and the builder shares none (SPELL_SHARE_ENVIRONMENTS)",
            )
        try:
            flight = await self._begun(self._sharing, key, asked)
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
                await response.write(await self._outcome(self._sharing, key, asked, flight))
                await response.write_eof()
            except GivenUpError as error:
                log.info("an archive cannot be had now", key=key, problem=str(error))
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _begun(self, sharing: Sharing, key: str, asked: ArchiveAsked) -> Flight | None:
        """The flight that brings the archive to where it can be fetched; none where it is there already."""
        if asked.damaged is not None:
            await sharing.examine(key, asked.damaged)
        if await sharing.find(key) is not None:
            return None
        if not self._builder.there(key):
            raise NotFoundError("environment_unknown", f"environment {key[:12]} is not there any more")
        return sharing.push(key)

    async def _outcome(self, sharing: Sharing, key: str, asked: ArchiveAsked, flight: Flight | None) -> bytes:
        try:
            if flight is not None:
                flight.outcome()
        except PushError as error:
            if asked.fetching and error.passing:
                raise GivenUpError(str(error)) from error
            message = f"the environment could not be shared: {error}"
            return orjson.dumps({"failed": {"message": message}}) + b"\n"
        archive = await sharing.find(key, fetching=asked.fetching)
        made = await self._requests.by_key(key)
        if archive is None or made is None:
            raise GivenUpError("it was removed just now")
        own = made.interpreter is None or layers.is_conda(made.resolved)
        python = None if own or made.interpreter is None else Python(**asdict(made.interpreter))
        view = ArchiveView(
            digest=archive.digest,
            size=archive.size,
            content=archive.content,
            path=archive.path,
            python=python,
        )
        return orjson.dumps({"ready": view.model_dump()}) + b"\n"


async def told(flight: Flight) -> AsyncIterator[bytes]:
    """The lines of a flight as they come, with signs of life between them."""
    seen = 0
    while not flight.over or seen < len(flight.lines):
        lines = await flight.more(seen, KEEP_ALIVE_SECONDS)
        seen += len(lines)
        members: list[dict[str, Any]] = [{"line": line.text, "level": line.level} for line in lines]
        if members or not flight.over:
            yield b"".join(orjson.dumps(member) + b"\n" for member in members or [{}])
