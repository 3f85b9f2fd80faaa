"""Routes under /code: repositories, commits, trees."""

from aiohttp import web
from pydantic import TypeAdapter

from spell_proto.http import json_response, read_json
from spell_proto.spec import Shape
from spell_proto.views import RepositoryList
from spell_storage import answers
from spell_storage.code import Code


class _NewRepository(Shape):
    root_commit: str
    name: str


_NEW_REPOSITORY: TypeAdapter[_NewRepository] = TypeAdapter(_NewRepository)


class CodeRoutes:
    """Handlers of /code."""

    def __init__(self, code: Code) -> None:
        self._code = code

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/code/{owner_id}/commits/{sha}", self.commit)
        app.router.add_put("/code/{owner_id}/repositories", self.put_repository)
        app.router.add_get("/code/{owner_id}/repositories", self.repositories)
        app.router.add_get("/code/{owner_id}/{repository_id}/trees/{commit}", self.tree)

    async def commit(self, request: web.Request) -> web.Response:
        return json_response(await self._code.commit(answers.owner(request), request.match_info["sha"]))

    async def put_repository(self, request: web.Request) -> web.Response:
        new = await read_json(request, _NEW_REPOSITORY)
        owner_id = answers.owner(request)
        return json_response(await self._code.put_repository(owner_id, new.root_commit, new.name))

    async def repositories(self, request: web.Request) -> web.Response:
        found = await self._code.repositories(answers.owner(request))
        return json_response(RepositoryList(repositories=found))

    async def tree(self, request: web.Request) -> web.StreamResponse:
        repository_id = answers.number(request.match_info["repository_id"], "repository_id", least=1)
        files = await self._code.tree(answers.owner(request), repository_id, request.match_info["commit"])
        return await answers.streamed(request, files, {"Content-Type": answers.BYTES})
