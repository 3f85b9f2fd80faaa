"""A fork server for the tests of shims, and a machine room for the tests of the whole runner."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from integration.runner import room, shims
from spell_runner import workspace
from support import docker as daemons


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


@pytest.fixture(scope="session")
def layered() -> Iterator[str]:
    """A directory whose file system is an overlay, which holds no upper layer of another."""
    if os.geteuid():
        daemons.absent("only root can mount a file system")
    place = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    for name in ("lower", "upper", "work", "on"):
        (place / name).mkdir()
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(place / "on")], check=True)
    try:
        yield str(place / "on")
    finally:
        # The fork server of the machine that was there goes on for a while.
        subprocess.run(["umount", "--lazy", str(place / "on")], check=True)
        workspace.remove(place)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rooms(services, request):
    """Machines that tests share, one for each isolation (docker is one); a test says which it wants. One whose name ends
    with `copies` can mount no layers.
    """
    async with AsyncExitStack() as opened:
        made: dict[str, room.Room] = {}

        async def get(isolation: str) -> room.Room:
            if isolation not in made:
                name, _, copies = isolation.partition(" ")
                below = request.getfixturevalue("layered") if copies else "/var/tmp"
                settings = {"SPELL_ISOLATION": name}
                if name == "docker":
                    settings = room.in_docker(request.getfixturevalue("docker"))
                here = room.room(services, below, SPELL_SLOTS="8", **settings)
                made[isolation] = await opened.enter_async_context(here)
            made[isolation].mend()
            return made[isolation]

        yield get
