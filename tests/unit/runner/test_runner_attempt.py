"""An attempt waits without holding up the others, and what is started after the end ends at once."""

import asyncio
from datetime import UTC, datetime

import pytest

from spell_proto.errors import SettingsError
from spell_proto.events import CommandStarted
from spell_proto.http import Caller
from spell_proto.journal import HEADER, RecordKind
from spell_runner.attempt import Attempt, Means
from spell_runner.directory import Directory
from spell_runner.engines.null import NullEngine
from spell_runner.forward import Forwarder
from spell_runner.link import Link
from spell_runner.phases import Look, Status
from spell_runner.reports import Account, Reporter
from spell_runner.settings import Settings, machine
from spell_runner.tasks import Tasks
from support.specs import an_attempt

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


async def test_leaving_an_attempt_that_has_just_rung_lets_others_go_on(tmp_path):
    spec, engine, link = an_attempt(), SlowEngine(), Link()
    directory = Directory.take_on(tmp_path, spec, spec.model_dump_json().encode(), "boot")
    async with Caller("unix:///nowhere") as storage, asyncio.TaskGroup() as group:
        reporter = Reporter("m", link, Tasks(group), lambda: None)
        means = Means(engine, Forwarder("m", link, storage), reporter, storage, storage)
        attempt = Attempt(means, spec, directory, fresh=True, same_boot=True)
        attempt.bell.set()

        async with asyncio.timeout(5):
            await attempt.leave()

    assert engine.status is Status.CANCELLED


class LongEngine(NullEngine):
    """It gets ready when told to."""

    def __init__(self):
        self.ready = asyncio.Event()
        self.begun = asyncio.Event()

    async def prepare(self, spec, directory, notes, abort, mounting):
        self.begun.set()
        await self.ready.wait()
        await super().prepare(spec, directory, notes, abort, mounting)


async def test_an_attempt_that_is_given_up_while_its_work_ends_is_given_up(tmp_path):
    spec, engine, link = an_attempt(), LongEngine(), Link()
    directory = Directory.take_on(tmp_path, spec, spec.model_dump_json().encode(), "boot")
    async with Caller("unix:///nowhere") as storage, asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        reporter = Reporter("m", link, tasks, lambda: None)
        means = Means(engine, Forwarder("m", link, storage), reporter, storage, storage)
        life = group.create_task(Attempt(means, spec, directory, fresh=True, same_boot=True).live())
        await engine.begun.wait()
        engine.ready.set()
        await asyncio.sleep(0)

        life.cancel()
        await asyncio.wait({life}, timeout=2)
        given_up = life.cancelled()
        life.cancel()
        tasks.cancel()

    assert given_up


async def test_a_journal_that_goes_on_with_no_record_is_not_read_over_and_over(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(HEADER.pack(3 << 20, RecordKind.STDOUT, 1) + bytes(2 << 20))
    async with Caller("unix:///nowhere") as storage:
        forwarder = Forwarder("m", Link(), storage)
        tail = forwarder.follow(7, 1, 3, str(path), fresh=True)

        async with asyncio.timeout(2):
            await forwarder._send_new(tail)

    assert tail.whole == 0


class Shelf:
    """A bus that stores; the scheduler reads a report before the runner hears that it is stored."""

    def __init__(self, link):
        self.stored = []
        self.on_store = None
        link.open(self)

    async def store(self, subject, data, *, message_id, stream):
        self.stored.append(message_id)
        self.on_store()


async def test_a_step_that_is_known_before_it_is_stored_is_counted_once():
    link = Link()
    shelf = Shelf(link)
    account = Account(7, 1, 3, [CommandStarted(at=datetime(2026, 1, 1, tzinfo=UTC))])
    async with asyncio.TaskGroup() as group:
        reporter = Reporter("m", link, Tasks(group), lambda: None)
        shelf.on_store = lambda: reporter.known(account, 1)

        reporter.known(account, 0)
        async with asyncio.timeout(5):
            while not shelf.stored or account.sending:
                await asyncio.sleep(0)

    assert account.sent == 1


@pytest.mark.parametrize("name", ["", "a b", "../x"])
def test_a_machine_type_that_is_no_name_is_refused_in_one_sentence(tmp_path, name):
    given = Settings(str(tmp_path), "", "", "", "", machine_id="m", machine_type=name)

    with pytest.raises(SettingsError, match="SPELL_MACHINE_TYPE"):
        machine(given)


async def test_what_is_started_after_the_end_ends_at_once():
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        before = tasks.start(asyncio.sleep(60))
        tasks.cancel()
        after = tasks.start(asyncio.sleep(60))

    assert before.cancelled()
    assert after.cancelled()
