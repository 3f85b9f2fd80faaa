"""Routes for registries of images: which have a login, and what each is told."""

from aiohttp import web
from pydantic import TypeAdapter

from spell_proto.http import json_response, read_json
from spell_proto.registries import RegistryList
from spell_proto.spec import Shape
from spell_storage.registries import Registries


class _NewLogin(Shape):
    username: str | None = None
    password: str | None = None


_NEW_LOGIN: TypeAdapter[_NewLogin] = TypeAdapter(_NewLogin)


class RegistryRoutes:
    """Handlers of /registries. Only services and machines of this installation reach them."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/registries", self.all)
        app.router.add_put("/registries/{registry}", self.put)
        app.router.add_delete("/registries/{registry}", self.remove)
        app.router.add_get("/registries/{registry}/login", self.login)

    async def all(self, _request: web.Request) -> web.Response:
        return json_response(
            RegistryList(registries=await self._registries.all(), aws_role=self._registries.role or None)
        )

    async def put(self, request: web.Request) -> web.Response:
        new = await read_json(request, _NEW_LOGIN, secret=True)
        return json_response(
            await self._registries.put(request.match_info["registry"], new.username, new.password)
        )

    async def remove(self, request: web.Request) -> web.Response:
        await self._registries.remove(request.match_info["registry"])
        return json_response({})

    async def login(self, request: web.Request) -> web.Response:
        return json_response(await self._registries.login(request.match_info["registry"]))
