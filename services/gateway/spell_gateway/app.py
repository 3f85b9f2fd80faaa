"""The public application: every route of the table, behind the bearer token and the one shape of errors."""

from collections.abc import Mapping

from aiohttp import web

from spell_gateway.asked import query_members
from spell_gateway.auth import Authenticator, UnknownCallerError
from spell_gateway.routes import Handler as UserHandler
from spell_gateway.routes import Param, Route
from spell_proto.errors import RefusedError
from spell_proto.http import BODY_BYTES_MAX, Handler, errors_to_answers, refusal_response

#: A path of 4096 bytes is three times as long when every byte is escaped.
LINE_BYTES_MAX = 16 * 1024
#: What is longer than a line may be is read up to here, so that we refuse it ourselves: aiohttp's refusal is no JSON
#: and quotes it, and it may be a secret.
FIELD_BYTES_MAX = 128 * 1024
IDLE_CONNECTION_SECONDS = 75


def public_app(routes: list[Route], authenticator: Authenticator) -> web.Application:
    """The application that the world talks to."""
    app = web.Application(
        middlewares=[errors_to_answers, _short_lines],
        client_max_size=BODY_BYTES_MAX,
        handler_args={
            "max_line_size": FIELD_BYTES_MAX,
            "max_field_size": FIELD_BYTES_MAX,
            "keepalive_timeout": IDLE_CONNECTION_SECONDS,
            # A compressed body is refused as such; what it would unfold to is nobody's business.
            "auto_decompress": False,
        },
    )
    for route in routes:
        if route.open_handler is not None:
            app.router.add_route(route.method, route.path, _for_everybody(route.open_handler, route.query))
        else:
            assert route.handler is not None, f"{route.path} has no handler"
            handler = _for_users(route.handler, authenticator, route.query)
            if route.method == "GET" and not route.lasts:
                app.router.add_get(route.path, handler)  # and HEAD
            else:
                app.router.add_route(route.method, route.path, handler)
    return app


@web.middleware
async def _short_lines(request: web.Request, handler: Handler) -> web.StreamResponse:
    if len(request.raw_path) > LINE_BYTES_MAX:
        too_long = RefusedError("path_too_long", f"path and query are longer than {LINE_BYTES_MAX} bytes")
        too_long.status = 414
        raise too_long
    for name, value in request.raw_headers:
        if len(name) + len(value) > LINE_BYTES_MAX:
            refused = RefusedError("header_too_large", f"a header is longer than {LINE_BYTES_MAX} bytes")
            refused.status = 431
            raise refused
    return await handler(request)


def _for_everybody(handler: Handler, allowed: Mapping[str, Param]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        query_members(request, allowed)
        return await handler(request)

    return answer


def _for_users(handler: UserHandler, authenticator: Authenticator, allowed: Mapping[str, Param]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            user = await authenticator.user(request.headers.get("Authorization"))
        except UnknownCallerError as error:
            refused = refusal_response(error)
            refused.headers["WWW-Authenticate"] = 'Bearer realm="spell"'
            return refused
        query_members(request, allowed)
        return await handler(request, user)

    return answer
