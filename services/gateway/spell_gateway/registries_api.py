"""HTTP for private registries of images: which have a login. No answer holds a password."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, TypeAdapter

from spell_gateway import asked
from spell_gateway.accounts import Accounts
from spell_gateway.auth import only_admins
from spell_gateway.routes import ADMIN, Route
from spell_gateway.shapes import User
from spell_gateway.storage import Storage
from spell_proto.http import json_response
from spell_proto.images import registry_name
from spell_proto.registries import RegistryList, RegistryView
from spell_proto.shapes import Shape


class RegistryGiven(Shape):
    """What a registry is told: a user name and a password or access token, for one of Amazon's an access key. Without
    both, the role of the cluster gets the logins of a registry of Amazon's. It is tried before it is stored.
    """

    username: Annotated[str | None, Field(max_length=255)] = None
    password: Annotated[str | None, Field(max_length=16_384)] = None


GIVEN = TypeAdapter(RegistryGiven)


class RegistriesApi:
    """Answers about private registries."""

    def __init__(self, accounts: Accounts, storage: Storage) -> None:
        self._accounts = accounts
        self._storage = storage

    async def all(self, request: web.Request, user: User) -> web.Response:
        del request  # nothing in it matters
        only_admins(user)
        return json_response(await self._storage.registries())

    async def put(self, request: web.Request, user: User) -> web.Response:
        only_admins(user)
        registry = registry_name(request.match_info["registry"])
        given = await asked.body(request, GIVEN, secret=True)
        # On record before it happens: what is done is never without its record, whatever breaks in between.
        await self._accounts.note(user, "registry login sent", registry)
        return json_response(await self._storage.put_registry(registry, given))

    async def delete(self, request: web.Request, user: User) -> web.Response:
        only_admins(user)
        registry = registry_name(request.match_info["registry"])
        await self._accounts.note(user, "registry login withdrawn", registry)
        await self._storage.delete_registry(registry)
        return web.Response(status=204)

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("GET", "/api/registries", self.all, "List the private registries with a stored login", "code", RegistryList, also=ADMIN),
            Route("PUT", "/api/registries/{registry}", self.put, "Store a login for a registry, if it takes it; it is never shown again", "code", RegistryView, RegistryGiven, also=ADMIN),
            Route("DELETE", "/api/registries/{registry}", self.delete, "Delete the login for a registry", "code", None, status=204, also=ADMIN | {404: "none is stored for it"}),
        ]
        # fmt: on
