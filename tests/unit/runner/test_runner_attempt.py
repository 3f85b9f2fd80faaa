"""An attempt waits without holding up the others, and what is started after the end ends at once."""

import asyncio

from spell_proto.http import Caller
from spell_proto.spec import AttemptSpec, EnvironmentRequest, RunSpec
from spell_proto.state import Intent
from spell_runner.attempt import Attempt, Means
from spell_runner.directory import Directory
from spell_runner.engines.null import NullEngine
from spell_runner.forward import Forwarder
from spell_runner.link import Link
from spell_runner.phases import Look, Status
from spell_runner.reports import Reporter
from spell_runner.tasks import Tasks

LOOKS_MAX = 1_000


class SlowEngine(NullEngine):
    """Its command takes a moment to die."""

    def __init__(self):
        self.status = Status.RUNNING
        self.looks = 0

    def look(self, directory, *, alive):
        self.looks += 1
        assert self.looks < LOOKS_MAX, "it looks without ever letting anybody else go on"
        return Look(self.status)

    def end(self, directory, intent):
        if self.looks == 1:
            asyncio.get_running_loop().call_later(0.05, self.die)

    def die(self):
        self.status = Status.CANCELLED


def a_spec():
    run = RunSpec(
        command="true",
        machine_type="CPU",
        environment=EnvironmentRequest(),
        env={},
        code=None,
        description="",
        timeout_seconds=None,
    )
    return AttemptSpec(run_id=7, attempt=1, fence=3, owner_id=1, intent=Intent.RUN, spec=run)


async def test_leaving_an_attempt_that_has_just_rung_lets_others_go_on(tmp_path):
    spec, engine, link = a_spec(), SlowEngine(), Link()
    directory = Directory.take_on(tmp_path, spec, spec.model_dump_json().encode(), "boot")
    async with Caller("unix:///nowhere") as storage, asyncio.TaskGroup() as group:
        reporter = Reporter("m", link, Tasks(group), lambda: None)
        means = Means(engine, Forwarder("m", link, storage), reporter, storage)
        attempt = Attempt(means, spec, directory, fresh=True, same_boot=True)
        attempt.bell.set()

        async with asyncio.timeout(5):
            await attempt.leave()

    assert engine.status is Status.CANCELLED


async def test_what_is_started_after_the_end_ends_at_once():
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        before = tasks.start(asyncio.sleep(60))
        tasks.cancel()
        after = tasks.start(asyncio.sleep(60))

    assert before.cancelled()
    assert after.cancelled()
