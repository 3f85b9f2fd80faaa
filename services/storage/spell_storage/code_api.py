"""Routes under /code: repositories, commits, packs, patches."""

from aiohttp import web
from pydantic import TypeAdapter

from spell_proto.http import json_response, read_json
from spell_proto.shapes import Shape
from spell_proto.views import PackAsked, RepositoryList
from spell_storage import answers, git
from spell_storage.code import Code
from spell_storage.packs import Packs


class _NewRepository(Shape):
    root_commit: str
    name: str


_NEW_REPOSITORY: TypeAdapter[_NewRepository] = TypeAdapter(_NewRepository)
_PACK_ASKED: TypeAdapter[PackAsked] = TypeAdapter(PackAsked)


class CodeRoutes:
    """Handlers of /code."""

    def __init__(self, code: Code, repositories: git.Repositories) -> None:
        self._code = code
        self._packs = Packs(code, repositories)

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/code/{owner_id}/commits/{sha}", self.commit)
        app.router.add_put("/code/{owner_id}/repositories", self.put_repository)
        app.router.add_get("/code/{owner_id}/repositories", self.repositories)
        app.router.add_post("/code/{owner_id}/{repository_id}/pack", self.pack)
        app.router.add_get("/code/{owner_id}/{repository_id}/patch", self.patch)

    async def commit(self, request: web.Request) -> web.Response:
        return json_response(await self._code.commit(answers.owner(request), request.match_info["sha"]))

    async def put_repository(self, request: web.Request) -> web.Response:
        new = await read_json(request, _NEW_REPOSITORY)
        owner_id = answers.owner(request)
        return json_response(await self._code.put_repository(owner_id, new.root_commit, new.name))

    async def repositories(self, request: web.Request) -> web.Response:
        found = await self._code.repositories(answers.owner(request))
        return json_response(RepositoryList(repositories=found))

    async def pack(self, request: web.Request) -> web.StreamResponse:
        asked = await read_json(request, _PACK_ASKED)
        pieces = await self._packs.pack(answers.owner(request), _repository(request), asked)
        # git may count objects for a long time before the pack begins; the head shows that it has been asked to.
        return await answers.streamed(request, pieces, {"Content-Type": answers.BYTES}, at_once=True)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        pieces = await self._packs.patch(
            answers.owner(request),
            _repository(request),
            request.query.get("from", ""),
            request.query.get("to", ""),
        )
        return await answers.streamed(request, pieces, {"Content-Type": answers.BYTES})


def _repository(request: web.Request) -> int:
    return answers.number(request.match_info["repository_id"], "repository_id", least=1)
