"""HTTP for code: repositories, the uncommitted changes of a run, and the hosts code is fetched from."""

from aiohttp import web
from pydantic import TypeAdapter

from spell_gateway import asked
from spell_gateway.accounts import Accounts
from spell_gateway.auth import only_admins
from spell_gateway.outlet import relay
from spell_gateway.routes import ADMIN, Route
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import GitCredentials, RepositoryRequest, User, host_name
from spell_gateway.storage import Storage
from spell_proto.http import json_response
from spell_proto.views import GitCredentialsList, GitCredentialsView, GitHosts, Repository, RepositoryList

REPOSITORY_REQUEST = TypeAdapter(RepositoryRequest)
CREDENTIALS = TypeAdapter(GitCredentials)
PATCH = "text/x-diff"
NO_RUN = {404: "no such run, or somebody else's"}


class CodeApi:
    """Answers about code."""

    def __init__(self, accounts: Accounts, scheduler: Scheduler, storage: Storage) -> None:
        self._accounts = accounts
        self._scheduler = scheduler
        self._storage = storage

    async def put_repository(self, request: web.Request, user: User) -> web.Response:
        wanted = await asked.body(request, REPOSITORY_REQUEST)
        return json_response(await self._storage.put_repository(user.id, wanted))

    async def repositories(self, request: web.Request, user: User) -> web.Response:
        del request  # nothing in it matters
        return json_response(await self._storage.repositories(user.id))

    async def patch(self, request: web.Request, user: User) -> web.StreamResponse:
        run = await self._scheduler.run(user.id, asked.run_id(request))
        headers = {
            "Content-Type": PATCH,
            "Content-Disposition": f'attachment; filename="run-{run.id}.patch"',
            "X-Content-Type-Options": "nosniff",
        }
        code = run.spec.code
        if code is None or code.snapshot is None:
            return web.Response(headers=headers)
        async with self._storage.patch(user.id, code.repository_id, code.commit, code.snapshot) as found:
            return await relay(request, found, headers)

    async def hosts(self, request: web.Request, user: User) -> web.Response:
        del request, user  # the list is the same for everybody
        return json_response(await self._storage.git_hosts())

    async def credentials(self, request: web.Request, user: User) -> web.Response:
        del request
        only_admins(user)
        return json_response(await self._storage.git_credentials())

    async def put_credentials(self, request: web.Request, user: User) -> web.Response:
        only_admins(user)
        host = host_name(request.match_info["host"])
        given = await asked.body(request, CREDENTIALS, secret=True)
        # On record before it happens: what is done is never without its record, whatever breaks in between.
        await self._accounts.note(user, "git credentials sent", host)
        return json_response(await self._storage.put_git_credentials(host, given))

    async def delete_credentials(self, request: web.Request, user: User) -> web.Response:
        only_admins(user)
        host = host_name(request.match_info["host"])
        await self._accounts.note(user, "git credentials withdrawn", host)
        await self._storage.delete_git_credentials(host)
        return web.Response(status=204)

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("PUT", "/api/repositories", self.put_repository, "Register a repository to push to", "code", Repository, RepositoryRequest),
            Route("GET", "/api/repositories", self.repositories, "List repositories", "code", RepositoryList),
            Route("GET", "/api/runs/{id}/patch", self.patch, "Get the uncommitted changes of a run; empty if there were none", "code", (PATCH,), also=NO_RUN),
            Route("GET", "/api/git-hosts", self.hosts, "List the hosts that code is fetched from", "code", GitHosts),
            Route("GET", "/api/git-credentials", self.credentials, "List the hosts with stored credentials", "code", GitCredentialsList, also=ADMIN),
            Route("PUT", "/api/git-credentials/{host}", self.put_credentials, "Store credentials for a host; they are never shown again", "code", GitCredentialsView, GitCredentials, also=ADMIN),
            Route("DELETE", "/api/git-credentials/{host}", self.delete_credentials, "Delete the credentials for a host", "code", None, status=204, also=ADMIN | {404: "none are stored for it"}),
        ]
        # fmt: on
