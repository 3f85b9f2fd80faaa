"""HTTP for following: the stream of a run, and the events of all runs."""

import asyncio

import orjson
from aiohttp import web

from spell_gateway import asked
from spell_gateway.follow import PING_SECONDS, POLL_SECONDS, Follower, Sink, Sources, Wish
from spell_gateway.outlet import Outlet, outlet
from spell_gateway.routes import BYTES, FLAG, LINES, WHOLE, Param, Route
from spell_gateway.shapes import User
from spell_gateway.sinks import LineSink, RecordSink
from spell_proto import checks
from spell_proto.errors import UnavailableError

#: Longer than any cursor: more of it would only be refused for its length, and not as no cursor.
CURSOR_CHARS_MAX = 256
PAGE = 500
RETRY_SECONDS = 1.0
#: Events that come close together are read together.
TOGETHER_SECONDS = 0.02
#: A fact may be told a moment before a page shows its row, while older transactions are still open.
AGAIN_SECONDS = 0.1
AGAIN_MAX = 5


def wants_lines(request: web.Request) -> bool:
    return LINES in request.headers.get("Accept", "")


class FollowApi:
    """Answers that last."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def follow(self, request: web.Request, user: User) -> web.StreamResponse:
        wish = Wish(
            offset=asked.number(request, "offset", 0),
            version=asked.number(request, "version", 0),
            tail=asked.optional_number(request, "tail", most=checks.TAIL_LINES_MAX),
            follow=asked.flag(request, "follow", default=True),
        )
        run_id = asked.run_id(request)
        with self._sources.live.listen(run_id) as listener:
            return await self._follow(request, Follower(self._sources, listener, user.id, run_id, wish))

    async def _follow(self, request: web.Request, follower: Follower) -> web.StreamResponse:
        await follower.begin()
        as_lines = wants_lines(request)
        headers = {
            "Content-Type": LINES if as_lines else BYTES,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "Spell-Offset": str(follower.position),
        }
        response = web.StreamResponse(headers=headers)
        async with outlet(request, response) as out:
            sink: Sink = LineSink(out, follower.position) if as_lines else RecordSink(out)
            await follower.send(sink)
        return response

    async def events(self, request: web.Request, user: User) -> web.StreamResponse:
        cursor = request.query.get("after", "")[:CURSOR_CHARS_MAX]
        follow = asked.flag(request, "follow", default=False)
        # The first page is read before anything is said, so a bad cursor is still refused as such.
        with self._sources.live.listen_owner(user.id) as news:
            if follow:
                await self._sources.live.ready()
            cursor, first, full = await self._page(user, cursor)
            headers = {"Content-Type": LINES, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            response = web.StreamResponse(headers=headers)
            async with outlet(request, response) as out:
                # Something is sent at once, so the client knows that it is heard.
                await out.write(first or b"{}\n")
                if full or follow:
                    await self._send_events(out, user, cursor, news, follow=follow)
        return response

    async def _send_events(
        self, out: Outlet, user: User, cursor: str, news: asyncio.Event, *, follow: bool
    ) -> None:
        clock = asyncio.get_running_loop().time
        ping_at, again = clock() + PING_SECONDS, 0
        while not self._sources.live.stopping:
            news.clear()
            try:
                cursor, lines, full = await self._page(user, cursor)
            except UnavailableError:
                if not follow:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if lines or clock() >= ping_at:
                await out.write(lines or b"{}\n")
                ping_at = clock() + PING_SECONDS
            if full:
                continue
            if not follow:
                return
            # Of several facts, the page may have shown only the first ones.
            again = min(again, 1) if lines else again
            await asyncio.sleep(TOGETHER_SECONDS)
            try:
                async with asyncio.timeout(AGAIN_SECONDS if again else POLL_SECONDS):
                    await news.wait()
                again = AGAIN_MAX
            except TimeoutError:
                again = max(0, again - 1)

    async def _page(self, user: User, cursor: str) -> tuple[str, bytes, bool]:
        """The rows after a cursor as lines, each with the cursor behind it, the cursor behind them all, and whether
        there may be more at once.
        """
        page = await self._sources.scheduler.all_transitions(user.id, cursor, PAGE)
        lines = b"".join(
            orjson.dumps({**row.model_dump(), "cursor": behind}) + b"\n"
            for row, behind in zip(page.transitions, page.cursors, strict=True)
        )
        return page.cursor, lines, len(page.transitions) == PAGE

    def routes(self) -> list[Route]:
        params = (
            Param("offset", "Bytes of whole journal records already got.", {**WHOLE, "default": 0}),
            Param("version", "Highest version of a transition already got.", {**WHOLE, "default": 0}),
            Param("tail", "Begin where the last so many lines of output begin; see Spell-Offset.", WHOLE),
            Param("follow", "0: end after what is known now.", {**FLAG, "default": "1"}),
        )
        after = Param("after", "The cursor of the last line got.", {"type": "string", "default": ""})
        return [
            Route(
                "GET",
                "/api/runs/{id}/follow",
                self.follow,
                "Follow a run",
                "logs",
                (BYTES, LINES),
                None,
                params,
                also={404: "no such run, or somebody else's"},
                text="Records of the journal mixed with STATE, CAUGHT_UP, PING and DONE records, as docs/protocol.md "
                "describes them; with Accept: application/x-ndjson one JSON object per line. The header Spell-Offset "
                "is the journal offset of the first journal byte sent.",
            ),
            Route(
                "GET",
                "/api/events",
                self.events,
                "Follow all runs",
                "runs",
                (LINES,),
                None,
                (after, Param("follow", "1: go on with what comes.", FLAG)),
                text="One transition per line, in the order in which they were committed, with a `cursor` to go on "
                "from: what follows it comes, nothing again and nothing left out. Empty objects keep the connection "
                "alive.",
            ),
        ]
