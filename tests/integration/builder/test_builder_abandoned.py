"""Builds nobody waits for any more end; builds somebody waits for do not."""

import asyncio
import os
import time
from contextlib import asynccontextmanager

import pytest

from spell_proto import bus, codec, subjects
from spell_proto.commands import BuildEnvironment
from spell_proto.errors import NotFoundError
from spell_proto.http import Caller
from spell_proto.spec import EnvironmentRequest
from spell_runner.copies import Copies
from spell_runner.environments import Environments
from support.packages import alive

pytestmark = pytest.mark.integration
GRACE_SECONDS = 1.0
ENDED = '"event":"nobody waits any more: a build is ended"'


async def eventually(condition, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


class Slow:
    """A package whose build waits until it is let go."""

    def __init__(self, index, gate):
        self.gate = gate
        index.add_from_source("slow", "1.0", gate=gate)

    def builds(self):
        started = self.gate / "started"
        return (
            [[int(pid) for pid in line.split()] for line in started.read_text().splitlines()]
            if started.exists()
            else []
        )

    def processes(self):
        return [pid for pids in self.builds() for pid in pids if alive(pid)]

    def let_go(self):
        (self.gate / "go").touch()


@pytest.fixture
async def slow(builder, index, tmp_path):
    """The package, and a builder that has little patience."""
    builder.environment["SPELL_UNAWAITED_SECONDS"] = str(GRACE_SECONDS)
    await builder.end()
    await builder.start()
    return Slow(index, tmp_path / "gate")


@asynccontextmanager
async def asking(builder):
    """Somebody who asks for the package, and goes away when the context ends."""
    task = asyncio.create_task(builder.ensure("slow"))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def begun(builder):
    """What of environments is there under another name than that of a whole one."""
    return [path.name for path in (builder.data / "environments").iterdir() if path.name.startswith(".")]


async def test_a_build_that_nobody_waits_for_ends_and_leaves_nothing(builder, slow):
    async with asking(builder):
        await eventually(slow.builds)
        left = time.monotonic()
        here = begun(builder)
    await eventually(lambda: not slow.processes())
    seconds = time.monotonic() - left
    await eventually(lambda: not begun(builder))
    log = builder.log.read_text()
    slow.let_go()
    later = await builder.ensure("slow")

    assert [name for name in here if name.startswith(".new-")]
    assert GRACE_SECONDS * 0.9 < seconds < GRACE_SECONDS + 3
    assert ENDED in log
    assert later.ready["cached"] is False
    assert len(slow.builds()) == 2


async def test_who_asks_for_the_same_in_time_goes_on_with_the_build(builder, slow):
    async with asking(builder):
        await eventually(slow.builds)
    async with asking(builder) as again:
        await asyncio.sleep(GRACE_SECONDS * 1.5)
        slow.let_go()
        answer = await again

    assert answer.ready["cached"] is False
    assert len(slow.builds()) == 1
    assert ENDED not in builder.log.read_text()


async def test_one_of_two_who_leaves_ends_nothing(builder, slow):
    async with asking(builder) as stays:
        async with asking(builder):
            await eventually(slow.builds)
        await asyncio.sleep(GRACE_SECONDS * 1.5)
        slow.let_go()
        answer = await stays

    assert answer.ready["cached"] is False
    assert len(slow.builds()) == 1


async def test_who_asks_while_a_build_is_being_ended_gets_a_new_one(builder, slow):
    async with asking(builder):
        await eventually(slow.builds)
    await eventually(lambda: ENDED in builder.log.read_text())
    async with asking(builder) as again:
        await eventually(lambda: len(slow.builds()) == 2)
        first = [pid for pid in slow.builds()[0] if alive(pid)]
        slow.let_go()
        answer = await again

    assert first == []
    assert answer.ready["cached"] is False


async def test_a_build_ahead_of_a_queued_run_goes_on_although_nobody_has_asked_yet(builder, slow, nats):
    request = EnvironmentRequest(pip=("slow",))
    command = codec.encode(BuildEnvironment(run_id=7, environment=request, cause="test"))
    async with bus.connect(nats.service_url, "scheduler") as scheduler:
        await scheduler.ensure_streams()
        to = subjects.COMMANDS_FOR_BUILDER
        await scheduler.store(to, command, message_id=os.urandom(8).hex(), stream=subjects.COMMANDS)
        await eventually(slow.builds)
    async with asking(builder):
        pass
    await asyncio.sleep(GRACE_SECONDS * 1.5)
    slow.let_go()

    async with asyncio.timeout(20):
        while True:
            try:
                ready = await builder.resolved("slow")
                break
            except NotFoundError:
                await asyncio.sleep(0.05)

    assert ready["path"]
    assert len(slow.builds()) == 1


class Silent:
    """Takes the lines of a build, for nobody."""

    def line(self, text, *, level="info", important=False):
        pass


async def test_a_machine_whose_run_is_stopped_lets_go_of_the_build(builder, slow, tmp_path):
    async with Caller(builder.address) as caller:
        environments = Environments(caller, Copies(tmp_path, caller, caller, set, 10**9))
        getting = asyncio.ensure_future(environments.get(1, EnvironmentRequest(pip=("slow",)), Silent()))
        await eventually(slow.builds)
        getting.cancel()
        await asyncio.wait([getting])
        await eventually(lambda: not slow.processes(), seconds=GRACE_SECONDS + 3)

    assert ENDED in builder.log.read_text()
