"""Fixtures for every test: one Postgres, one NATS, one whole stack per session, started when first asked for.

A test that kills or wipes a server opens its own one: `support.stack.postgres()`, `support.stack.nats()`,
`support.standalone.standalone()`.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import TypeVar

# Its plugin imports it at the end of a session, which some builds of Python 3.11 answer with a SystemError then.
import hypothesis  # noqa: F401
import pytest

from support import docker as daemons
from support import stack
from support.standalone import Stack
from support.standalone import standalone as standalone_stack

T = TypeVar("T")

# Started in the background by a script, everything below would ignore ^C, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _held_open(context: AbstractAsyncContextManager[T]) -> Iterator[T]:
    # The servers outlive the event loop of any one test, so they are started and stopped by a loop of their own.
    with asyncio.Runner() as runner:
        value = runner.run(context.__aenter__())
        try:
            yield value
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def postgres() -> Iterator[stack.Postgres]:
    """The session's cluster: `postgres.url("scheduler")` and so on. Leave no tables behind that others see."""
    yield from _held_open(stack.postgres())


@pytest.fixture(scope="session")
def nats() -> Iterator[stack.Nats]:
    """The session's NATS server: `nats.service_url`, `nats.runner_url("m1")`, `nats.subscriber_url`."""
    yield from _held_open(stack.nats())


@pytest.fixture(scope="session")
def docker() -> Iterator[daemons.Docker]:
    """The daemon, which all tests share; without one, they are skipped with the reason."""
    with ExitStack() as opened:
        try:
            found = opened.enter_context(daemons.running())
        except daemons.NoDockerError as error:
            daemons.absent(str(error))
        yield found


@pytest.fixture(scope="session")
def standalone() -> Iterator[Stack]:
    """The session's standalone stack, for tests that crash nothing and need no settings of their own."""
    with standalone_stack() as running:
        yield running
