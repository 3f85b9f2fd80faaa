"""A builder with a data directory of its own, and an index of tiny packages."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from support import stack
from support.builder_process import BuilderProcess
from support.conda_packages import Channel
from support.packages import Index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "index")


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    return Channel(tmp_path / "channel")


@pytest.fixture
async def builder(
    postgres: stack.Postgres,
    nats: stack.Nats,
    index: Index,
    channel: Channel,
    request: pytest.FixtureRequest,
) -> AsyncIterator[BuilderProcess]:
    """A builder. `spell verify` holds what it leaves, but for a test marked with `violates("I17")`."""
    await _forget_everything(postgres)
    with stack.short_directory() as directory:
        process = BuilderProcess(directory, postgres, nats)
        process.environment["UV_DEFAULT_INDEX"] = index.url
        process.environment["SPELL_CONDA_CHANNELS"] = f"local={channel.url}"
        await process.start()
        try:
            yield process
            if process.process is not None and process.process.returncode is None:
                check = await process.verify()
                assert check.ok == (request.node.get_closest_marker("violates") is None), check
        finally:
            await process.end()


async def _forget_everything(postgres: stack.Postgres) -> None:
    connection = await asyncpg.connect(postgres.url("builder"))
    try:
        with contextlib.suppress(asyncpg.UndefinedTableError):
            await connection.execute(
                "TRUNCATE builder.requests, builder.environments, builder.contents, builder.uses"
            )
    finally:
        await connection.close()
