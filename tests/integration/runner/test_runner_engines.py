"""What every engine promises, asked of each of them alike."""

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from integration.runner import shims
from integration.runner.room import Builder
from spell_proto import http
from spell_proto.state import Intent
from spell_runner import workspace
from spell_runner.copies import Copies
from spell_runner.directory import Directory
from spell_runner.engines.docker import DockerEngine
from spell_runner.engines.hardening import Limits, files_max
from spell_runner.engines.local import LocalEngine, Place
from spell_runner.engines.null import NullEngine
from spell_runner.engines.server import ShimServer
from spell_runner.environments import Environments
from spell_runner.isolation import Isolation
from spell_runner.mounts.cache import Cache
from spell_runner.mounts.mounting import Mounting
from spell_runner.notes import Notes
from spell_runner.phases import Status
from spell_runner.settings import Machine
from spell_runner.trees import Trees
from spell_runner.workspace import Abort
from support.specs import an_attempt

MACHINE = Machine("m", "boot", "CPU", 2, False, "nobody", "/", {})
DEADLINE_SECONDS = 15.0


LIMITS = Limits(memory_bytes=256 << 20, cpus=1.0, shm_bytes=64 << 20, pids=256, files=files_max())


@pytest.fixture(params=["null", "local, a copy", "local, an overlay", "docker"])
async def engine(request, tmp_path):
    if request.param == "null":
        yield NullEngine()
        return
    if request.param == "docker":
        async with contained(request.getfixturevalue("docker"), tmp_path / "data") as made:
            yield made
        return
    data = tmp_path / "data"
    place = Place(data, ())
    for path in (data, place.empty, place.root, data / "attempts"):
        path.mkdir()
    overlay = request.param.endswith("overlay")
    shims.need("unshare" if overlay else "none")
    isolation = Isolation("unshare" if overlay else "none", overlay=overlay)
    builder = Builder(tmp_path, tmp_path / "b.sock")
    async with builder.open(), http.Caller(f"unix://{builder.socket}") as caller:
        made = LocalEngine(
            MACHINE,
            place,
            isolation,
            ShimServer(data, 1.0),
            Environments(caller, Copies(data, caller, caller, set, 10**9)),
            Trees(data, caller, set),
            Mounting(Cache(data, set, 10**9), caller),
            grace_seconds=1.0,
            log_bytes_max=1 << 20,
        )
        await made.open()
        yield made
        await made.close()
    workspace.remove(data)


@asynccontextmanager
async def contained(docker, data):
    """The docker engine with data of its own."""
    for path in (data, data / "empty", data / "attempts"):
        path.mkdir()
    machine = replace(MACHINE, id=f"m{time.monotonic_ns()}")
    builder = Builder(data, data.parent / "b.sock")
    async with builder.open(), http.Caller(f"unix://{builder.socket}") as caller:
        made = DockerEngine(
            machine,
            data,
            ShimServer(data, 1.0),
            Trees(data, caller, set),
            LIMITS,
            caller,
            Environments(caller, Copies(data, caller, caller, set, 10**9)),
            lambda owner: Mounting(Cache(data, set, 10**9, owner), caller),
            socket=str(docker.socket),
            grace_seconds=1.0,
            log_bytes_max=1 << 20,
        )
        await made.open()
        yield made
        await made.close()
    workspace.remove(data)


@pytest.fixture
def attempt(engine, tmp_path):
    """A new attempt of that engine, whose command appends a line to a file."""
    attempts = tmp_path / "data" / "attempts"
    attempts.mkdir(parents=True, exist_ok=True)
    return taken_on(attempts, 1)


def taken_on(attempts, run_id):
    spec = an_attempt(run_id, command="echo ran >> trace; sleep 0.1")
    return spec, Directory.take_on(attempts, spec, spec.model_dump_json().encode(), "boot")


async def prepared(engine, attempt):
    spec, directory = attempt
    await engine.prepare(spec, directory, Notes(directory, lambda: None), Abort(), lambda: None)
    return directory


async def one_more(engine, directory):
    """Starts are taken in order: once this one is over, an earlier one has been looked at."""
    other = await prepared(engine, taken_on(directory.path.parent, 2))
    await engine.start(other)
    await over(engine, other)


async def over(engine, directory):
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (look := engine.look(directory, alive=True)).status is not Status.EXITED:
            assert look.status is not Status.LOST
            await asyncio.sleep(0.005)
    return look


async def test_an_attempt_that_was_not_prepared_is_absent(engine, attempt):
    _, directory = attempt

    assert engine.look(directory, alive=True).status is Status.ABSENT


async def test_a_started_command_ends_by_itself_with_a_start_and_an_end(engine, attempt):
    directory = await prepared(engine, attempt)
    await engine.start(directory)

    look = await over(engine, directory)

    assert (look.exit.exit_code, look.exit.cause, look.exit.error) == (0, "exit", None)
    assert look.started_at <= look.exit.at <= datetime.now(UTC) + timedelta(seconds=1)


async def test_preparing_and_starting_again_starts_nothing_again(engine, attempt):
    directory = await prepared(engine, attempt)
    for _ in range(3):
        await engine.start(directory)
    await over(engine, directory)
    await prepared(engine, attempt)
    await engine.start(directory)
    await one_more(engine, directory)

    changes = engine.changes(directory, Abort())

    sources = [Path(found.root, found.source) for found in changes.found]
    assert [source.read_text() for source in sources] in ([], ["ran\n"])


async def test_a_cancelled_attempt_never_starts(engine, attempt):
    _, directory = attempt
    engine.cancel(directory)
    await prepared(engine, attempt)
    await engine.start(directory)
    await one_more(engine, directory)

    assert engine.look(directory, alive=True).status is Status.CANCELLED
    assert not engine.touched(directory)


async def test_an_end_after_the_end_changes_nothing(engine, attempt):
    directory = await prepared(engine, attempt)
    await engine.start(directory)
    before = await over(engine, directory)

    for intent in (Intent.STOP, Intent.KILL, Intent.KILL):
        engine.end(directory, intent)
    engine.cancel(directory)
    engine.clear(directory)

    assert engine.look(directory, alive=True) == before
