"""A fork server for the tests of shims, and a machine room for the tests of the whole runner."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest
import pytest_asyncio

from integration.runner import room, shims
from support import docker as daemons


@pytest.fixture(scope="session")
def yard() -> Iterator[shims.Yard]:
    """Shared: every test starts attempts of its own."""
    with shims.yard() as made:
        yield made


@pytest.fixture(scope="session")
def _daemon() -> Iterator[daemons.Docker | str]:
    with ExitStack() as opened:
        try:
            found: daemons.Docker | str = opened.enter_context(daemons.running())
        except daemons.NoDockerError as error:
            found = str(error)
        yield found


@pytest.fixture
def docker(_daemon) -> daemons.Docker:
    """The daemon, which all tests share; without one, the test is skipped with the reason."""
    return _present(_daemon)


def _present(daemon) -> daemons.Docker:
    if isinstance(daemon, str):
        daemons.absent(daemon)
    return daemon


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
                    settings = room.in_docker(_present(request.getfixturevalue("_daemon")))
                here = room.room(services, SPELL_SLOTS="8", **settings)
                made[isolation] = await opened.enter_async_context(here)
            made[isolation].mend()
            return made[isolation]

        yield get
