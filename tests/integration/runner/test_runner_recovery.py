"""The runner is killed, the bus, the scheduler and storage go away: runs go on, and everything is made up for."""

import asyncio
import os
import random
import re
import signal

import pytest

from integration.runner import shims
from integration.runner.room import room
from spell_runner.engines.server import ShimServer
from spell_runner.shim import launch

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("isolation", shims.ISOLATIONS)
async def test_a_killed_runner_takes_its_run_up_again_and_the_log_is_whole(rooms, isolation):
    here = await rooms(isolation)
    run_id = await here.create("for i in $(seq 20); do echo $i; sleep 0.05; done; echo file > made; exit 7")
    await here.until_logged(run_id, b"3\n")

    here.runner.kill9()
    await here.until_logged(run_id, b"12\n")
    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == ("complete", 7)
    assert await here.output(run_id) == b"".join(b"%d\n" % number for number in range(1, 21))
    assert await here.files(view) == {"made": b"file\n"}
    await here.assert_whole(view)


@pytest.mark.parametrize("isolation", ["none", "docker"])
async def test_a_command_that_ends_while_no_runner_is_there_is_not_lost(rooms, isolation):
    here = await rooms(isolation)
    run_id = await here.create("echo up; sleep 0.5; echo down; exit 3")
    await here.until_logged(run_id, b"up\n")

    here.runner.kill9()
    await here.until_true(lambda: here.shim(run_id).ending)
    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.exit_code, await here.output(run_id)) == (3, b"up\ndown\n")
    await here.assert_whole(view)


async def test_killed_at_any_moment_every_run_ends_complete_and_ran_once(services):
    """Kill -9 over and over, at random moments, while runs with code, output and files go through their lives."""
    random.seed(7)
    async with room(services, SPELL_ISOLATION="unshare", SPELL_SLOTS="4") as here:
        count = here.directory / "count"
        command = f"echo $SPELL_RUN >> {count}; cat a b/c; git log --format=%H; git diff-files"
        command += "; git status --porcelain; echo x > made; sleep 0.1"
        codes = [here.front.shelf.code({"a": b"a", "b/c": b"c", "n": b"%d" % n}) for n in range(12)]
        run_ids = [await here.create(command, code=given) for given in codes]
        for _ in range(8):
            await asyncio.sleep(random.uniform(0.0, 0.25))
            here.runner.kill9()
            here.runner.start()
            await here.until_true(here.ready_since_start)
        views = [await here.until_final(run_id) for run_id in run_ids]

        assert [view.state for view in views] == ["complete"] * 12
        assert sorted(map(int, count.read_text().split())) == run_ids
        for view, given in zip(views, codes, strict=True):
            assert await here.output(view.id) == f"ac{given['commit']}\n".encode()
            assert await here.files(view) == {"made": b"x\n"}
            await here.assert_whole(view)
            await here.until_gone(view.id)


@pytest.mark.parametrize("verb", ["stop", "kill"])
async def test_an_end_that_is_asked_while_no_runner_is_there_comes_with_the_heartbeat(rooms, verb):
    here = await rooms("none")
    run_id = await here.create("trap 'exit 5' TERM; echo up; while :; do sleep 60 & wait; done")
    await here.until_logged(run_id, b"up\n")
    await here.until_state(run_id, "running")

    here.runner.kill9()
    await here.client.end(run_id, verb)
    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == (("stopped", 5) if verb == "stop" else ("killed", None))
    await here.assert_whole(view)


async def test_storage_that_is_away_is_waited_for_at_every_point(rooms):
    here = await rooms("none")
    here.front.broken = re.compile("/code/|/blobs|/manifests|/journals")
    given = here.front.shelf.code({"a": b"a"})
    run_id = await here.create("cat a; echo x > made", code=given)
    await here.until_true(lambda: [one for one in here.front.asked if "/code/" in one])
    here.front.broken = re.compile("/blobs|/manifests|/journals")
    await here.until_true(lambda: "POST /blobs/missing" in here.front.asked)
    here.front.broken = re.compile("/journals")
    await here.until_true(lambda: "PUT /manifests" in here.front.asked)
    assert (await here.client.get(run_id)).state != "complete"

    here.front.broken = None
    view = await here.until_final(run_id)

    assert (view.state, await here.output(run_id)) == ("complete", b"a")
    assert await here.files(view) == {"made": b"x\n"}
    await here.assert_whole(view)


async def test_a_scheduler_that_is_away_hears_everything_later(services, rooms):
    here = await rooms("none")
    run_id = await here.create("echo up; sleep 0.3; exit 9")
    await here.until_logged(run_id, b"up\n")
    services.scheduler.kill9()
    try:
        await here.until_true(lambda: here.shim(run_id).ending)
    finally:
        await services.scheduler.start()
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == ("complete", 9)
    await here.assert_whole(view)


async def test_a_bus_that_is_killed_and_forgets_everything_costs_nothing(services, rooms):
    here = await rooms("none")
    run_ids = [await here.create("echo up; sleep 0.5; echo end; exit 8") for _ in range(3)]
    for run_id in run_ids:
        await here.until_logged(run_id, b"up\n")

    services.nats.kill9()
    services.nats.wipe()
    await here.until_true(lambda: all(launch.read(here.attempt(one)).ending for one in run_ids))
    await services.nats.restart()

    for run_id in run_ids:
        view = await here.until_final(run_id)
        assert (view.state, view.exit_code, await here.output(run_id)) == ("complete", 8, b"up\nend\n")
        await here.assert_whole(view)


async def test_a_runner_that_starts_without_a_bus_still_looks_after_its_runs(services, rooms):
    here = await rooms("none")
    run_id = await here.create("echo up; sleep 0.3; echo end")
    await here.until_logged(run_id, b"up\n")
    here.runner.kill9()
    services.nats.kill9()
    try:
        here.runner.start()
        await here.until_true(lambda: b"attempt_finished" in here.steps(run_id))
    finally:
        await services.nats.restart()
    view = await here.until_final(run_id)

    assert (view.state, await here.output(run_id)) == ("complete", b"up\nend\n")
    await here.assert_whole(view)


async def test_a_fork_server_that_is_killed_is_replaced_and_its_runs_go_on(rooms):
    here = await rooms("none")
    running = await here.create("echo up; sleep 0.5; exit 6")
    await here.until_logged(running, b"up\n")

    for pid in here.fork_servers():
        os.kill(pid, signal.SIGKILL)
    after = await here.until_final(await here.create("exit 4"))
    view = await here.until_final(running)

    assert (after.state, after.exit_code) == ("complete", 4)
    assert (view.state, view.exit_code) == ("complete", 6)


async def test_a_fork_server_of_older_code_hands_over():
    with shims.yard() as yard:
        running = yard.start("echo up; sleep 0.3; exit 2")
        running.until_output(b"up")
        yard.connection.close()
        yard.connection = None

        server = ShimServer(yard.data, 1.0)
        await server.open()
        fresh = yard.launch("exit 3")
        await server.start(fresh.path.name)
        codes = [await asyncio.to_thread(one.until_over) for one in (running, fresh)]
        await server.close()

        assert [claim.ending.exit_code for claim in codes] == [2, 3]
        assert yard.server.wait(10) == 0
