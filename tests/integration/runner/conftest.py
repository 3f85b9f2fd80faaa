"""A fork server for the tests of shims, and a machine room for the tests of the whole runner."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from integration.runner import room, shims


@pytest.fixture(scope="session")
def yard() -> Iterator[shims.Yard]:
    """Shared: every test starts attempts of its own."""
    with shims.yard() as made:
        yield made


@pytest.fixture(scope="session")
def services(postgres) -> Iterator[room.Services]:
    """The real scheduler and storage, for as long as the session lasts."""
    # The processes outlive the event loop of any one test, so they are started and stopped by a loop of their own.
    with asyncio.Runner() as runner:
        context = room.services(postgres)
        made = runner.run(context.__aenter__())
        try:
            yield made
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rooms(services, request):
    """Machines that tests share, one for each isolation (docker is one); a test says which it wants."""
    async with AsyncExitStack() as opened:
        made: dict[str, room.Room] = {}

        async def get(isolation: str) -> room.Room:
            if isolation not in made:
                settings = {"SPELL_ISOLATION": isolation}
                if isolation == "docker":
                    settings = room.in_docker(request.getfixturevalue("docker"))
                here = room.room(services, SPELL_SLOTS="8", **settings)
                made[isolation] = await opened.enter_async_context(here)
            made[isolation].mend()
            return made[isolation]

        yield get
