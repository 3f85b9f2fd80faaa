"""A builder with a data directory of its own, and an index of tiny packages."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from spell_proto import http
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


@pytest.fixture
async def active(builder: BuilderProcess) -> AsyncIterator[set[int]]:
    """A scheduler that knows which runs go on, and nothing else."""
    active: set[int] = set()

    async def answer(request: web.Request) -> web.Response:
        asked = (await request.json())["run_ids"]
        return web.json_response({"run_ids": [run_id for run_id in asked if run_id in active]})

    app = web.Application()
    app.add_routes([web.post("/runs/active", answer)])
    address = f"unix://{builder.data.parent}/s.sock"
    async with http.serve(app, address):
        builder.environment["SPELL_SCHEDULER_URL"] = address
        await builder.end()
        await builder.start()
        yield active


async def _forget_everything(postgres: stack.Postgres) -> None:
    connection = await asyncpg.connect(postgres.url("builder"))
    try:
        with contextlib.suppress(asyncpg.UndefinedTableError):
            await connection.execute(
                "TRUNCATE builder.requests, builder.environments, builder.contents, builder.uses"
            )
    finally:
        await connection.close()
