"""A whole stack for each module of what people type, and after each test the proof that nothing is wrong with it."""

from collections.abc import Iterator

import pytest

from support.standalone import Stack, prepared


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """More environment variables of the stack: a module that needs some has a fixture of this name."""
    return {}


@pytest.fixture(scope="module")
def stack(settings) -> Iterator[Stack]:
    """A stack with two slots, so that a third run has to wait."""
    with prepared(slots=2, runs_max=5, grace_seconds=2) as running:
        running.environment |= settings
        running.up()
        yield running


@pytest.fixture(autouse=True)
def _nothing_is_wrong_afterwards(stack) -> Iterator[None]:
    """Every test leaves a history in which every invariant holds."""
    yield
    stack.verify()
