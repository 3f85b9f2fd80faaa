"""The routes that say how much of the store an owner has, and whether he may have more."""

from aiohttp import web

from spell_proto.http import json_response
from spell_storage import answers
from spell_storage.quotas import Quotas


class QuotaRoutes:
    """Handler of /files."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/files/{owner_id}/use", self.use)
        app.router.add_get("/files/{owner_id}/room", self.room)

    async def use(self, request: web.Request) -> web.Response:
        return json_response(await self._quotas.use(answers.owner(request)))

    async def room(self, request: web.Request) -> web.Response:
        """Refused where there is none."""
        await self._quotas.check_not_full(answers.owner(request))
        return web.Response(status=204)
