"""What a cloud tells its machines about themselves: Amazon's metadata service with tokens and without, and Google's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

AWS_BODY = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}


class Metadata:
    """`noticed` gives notice. `asked` is what was asked, with a mark where a good token came along."""

    def __init__(self) -> None:
        self.noticed = False
        self.tokens: set[str] = set()
        self.gives_tokens = True
        self.wants_tokens = True
        self.broken = False
        self.asked: list[str] = []
        self.url = ""

    async def token(self, request: web.Request) -> web.Response:
        self.asked.append("token")
        if not self.gives_tokens:
            raise web.HTTPForbidden
        assert 1 <= int(request.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21_600
        made = f"token-{len(self.asked)}"
        self.tokens.add(made)
        return web.Response(text=made)

    async def action(self, request: web.Request) -> web.Response:
        good = request.headers.get("X-aws-ec2-metadata-token", "") in self.tokens
        self.asked.append("action with a token" if good else "action")
        if self.broken:
            raise web.HTTPServiceUnavailable
        if self.wants_tokens and not good:
            raise web.HTTPUnauthorized
        if not self.noticed:
            raise web.HTTPNotFound
        return web.json_response(AWS_BODY)

    async def preempted(self, request: web.Request) -> web.Response:
        self.asked.append("preempted")
        if request.headers.get("Metadata-Flavor") != "Google":
            raise web.HTTPForbidden
        return web.Response(text="TRUE" if self.noticed else "FALSE")

    async def plain(self, _request: web.Request) -> web.Response:
        self.asked.append("plain")
        if not self.noticed:
            raise web.HTTPNotFound
        return web.Response(text="")


@asynccontextmanager
async def serving() -> AsyncIterator[Metadata]:
    """On a port of the loopback interface, for as long as the context lasts."""
    made = Metadata()
    app = web.Application()
    app.router.add_put("/latest/api/token", made.token)
    app.router.add_get("/latest/meta-data/spot/instance-action", made.action)
    app.router.add_get("/computeMetadata/v1/instance/preempted", made.preempted)
    app.router.add_get("/notice", made.plain)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
