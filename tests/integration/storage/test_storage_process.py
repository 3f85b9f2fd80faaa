"""The storage process: it may be killed at any line, is asked to stop in order, and may run in several copies."""

import asyncio
import itertools
import os
import random
import signal
import stat
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from integration.storage.journal_bytes import a_journal, body_of, post, totals, verdict
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.journal import RecordKind, encode
from spell_proto.views import Health

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

HEALTH = TypeAdapter(Health)
_runs = itertools.count(9_000_000)


async def bytes_of(api, run_id):
    async with api.open("GET", f"/journals/{run_id}/0/bytes", stream=True) as response:
        return await response.read()


async def test_a_healthy_service_says_so_and_stops_with_status_0(own_storage):
    async with Caller(own_storage.address) as api:
        health = await api.call("GET", "/health", HEALTH)

    assert (health.service, health.ok) == ("storage", True)
    assert own_storage.stop() == 0
    assert '"storage has stopped"' in own_storage.log
    assert "Traceback" not in own_storage.log


async def test_what_was_acknowledged_survives_kill_9_again_and_again(own_storage):
    """Senders keep on through kills; what they were told is stored is there, and all of it in the end."""
    rng = random.Random(1)
    journals = {next(_runs): a_journal(seed, 60, 3_000) for seed in range(6)}
    acknowledged = dict.fromkeys(journals, 0)
    sealed = set()

    async def send(run_id):
        data, borders, _ = journals[run_id]
        while run_id not in sealed:
            first = acknowledged[run_id]
            last = min([b for b in borders if b > first][:3][-1:], default=len(data))
            try:
                async with Caller(own_storage.address, timeout_seconds=5) as api:
                    [end] = await post(api, (run_id, 0, 1, first, data[first:last]))
            except (UnavailableError, RefusedError, OSError):
                await asyncio.sleep(0.02)
                continue
            assert end.end >= acknowledged[run_id]
            acknowledged[run_id] = end.end
            if end.sealed:
                sealed.add(run_id)

    async def kill():
        for _ in range(3):
            before = sum(acknowledged.values())
            async with asyncio.timeout(10):
                while sum(acknowledged.values()) < before + 20_000 and len(sealed) < len(journals):
                    await asyncio.sleep(rng.random() / 100)
            await asyncio.to_thread(own_storage.stop, signal.SIGKILL)
            await asyncio.to_thread(own_storage.start)

    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        for run_id in journals:
            tasks.create_task(send(run_id))
        tasks.create_task(kill())

    async with Caller(own_storage.address) as api:
        for run_id, (data, _, streams) in journals.items():
            assert await bytes_of(api, run_id) == data
            check = await verdict(api, run_id, **totals(streams), journal_bytes=len(data))
            assert check.ok, check.detail


async def test_without_its_database_the_service_says_so_and_comes_back_with_it(own_database, start_storage):
    run_id = next(_runs)
    data, _, _ = a_journal(3, 5)
    service = start_storage(own_database.url("storage"))
    async with Caller(service.address) as api:
        await post(api, (run_id, 0, 1, 0, data[:200]))
        own_database.kill9()

        async def post_until_refused():
            # Its connections live a moment longer than the database itself; sent again, nothing changes.
            async with asyncio.timeout(20):
                while True:
                    await post(api, (run_id, 0, 1, 0, data))

        with pytest.raises(UnavailableError):
            await post_until_refused()
        health = await api.call("GET", "/health", HEALTH)
        await own_database.restart()
        async with asyncio.timeout(20):
            while not (await api.call("GET", "/health", HEALTH)).ok:
                await asyncio.sleep(0.05)
        [end] = await post(api, (run_id, 0, 1, 0, data))

        assert not health.ok
        assert (end.end, end.sealed) == (len(data), True)
        assert await bytes_of(api, run_id) == data


async def test_two_copies_of_the_service_append_to_the_same_journals(storage, own_storage):
    rng = random.Random(2)
    journals = {next(_runs): a_journal(seed, 80, 400) for seed in range(5)}
    sealed = set()

    async def send(api):
        while len(sealed) < len(journals):
            order = list(journals.items())
            rng.shuffle(order)
            parts = []
            for run_id, (data, borders, _) in order:
                first = rng.choice(borders[:-1])
                parts.append((run_id, 0, 1, first, data[first : first + rng.randrange(5_000)]))
            sealed.update(end.run_id for end in await post(api, *parts) if end.sealed)

    async with Caller(storage.address) as one, Caller(own_storage.address) as two:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for api in (one, two, one, two):
                tasks.create_task(send(api))

        for run_id, (data, _, _) in journals.items():
            assert await bytes_of(one, run_id) == await bytes_of(two, run_id) == data


async def test_requests_in_hand_are_answered_before_the_service_stops(own_storage):
    data = encode(RecordKind.STDOUT, 1, b"x" * 1000)
    parts = [(next(_runs), 0, 1, 0, data) for _ in range(200)]

    async with Caller(own_storage.address) as api, asyncio.TaskGroup() as tasks:
        posts = [tasks.create_task(post(api, part)) for part in parts]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        status = tasks.create_task(asyncio.to_thread(own_storage.stop))

    assert status.result() == 0
    assert all(task.result()[0].end == len(data) for task in posts)


async def test_a_client_that_goes_away_takes_nobody_with_it(storage):
    data = encode(RecordKind.STDOUT, 1, b"x" * 100)
    runs = [next(_runs) for _ in range(40)]

    async with Caller(storage.address) as api:
        async with asyncio.TaskGroup() as tasks:
            posts = [tasks.create_task(post(api, (run_id, 0, 1, 0, data))) for run_id in runs]
            await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            for task in posts[::2]:
                task.cancel()

        assert all(task.result()[0].end == len(data) for task in posts[1::2])


async def test_bytes_are_streamed_in_bounded_memory(own_storage):
    """64 MiB of journal, and readers that do not read: the process stays small."""
    run_id, offset = next(_runs), 0
    piece = b"".join(encode(RecordKind.STDOUT, n, os.urandom(1 << 19)) for n in range(8))
    async with Caller(own_storage.address) as api:
        for _ in range(16):
            async with api.open("POST", "/journals", data=body_of((run_id, 0, 1, offset, piece))):
                offset += len(piece)
        before = _peak_kib(own_storage.process.pid)

        for path in (f"/journals/{run_id}/0/bytes", f"/journals/{run_id}/0/output?stream=stdout"):
            async with (
                api.open("GET", path, stream=True) as one,
                api.open("GET", path, stream=True) as two,
            ):
                await one.content.readexactly(1_000)
                size = 0
                async for data in two.content.iter_any():
                    size += len(data)
                assert size >= 16 * 8 << 19

        assert _peak_kib(own_storage.process.pid) - before < 48 * 1024


def _peak_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def test_the_host_key_is_made_once_and_kept_private(own_storage):
    key = own_storage.data / "ssh_host_ed25519_key"
    before = key.read_bytes()
    own_storage.stop()
    own_storage.start()

    assert key.read_bytes() == before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.with_suffix(".pub").read_text().startswith("ssh-ed25519 ")
