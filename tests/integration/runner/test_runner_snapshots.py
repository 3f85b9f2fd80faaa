"""Snapshots of running runs: asked for or every now and then, whatever is killed or lost on the way."""

import asyncio
import itertools
import re

import pytest

from integration.runner import shims
from integration.runner.stowing import mount, stow
from spell_proto.errors import ConflictError
from support.scheduler import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
#: Bytes on their way to storage: of small files together, of a large one alone.
SENDING = re.compile("PUT /blobs|POST /blobs/pack")
UNTIL_KILLED = "while sleep 0.05; do :; done"


async def snapshots(here, run_id, count):
    """The run, once it has so many snapshots."""

    async def there():
        view = await here.client.get(run_id)
        return view if len(view.snapshots) >= count else None

    return await until(there)


@pytest.mark.parametrize("isolation", shims.ISOLATIONS)
async def test_a_running_run_is_saved_and_goes_on(rooms, isolation):
    here = await rooms(isolation)
    code = here.front.shelf.code({"same": b"same", "old": b"old", "gone": b"gone", "dir/file": b"f"})
    command = (
        "echo one > new; echo other > old; rm gone; ln -s new link; rm -r dir; mkdir dir; echo x > dir/x; mkfifo pipe; "
        "echo ready; read _ < pipe; echo two > new; echo done > end"
    )
    run_id = await here.create(command, code=code)
    await here.until_logged(run_id, b"ready\n")

    asked = (await here.client.save(run_id)).asked
    view = await snapshots(here, run_id, 1)

    first = view.snapshots[0]
    assert (view.state, asked, first.number, first.asked, first.files) == ("running", 1, 1, 1, 3)
    assert await here.files(view, 1) == {"new": b"one\n", "old": b"other\n", "link": b"new", "dir/x": b"x\n"}
    await here.client.end(run_id, "stop")
    ended = await here.until_final(run_id)
    assert set(await here.files(ended)) >= {"new", "old", "link", "dir/x"}
    assert ended.snapshots == view.snapshots
    await here.until_gone(run_id)


async def test_a_snapshot_and_the_final_save_record_the_same_deletions(rooms):
    here = await rooms("unshare")
    code = here.front.shelf.code({"gone": b"gone", "dir/file": b"f", "sub/kept": b"k"})
    command = f"rm gone; rm -r dir; mkdir dir; echo x > dir/x; echo ready; {UNTIL_KILLED}"
    run_id = await here.create(command, code=code)
    await here.until_logged(run_id, b"ready\n")

    await here.client.save(run_id)
    await snapshots(here, run_id, 1)
    await here.client.end(run_id, "stop")
    view = await here.until_final(run_id)

    # What was deleted is part of the manifest, so it is the same in both if the digests are.
    assert view.manifest == view.snapshots[0].manifest


async def test_everybody_who_asks_gets_what_was_there_when_he_asked(rooms):
    here = await rooms("none")
    run_id = await here.create(
        f"echo 1 > a; echo ready; while sleep 0.01; do date +%N > a; done; {UNTIL_KILLED}"
    )
    await here.until_logged(run_id, b"ready\n")

    asked = [(await here.client.save(run_id)).asked for _ in range(5)]

    assert asked == [1, 2, 3, 4, 5]

    async def all_met():
        view = await here.client.get(run_id)
        return view if view.saves_met == 5 else None

    view = await until(all_met)
    assert [one.number for one in view.snapshots] == list(range(1, len(view.snapshots) + 1))
    assert view.snapshots[-1].asked == 5
    await here.client.end(run_id, "kill")
    killed = await here.until_final(run_id)
    assert (killed.state, killed.manifest, killed.snapshots) == ("killed", None, view.snapshots)
    assert set(await here.files(killed, 1)) == {"a"}


async def test_a_run_saves_itself_every_now_and_then_as_long_as_there_is_something_new(rooms):
    here = await rooms("none")
    command = (
        "for i in 1 2; do echo $i > file; echo wrote $i; until [ -e go$i ]; do sleep 0.05; done; done; "
        + UNTIL_KILLED
    )
    run_id = await here.create(command, save_every_seconds=1)

    view = await snapshots(here, run_id, 1)
    workspace = here.attempt(run_id) / "spell"
    assert await here.files(view, 1) == {"file": b"1\n"}
    (workspace / "go1").touch()
    view = await snapshots(here, run_id, 2)

    assert (await here.files(view, view.snapshots[-1].number))["file"] in {b"1\n", b"2\n"}
    assert (view.saves, view.saves_met) == (0, 0)
    (workspace / "go2").touch()
    view = await snapshots(here, run_id, len(view.snapshots) + 1)
    here.front.asked.clear()
    await here.until_true(lambda: here.front.asked.count("PUT /manifests") >= 2)
    assert (await here.client.get(run_id)).snapshots[-1].manifest != view.snapshots[-2].manifest
    manifests = [one.manifest for one in (await here.client.get(run_id)).snapshots]
    assert all(one != following for one, following in itertools.pairwise(manifests)), (
        "no two in a row are the same"
    )
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_a_runner_that_is_asked_to_end_does_not_wait_for_a_snapshot(rooms):
    here = await rooms("none")
    run_id = await here.create(f"echo never sent before > a; echo ready; {UNTIL_KILLED}")
    await here.until_logged(run_id, b"ready\n")
    here.front.gate.clear()
    here.front.held = SENDING

    await here.client.save(run_id)
    await here.until_true(lambda: any(map(SENDING.search, here.front.asked)))
    async with asyncio.timeout(10):
        assert await here.runner.stop() == 0
    assert not (here.attempt(run_id) / "snapshot").exists()
    here.front.held = None
    here.front.gate.set()
    here.runner.start()

    assert set(await here.files(await snapshots(here, run_id, 1), 1)) == {"a"}
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_a_command_that_gets_lost_is_made_up_for_by_the_next_heartbeat(rooms):
    here = await rooms("none")
    run_id = await here.create(f"echo 1 > a; echo ready; {UNTIL_KILLED}")
    await here.until_logged(run_id, b"ready\n")
    here.runner.kill9()

    await here.client.save(run_id)
    here.runner.start()

    view = await snapshots(here, run_id, 1)
    assert await here.files(view, 1) == {"a": b"1\n"}
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


@pytest.mark.parametrize("isolation", ["none", "unshare"])
async def test_a_runner_that_is_killed_in_the_middle_takes_the_snapshot_once_more(rooms, isolation):
    here = await rooms(isolation)
    run_id = await here.create(f"echo of its own > a; echo ready; {UNTIL_KILLED}")
    await here.until_logged(run_id, b"ready\n")
    here.front.gate.clear()
    here.front.held = SENDING

    await here.client.save(run_id)
    await here.until_true(lambda: any(map(SENDING.search, here.front.asked)))
    here.runner.kill9()
    assert (here.attempt(run_id) / "snapshot").exists()
    here.front.held = None
    here.front.gate.set()
    here.runner.start()

    view = await snapshots(here, run_id, 1)
    assert (view.state, [one.number for one in view.snapshots]) == ("running", [1])
    assert await here.files(view, 1) == {"a": b"of its own\n"}
    await here.until_true(lambda: not (here.attempt(run_id) / "snapshot").exists())
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_a_command_that_ends_while_it_is_saved_is_not_held_up(rooms):
    here = await rooms("none")
    run_id = await here.create("echo 1 > a; echo ready; until [ -e go ]; do sleep 0.05; done; exit 5")
    await here.until_logged(run_id, b"ready\n")
    here.front.broken = re.compile("POST /blobs/missing")

    await here.client.save(run_id)
    await here.until_true(lambda: any("/blobs/missing" in asked for asked in here.front.asked))
    (here.attempt(run_id) / "spell/go").touch()
    await here.until_state(run_id, "saving")
    here.front.broken = None
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code, view.saves, view.saves_met, view.snapshots) == (
        "complete",
        5,
        1,
        0,
        (),
    )
    assert set(await here.files(view)) == {"a", "go"}


async def test_a_snapshot_that_cannot_be_saved_says_why_and_harms_nobody(rooms):
    here = await rooms("none")
    run_id = await here.create(f"echo 1 > a; echo ready; {UNTIL_KILLED}")
    await here.until_logged(run_id, b"ready\n")
    here.front.refused = re.compile("PUT /manifests")

    await here.client.save(run_id)

    async def met():
        view = await here.client.get(run_id)
        return view if view.saves_met else None

    view = await until(met)
    assert (view.state, view.snapshots) == ("running", ())
    assert "no manifest today" in view.save_problem
    here.front.refused = None
    await here.client.save(run_id)
    assert (await snapshots(here, run_id, 1)).save_problem is None
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_a_run_that_cannot_save_itself_says_so_once_and_until_it_can(rooms):
    here = await rooms("none")
    here.front.refused = re.compile("PUT /manifests")
    run_id = await here.create(f"echo 1 > a; echo ready; {UNTIL_KILLED}", save_every_seconds=1)

    async def problem():
        return (await here.client.get(run_id)).save_problem

    async def none():
        return await problem() is None

    assert "no manifest today" in await until(problem)
    here.front.asked.clear()
    await here.until_true(lambda: here.front.asked.count("PUT /manifests") >= 1)
    assert (here.attempt(run_id) / "steps.jsonl").read_bytes().count(b"snapshot_failed") == 1
    here.front.refused = None
    await until(none)
    assert len((await snapshots(here, run_id, 1)).snapshots) == 1
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_what_does_not_run_is_not_saved(rooms):
    here = await rooms("none")
    run_id = await here.create("true")
    await here.until_final(run_id)

    with pytest.raises(
        ConflictError, match=f"run {run_id} is complete; a snapshot is taken of one that is running"
    ):
        await here.client.save(run_id)


@pytest.mark.parametrize("isolation", shims.ISOLATIONS[1:])
async def test_what_was_changed_where_something_is_mounted_is_in_a_snapshot_too(rooms, isolation):
    here = await rooms(isolation)
    manifest = await stow(here, {"d/same": b"same", "d/old": b"old", "d/gone": b"gone"})
    mounts = [
        mount(here, manifest, "/spell/in", "d"),
        mount(here, manifest, "/spell/one", "d/old", is_file=True),
        mount(here, manifest, "/mnt/scratch", "d"),
    ]
    command = (
        f"echo n > in/new; echo o > in/old; rm in/gone; echo s > /mnt/scratch/s; echo ready; {UNTIL_KILLED}"
    )
    run_id = await here.create(command, mounts=mounts)
    await here.until_logged(run_id, b"ready\n")

    await here.client.save(run_id)
    view = await snapshots(here, run_id, 1)

    assert await here.files(view, 1) == {"in/new": b"n\n", "in/old": b"o\n"}
    await here.client.end(run_id, "stop")
    assert (await here.until_final(run_id)).manifest == view.snapshots[0].manifest
