"""One set of real services for the tests of the gateway."""

import asyncio
from collections.abc import Iterator

import pytest

from integration.gateway import flaky
from integration.gateway import stage as stages


@pytest.fixture(scope="session")
def stage() -> Iterator[stages.Stage]:
    # The processes outlive the event loop of any one test, so they are started and stopped by a loop of their own.
    with asyncio.Runner() as runner:
        context = stages.stage()
        made = runner.run(context.__aenter__())
        try:
            yield made
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture
async def client(stage):
    async with stage.client() as made:
        yield made


@pytest.fixture
async def world():
    async with flaky.flaky_world() as made:
        yield made
