"""HTTP for the check of all stored files."""

from contextlib import aclosing

from aiohttp import web

from spell_gateway.auth import only_admins
from spell_gateway.outlet import outlet
from spell_gateway.routes import ADMIN, LINES, Route
from spell_gateway.shapes import User
from spell_gateway.store_check import StoreCheck
from spell_proto.codec import encode

ANSWER = (
    "One JSON object per line, about every second: `files`, `bytes`, `bytes_of_all`, `damaged` count; `found` lists damaged "
    "and lost files with the names of what they are in. Without a last line with `done` it broke off."
)


class StoreCheckApi:
    """Answers about all stored files together."""

    def __init__(self, check: StoreCheck) -> None:
        self._check = check

    async def check(self, request: web.Request, user: User) -> web.StreamResponse:
        only_admins(user)
        async with aclosing(self._check.lines(user)) as lines:
            # The first line is read before anything is said, so that a refusal is still one.
            first = await anext(lines)
            response = web.StreamResponse(headers={"Content-Type": LINES, "Cache-Control": "no-store"})
            async with outlet(request, response) as out:
                await out.write(encode(first) + b"\n")
                async for line in lines:
                    await out.write(encode(line) + b"\n")
        return response

    def routes(self) -> list[Route]:
        # One call per line reads as the table it is.
        # fmt: off
        return [
            Route("POST", "/api/storage/check", self.check, "Read all stored files again and say which are damaged", "service", (LINES,), also=ADMIN | {409: "a check goes on already"}, text=ANSWER),
        ]
        # fmt: on
