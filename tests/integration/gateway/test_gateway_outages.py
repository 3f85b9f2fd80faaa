"""The gateway when others are down, and when it is told to stop."""

import asyncio
import contextlib

import pytest

from integration.gateway.stage import until
from spell_gateway import live
from spell_proto import bus
from spell_proto.journal import RecordKind

pytestmark = pytest.mark.integration
R = RecordKind


async def test_a_follower_outlives_storage_and_scheduler(stage, client):
    async with stage.machine("restarts") as machine:
        run = await client.create("restarts")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            await client.until_state(run["id"], "running")
            attempt.write(R.STDOUT, b"a" * 3000)
            first = len(attempt.journal)
            attempt.write(R.STDOUT, b"b" * 3000)
            stage.storage.kill9()
            stage.scheduler.kill9()
            # The first piece is lost on its way, so the second cannot be shown until storage is back.
            await attempt.live(first)
            stage.storage.start()
            await stage.scheduler.start()
            await stage.until_up(stage.storage)
            totals = attempt.seal()
            await attempt.store()
            await attempt.finish(totals)
            await stream.rest()

    assert stream.journal == attempt.journal
    assert stream.kinds[-1] == R.DONE


async def test_sigterm_lets_followers_go_and_they_come_back(stage, client):
    run = await client.create()
    async with client.follow(run["id"]) as stream:
        await stream.until(R.CAUGHT_UP)
        stopping = asyncio.ensure_future(stage.gateway.stop())
        await stream.rest()
        status = await stopping
    stage.gateway.start()
    await stage.until_up(stage.gateway)
    version = stream.of(R.STATE)[-1].json()["version"]
    async with client.follow(run["id"], version=version) as again:
        await client.ask("POST", f"/api/runs/{run['id']}/kill")
        await again.rest()
    _, me = await client.ask("GET", "/api/me")

    assert status == 0
    assert not stream.of(R.DONE)
    assert again.kinds[-1] == R.DONE
    assert len(again.of(R.STATE)) == 1
    assert me["user"]["name"] == "ada"


async def test_without_a_scheduler_a_call_says_try_again(stage, client):
    stage.scheduler.kill9()
    try:
        async with client.session.get("/api/runs") as response:
            answer = response.status, response.headers["Retry-After"], (await response.json())["code"]
        followed = await client.ask("GET", "/api/runs/1/follow")
    finally:
        await stage.scheduler.start()

    assert answer == (503, "1", "unavailable")
    assert followed[0] == 503


# The scheduler sweeps up what it could not publish some seconds after the bus is back, so these come last.


async def test_a_follower_needs_no_message_bus(stage, client):
    run = await client.create()
    try:
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            stage.nats.kill9()
            stage.nats.wipe()
            other = await client.create()
            await client.ask("POST", f"/api/runs/{run['id']}/kill")
            await stream.rest()
    finally:
        await stage.nats.restart()

    assert other["id"] > run["id"]
    assert stream.kinds[-1] == R.DONE


async def test_the_gateway_starts_without_a_message_bus_and_finds_it_later(stage, client):
    run = await client.create()
    stage.nats.kill9()
    try:
        assert await stage.gateway.stop() == 0
        stage.gateway.start()
        await stage.until_up(stage.gateway)
        _, health = await client.ask("GET", "/api/health")
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            await stage.nats.restart()
            await client.ask("POST", f"/api/runs/{run['id']}/kill")
            await stream.rest()
    finally:
        with contextlib.suppress(RuntimeError):
            if stage.nats._process.poll() is not None:
                await stage.nats.restart()

    async def connected():
        return (await client.ask("GET", "/api/health"))[1]["detail"] == ""

    assert health["ok"]
    assert "message bus" in health["detail"]
    assert stream.kinds[-1] == R.DONE
    await until(connected)


async def test_who_comes_while_the_subscriptions_of_others_are_left_gets_new_ones(stage, monkeypatch):
    monkeypatch.setattr(live, "LINGER_SECONDS", 0.05)
    leaving, tail = asyncio.Event(), bus.Bus.tail

    @contextlib.asynccontextmanager
    async def left_slowly(self, subject, handler):
        async with tail(self, subject, handler):
            yield
            leaving.set()
            await asyncio.sleep(0.2)

    monkeypatch.setattr(bus.Bus, "tail", left_slowly)
    shared, stop = live.Live(), asyncio.Event()

    async def subscribed():
        await shared.ready()
        return shared.subscribed

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(shared.serve(stop, stage.nats.service_url))
        with shared.listen(1):
            await until(subscribed)
        await leaving.wait()
        with shared.listen(2):
            believed = shared.subscribed
            await until(subscribed)
        stop.set()

    assert not believed
