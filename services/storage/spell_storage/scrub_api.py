"""The route that checks all stored files."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from spell_proto.codec import encode
from spell_storage import answers
from spell_storage.scrub import Scrub

LINES = "application/x-ndjson"


class ScrubRoutes:
    """Handler of /scrub."""

    def __init__(self, scrub: Scrub) -> None:
        self._scrub = scrub

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/scrub", self.scrub)

    async def scrub(self, request: web.Request) -> web.StreamResponse:
        return await answers.streamed(request, self._lines(), {"Content-Type": LINES}, at_once=True)

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._scrub.lines()) as lines:
            async for line in lines:
                yield encode(line) + b"\n"
