"""How long a run waits for its environment to be stored, with a builder that breaks off."""

import asyncio

import pytest
from aiohttp import web

from spell_proto import http
from spell_runner import pushes
from support import stack

pytestmark = pytest.mark.integration
BREAKS_MAX = 4


class Lines:
    def __init__(self):
        self.said = []

    def line(self, text, **_how):
        self.said.append(text)


@pytest.mark.parametrize(("alive", "breaks"), [(True, BREAKS_MAX), (False, 2)])
async def test_a_builder_that_shows_signs_of_life_is_waited_for(monkeypatch, alive, breaks):
    monkeypatch.setattr(pushes, "AWAY_SECONDS_MAX", 0.6)
    asked = 0

    async def answer(request):
        nonlocal asked
        asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        if asked > BREAKS_MAX:
            await response.write(b'{"ready": {}}\n')
            return response
        if alive:
            await response.write(b"{}\n")
        await asyncio.sleep(0.4)
        request.transport.abort()
        return response

    app, notes = web.Application(), Lines()
    app.add_routes([web.post("/stored", answer)])
    with stack.short_directory() as directory:
        address = f"unix://{directory}/b.sock"
        async with http.serve(app, address), http.Caller(address) as builder:
            await pushes.until_stored(builder, "/stored", 1, notes)

    assert asked == (BREAKS_MAX + 1 if alive else breaks)
    assert notes.said == ([] if alive else ["The builder does not answer; the environment may not be saved"])
