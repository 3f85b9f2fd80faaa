"""HTTP for one's own account: who am I, tokens, SSH keys."""

from aiohttp import web
from pydantic import TypeAdapter

from spell_gateway import asked
from spell_gateway.accounts import Accounts
from spell_gateway.auth import Authenticator
from spell_gateway.routes import Route
from spell_gateway.shapes import KeyList, KeyRequest, KeyView, Me, TokenList, TokenMade, TokenRequest, User
from spell_proto.http import json_response

TOKEN_REQUEST = TypeAdapter(TokenRequest)
KEY_REQUEST = TypeAdapter(KeyRequest)


class AccountsApi:
    """Answers about the caller himself."""

    def __init__(self, accounts: Accounts, authenticator: Authenticator) -> None:
        self._accounts = accounts
        self._authenticator = authenticator

    async def me(self, request: web.Request, user: User) -> web.Response:
        del request  # nothing in it matters
        return json_response(Me(user=user))

    async def tokens(self, request: web.Request, user: User) -> web.Response:
        del request
        return json_response(await self._accounts.tokens(user))

    async def add_token(self, request: web.Request, user: User) -> web.Response:
        wanted = await asked.body(request, TOKEN_REQUEST)
        answer = json_response(await self._accounts.add_token(user, wanted), status=201)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    async def delete_token(self, request: web.Request, user: User) -> web.Response:
        self._authenticator.forget(await self._accounts.delete_token(user, asked.row_id(request, "token")))
        return web.Response(status=204)

    async def keys(self, request: web.Request, user: User) -> web.Response:
        del request
        return json_response(await self._accounts.keys(user))

    async def add_key(self, request: web.Request, user: User) -> web.Response:
        wanted = await asked.body(request, KEY_REQUEST)
        return json_response(await self._accounts.add_key(user, wanted), status=201)

    async def delete_key(self, request: web.Request, user: User) -> web.Response:
        await self._accounts.delete_key(user, asked.row_id(request, "key"))
        return web.Response(status=204)

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("GET", "/api/me", self.me, "Show who is asking", "account", Me),
            Route("GET", "/api/tokens", self.tokens, "List tokens", "account", TokenList),
            Route("POST", "/api/tokens", self.add_token, "Make a token", "account", TokenMade, TokenRequest, status=201),
            Route("DELETE", "/api/tokens/{id}", self.delete_token, "Delete a token", "account", None, status=204, also={404: "no such token of yours"}),
            Route("GET", "/api/keys", self.keys, "List SSH keys", "account", KeyList),
            Route("POST", "/api/keys", self.add_key, "Add an SSH key", "account", KeyView, KeyRequest, status=201, also={409: "somebody else has it"}),
            Route("DELETE", "/api/keys/{id}", self.delete_key, "Delete an SSH key", "account", None, status=204, also={404: "no such key of yours"}),
        ]
        # fmt: on
