"""What the other services ask the gateway: whose SSH key is this?"""

from aiohttp import web

from spell_gateway.accounts import Accounts
from spell_gateway.health import Doctor
from spell_proto.http import errors_to_answers, json_response

FINGERPRINT_CHARS_MAX = 128


def internal_app(accounts: Accounts, doctor: Doctor) -> web.Application:
    """The application behind gateway.sock, which only processes of this installation can reach."""

    async def health(request: web.Request) -> web.Response:
        del request  # nothing in it matters
        return json_response(doctor.own_health())

    async def ssh_key(request: web.Request) -> web.Response:
        fingerprint = request.match_info["fingerprint"][:FINGERPRINT_CHARS_MAX]
        return json_response(await accounts.user_of_key(fingerprint))

    app = web.Application(middlewares=[errors_to_answers])
    app.router.add_get("/health", health)
    # Base64 has slashes: percent-encoded or not, the rest of the path is the fingerprint.
    app.router.add_get("/ssh-keys/{fingerprint:.+}", ssh_key)
    return app
