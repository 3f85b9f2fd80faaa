"""Routes under /archives: packed environments, which belong to the platform and to no owner.

They are kept apart from blobs, under names of their own, so no request in an owner's name can reach one, and removing
one takes nothing from anybody. What there should be is the builder's to know.
"""

from aiohttp import web

from spell_proto.errors import NotFoundError
from spell_storage import answers
from spell_storage.blob_api import pieces_of
from spell_storage.blobs import checked
from spell_storage.objects import Objects


class ArchiveRoutes:
    """Handlers of /archives."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def add_to(self, app: web.Application) -> None:
        app.router.add_put("/archives/{sha256}", self.put)
        app.router.add_get("/archives/{sha256}", self.get)
        app.router.add_delete("/archives/{sha256}", self.remove)

    async def put(self, request: web.Request) -> web.Response:
        digest = answers.sha256(request.match_info["sha256"], "sha256")
        await self._objects.put_stream(_key(digest), checked(digest, pieces_of(request)))
        return web.Response(status=201, body=b"{}", content_type="application/json")

    async def get(self, request: web.Request) -> web.StreamResponse:
        digest = answers.sha256(request.match_info["sha256"], "sha256")
        size = await self._objects.size(_key(digest))
        if size is None:
            raise NotFoundError("archive_unknown", f"no archive {digest}")
        return await answers.range_response(
            request,
            size,
            lambda first, length: self._objects.stream(_key(digest), first, length),
            {"ETag": f'"{digest}"'},
        )

    async def remove(self, request: web.Request) -> web.Response:
        await self._objects.remove(_key(answers.sha256(request.match_info["sha256"], "sha256")))
        return web.Response(body=b"{}", content_type="application/json")


def _key(digest: str) -> str:
    return f"archives/{digest[:2]}/{digest}"
