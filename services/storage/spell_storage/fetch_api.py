"""Routes for code that is fetched from elsewhere: the fetch itself, hosts, and credentials for them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from spell_proto.http import json_response, read_json
from spell_proto.shapes import Shape
from spell_proto.spec import GithubSource
from spell_proto.views import Commit, GitCredentialsList, GitHosts
from spell_storage import answers
from spell_storage.credentials import Credentials
from spell_storage.fetcher import Fetcher, Flight
from spell_storage.remote_refs import FetchError

#: A sign of life is given so often. Until the first one, an answer can still be a plain refusal.
BEAT_SECONDS = 4.0


class _NewLogin(Shape):
    username: str
    password: str


_SOURCE: TypeAdapter[GithubSource] = TypeAdapter(GithubSource)
_NEW_LOGIN: TypeAdapter[_NewLogin] = TypeAdapter(_NewLogin)


class FetchRoutes:
    """Handlers of /code/{owner}/fetch, /git-hosts and /git-credentials."""

    def __init__(self, fetcher: Fetcher, credentials: Credentials) -> None:
        self._fetcher = fetcher
        self._credentials = credentials

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/code/{owner_id}/fetch", self.fetch)
        app.router.add_get("/git-hosts", self.hosts)
        app.router.add_get("/git-credentials", self.all)
        app.router.add_put("/git-credentials/{host}", self.put)
        app.router.add_delete("/git-credentials/{host}", self.remove)

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        source = await read_json(request, _SOURCE)
        flight = self._fetcher.follow(answers.owner(request), source)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            async with aclosing(_lines(flight)) as lines:
                async for line in lines:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(orjson.dumps(line) + b"\n")
            await response.write_eof()
        except Exception:
            # An answer that has begun cannot be refused any more: its end is missing.
            if response.prepared and request.transport is not None:
                request.transport.abort()
            raise
        return response

    async def hosts(self, _request: web.Request) -> web.Response:
        return json_response(GitHosts(hosts=self._credentials.hosts))

    async def all(self, _request: web.Request) -> web.Response:
        return json_response(GitCredentialsList(credentials=await self._credentials.all()))

    async def put(self, request: web.Request) -> web.Response:
        new = await read_json(request, _NEW_LOGIN, secret=True)
        host = request.match_info["host"]
        return json_response(await self._credentials.put(host, new.username, new.password))

    async def remove(self, request: web.Request) -> web.Response:
        await self._credentials.remove(request.match_info["host"])
        return json_response({})


async def _lines(flight: Flight) -> AsyncGenerator[dict[str, object]]:
    """What is told of a fetch."""
    try:
        async with aclosing(flight.updates(BEAT_SECONDS)) as updates:
            async for update in updates:
                match update:
                    case None:
                        yield {}
                    case str():
                        yield {"line": update, "level": "info"}
                    case Commit():
                        yield {"ready": update.model_dump()}
    except FetchError as error:
        yield {"failed": {"code": error.code, "message": error.message}}
