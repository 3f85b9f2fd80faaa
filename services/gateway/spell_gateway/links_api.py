"""HTTP for links: names that people give to resources."""

from aiohttp import web
from pydantic import TypeAdapter

from spell_gateway import asked
from spell_gateway.files import Files
from spell_gateway.routes import Route
from spell_gateway.shapes import User
from spell_gateway.storage import Storage
from spell_proto import resources
from spell_proto.errors import InvalidError, NotFoundError, shown
from spell_proto.http import json_response
from spell_proto.uploads import LinkList, LinkRequest, LinkView

REQUEST = TypeAdapter(LinkRequest)
NO_LINK = {404: "no link of that name"}


class LinksApi:
    """Answers under /api/links."""

    def __init__(self, files: Files, storage: Storage) -> None:
        self._files = files
        self._storage = storage

    async def all(self, request: web.Request, user: User) -> web.Response:
        del request  # nothing in it matters
        return json_response(await self._storage.links(user.id))

    async def one(self, request: web.Request, user: User) -> web.Response:
        return json_response(await self._storage.link(user.id, _alias(request)))

    async def put(self, request: web.Request, user: User) -> web.Response:
        alias = resources.alias(request.match_info["alias"])
        target = (await asked.body(request, REQUEST)).target
        found = await self._files.linkable(user, target)
        return json_response(await self._storage.put_link(user.id, alias, found.text))

    async def delete(self, request: web.Request, user: User) -> web.Response:
        await self._storage.remove_link(user.id, _alias(request))
        return web.Response(status=204)

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("GET", "/api/links", self.all, "List the links", "files", LinkList),
            Route("GET", "/api/links/{alias}", self.one, "Show a link", "files", LinkView, also=NO_LINK),
            Route("PUT", "/api/links/{alias}", self.put, "Name a resource, or something in one", "files", LinkView, LinkRequest, also={404: "there is no such resource", 409: "the name leads elsewhere already"}),
            Route("DELETE", "/api/links/{alias}", self.delete, "Take a link away; what it leads to stays", "files", None, status=204, also=NO_LINK),
        ]
        # fmt: on


def _alias(request: web.Request) -> str:
    """A name that no link can have is one that no link has."""
    alias = request.match_info["alias"]
    try:
        return resources.alias(alias)
    except InvalidError:
        raise NotFoundError(
            "link_not_found", f"No links with alias {shown(alias)} found.", field="alias"
        ) from None
