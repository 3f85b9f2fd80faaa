"""A fork server for the tests of shims, and a machine room for the tests of the whole runner."""

from collections.abc import Iterator

import pytest
from integration.runner import shims


@pytest.fixture(scope="session")
def yard() -> Iterator[shims.Yard]:
    """Shared: every test starts attempts of its own."""
    with shims.yard() as made:
        yield made
