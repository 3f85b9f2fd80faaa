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


@pytest.fixture(autouse=True)
def _verified(request: pytest.FixtureRequest, violations: dict[str, str]) -> Iterator[None]:
    """After a test among real services, `spell verify` finds nothing wrong, or just what the test says it broke.

    `@pytest.mark.violates("I13")`: the test leaves behind what breaks this invariant for a run of ada's. It stays
    broken for as long as the stage is there, so what was found before is no news.
    """
    among_services = "stage" in request.fixturenames
    made: stages.Stage | None = request.getfixturevalue("stage") if among_services else None
    yield
    if made is None:
        return
    marker = request.node.get_closest_marker("violates")
    found = made.violated()
    news = {name: detail for name, detail in found.items() if violations.get(name) != detail}
    violations.clear()
    violations.update(found)
    assert set(news) == {f"{name} of ada" for name in (marker.args if marker else ())}, news


@pytest.fixture(scope="session")
def violations() -> dict[str, str]:
    """What the tests so far left broken, on purpose."""
    return {}


@pytest.fixture
async def client(stage):
    async with stage.client() as made:
        yield made


@pytest.fixture
async def world():
    async with flaky.flaky_world() as made:
        yield made
