"""Routes for registries of images: which have a login, and what each is told."""

import hmac

from aiohttp import web
from pydantic import TypeAdapter

from spell_proto.errors import RefusedError, shown
from spell_proto.http import json_response, read_json
from spell_proto.registries import RegistryList
from spell_proto.shapes import Shape
from spell_storage.registries import Registries


class _NewLogin(Shape):
    username: str | None = None
    password: str | None = None


_NEW_LOGIN: TypeAdapter[_NewLogin] = TypeAdapter(_NewLogin)


class RegistryRoutes:
    """Handlers of /registries. Whoever asks for a login has to have the `token`: what runs without namespaces on a machine
    reaches our address as its runner does. Without a token nobody is told any.
    """

    def __init__(self, registries: Registries, token: str) -> None:
        self._registries = registries
        self._expected = f"Bearer {token}".encode() if token else b""

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
        registry = request.match_info["registry"]
        if not self._may(request):
            # That there is none is no secret, and public images need none.
            await self._registries.see(registry)
            raise _not_told(registry)
        return json_response(await self._registries.login(registry))

    def _may(self, request: web.Request) -> bool:
        said = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        return bool(self._expected) and hmac.compare_digest(said, self._expected)


def _not_told(registry: str) -> RefusedError:
    refused = RefusedError(
        "registry_login_withheld",
        f"the login of {shown(registry)} is told to nobody who does not know the token of the cluster: an operator sets "
        "SPELL_REGISTRY_TOKEN, the same for storage, builder and runners",
    )
    refused.status = 403
    return refused
