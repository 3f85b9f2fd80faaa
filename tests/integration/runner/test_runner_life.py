"""The whole runner among a real scheduler, a real storage and a real bus: every way a run can go."""

import contextlib
import os
import re
import signal
import socket
from datetime import UTC

import pytest

from integration.runner import shims
from integration.runner.room import room
from spell_proto import codec, subjects
from spell_proto.commands import StartAttempt
from spell_proto.journal import RecordKind, whole_records
from spell_runner.environments import BARE, CACHED
from spell_runner.shim import launch, processes
from support.scheduler import until
from support.shelf import code

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIFE = ["requested", "building", "running", "saving", "pushing", "complete"]


@pytest.mark.parametrize("isolation", shims.ISOLATIONS)
async def test_a_run_goes_through_its_whole_life(rooms, isolation):
    here = await rooms(isolation)
    command = (
        'python train.py; cat ../data/in.txt; echo "$GREETING $SPELL_RUN"; echo new > ../model; '
        "mkdir -p ../../out; echo o > ../../out/o; exit 66"
    )
    files = {"sub/train.py": b"print('trained')\n", "data/in.txt": b"in\n", "same": b"same"}
    given = here.front.shelf.code(files, cwd="sub")

    run_id = await here.create(command, code=given, env={"GREETING": "hello"})
    view = await here.until_final(run_id)

    assert await here.client.states(run_id) == LIFE
    assert (view.exit_code, view.reason, view.saved_files) == (66, None, 2)
    assert await here.output(run_id) == b"trained\nin\nhello %d\n" % run_id
    assert await here.files(view) == {"model": b"new\n", "out/o": b"o\n"}
    assert await here.lines(run_id) == [
        "Run is building",
        "Machine acquired -- commencing run",
        *(["Retrieving cached environment..."] if isolation == "docker" else [CACHED, BARE]),
        "Run is running",
        "Run is saving",
        "Scanning for modified or new files from the run",
        "Saving '/spell/out/o'",
        "Saving '/spell/repo/model'",
        "Run is pushing",
        "Saving build environment for future runs",
    ]
    await here.assert_whole(view)
    await here.until_gone(run_id)


async def test_a_run_that_makes_nothing_needs_no_trip_to_storage_for_files(rooms):
    here = await rooms("none")
    view = await here.until_final(await here.create("true"))

    assert (view.manifest, view.saved_files, view.saved_bytes) == (None, 0, 0)
    assert "No modified or new files found" in await here.lines(view.id)
    assert not [one for one in here.front.asked if "blobs" in one or "manifests" in one]


async def test_many_runs_at_once_all_end(rooms):
    here = await rooms("unshare")
    run_ids = [await here.create(f"echo {number}; exit {number}") for number in range(24)]

    for number, run_id in enumerate(run_ids):
        view = await here.until_final(run_id)
        assert (view.exit_code, await here.output(run_id)) == (number, b"%d\n" % number)
        await here.until_gone(run_id)


async def test_the_null_engine_runs_nothing_and_reports_everything(services):
    async with room(services, SPELL_ENGINE="null", SPELL_SLOTS="16") as here:
        run_ids = [await here.create(f"touch {here.directory}/touched") for _ in range(20)]

        for run_id in run_ids:
            view = await here.until_final(run_id)
            assert (view.state, view.exit_code) == ("complete", 0)
            assert [record.kind for record in await here.records(run_id)] == [RecordKind.END]
            await here.assert_whole(view)
            await here.until_gone(run_id)
        assert not (here.directory / "touched").exists()


async def test_live_bytes_are_the_journal_without_gap_or_overlap(rooms):
    here = await rooms("none")
    got = []

    async def on_bytes(message):
        got.append((int(message.headers["Spell-Offset"]), message.data))

    async with here.bus.tail(f"spell.logs.{here.machine_id}.*", on_bytes):
        command = "for i in $(seq 50); do echo $i; done; head -c 3000000 /dev/zero; sleep 0.05; echo end"
        run_id = await here.create(command)
        view = await here.until_final(run_id)

        async def all_there():
            return sum(len(data) for _, data in got) >= view.log.journal_bytes

        await until(all_there)

    position = 0
    for offset, data in got:
        assert offset == position
        assert len(data) <= 256 * 1024
        assert whole_records(data) == len(data)
        position += len(data)
    assert position == view.log.journal_bytes


# ---- stop and kill -----------------------------------------------------------------------------------------------

UNTIL_TERM = "trap 'echo got term > result; exit 5' TERM; echo up; while :; do sleep 60 & wait; done"


@pytest.mark.parametrize("isolation", ["none", "unshare", "docker"])
async def test_a_stop_lets_the_command_finish_and_saves_its_files(rooms, isolation):
    here = await rooms(isolation)
    run_id = await here.create(UNTIL_TERM)
    await here.until_state(run_id, "running")
    await here.until_logged(run_id, b"up\n")

    await here.client.end(run_id, "stop")
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code, view.reason) == ("stopped", 5, "stopped_by_user")
    assert await here.files(view) == {"result": b"got term\n"}
    await here.assert_whole(view)


@pytest.mark.parametrize("isolation", ["none", "docker"])
async def test_a_kill_ends_at_once_and_saves_nothing(rooms, isolation):
    here = await rooms(isolation)
    run_id = await here.create(UNTIL_TERM)
    await here.until_logged(run_id, b"up\n")

    await here.client.end(run_id, "kill")
    view = await here.until_final(run_id)

    assert (view.state, view.reason, view.manifest) == ("killed", "killed_by_user", None)
    assert await here.output(run_id) == b"up\n"
    await here.assert_whole(view)
    await here.until_gone(run_id)


@pytest.mark.parametrize(("verb", "reason"), [("stop", "stopped_before_running"), ("kill", "killed_by_user")])
async def test_an_end_while_the_environment_is_built_means_that_nothing_runs(rooms, verb, reason):
    here = await rooms("none")
    here.builder.known = False
    here.builder.release.clear()
    run_id = await here.create(f"touch {here.directory}/ran", environment={"pip": [f"never-seen-{verb}"]})
    await here.until_logged(run_id, b"Resolving 1 package")

    await here.client.end(run_id, verb)
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("killed", reason)
    assert not (here.directory / "ran").exists()
    await here.assert_whole(view)


async def test_a_kill_while_files_are_saved_leaves_no_manifest(rooms):
    here = await rooms("none")
    here.front.broken = re.compile("/blobs/missing")
    run_id = await here.create("echo x > file")
    await here.until_state(run_id, "saving")
    await here.until_true(lambda: "POST /blobs/missing" in here.front.asked)

    await here.client.end(run_id, "kill")
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code, view.manifest) == ("killed", 0, None)
    await here.assert_whole(view)


# ---- what goes wrong -----------------------------------------------------------------------------------------------


async def test_a_build_that_fails_says_why(rooms):
    here = await rooms("none")
    here.builder.known = False
    here.builder.failure = "no version of nunpy exists"
    view = await here.until_final(await here.create("true", environment={"pip": ["nunpy"]}))

    assert (view.state, view.reason, view.message) == ("failed", "build_failed", here.builder.failure)
    assert "Resolving 1 package" in await here.lines(view.id)
    await here.assert_whole(view)


async def test_code_that_storage_does_not_have_or_that_is_hostile_fails_the_run(rooms):
    here = await rooms("none")
    hostile = here.front.shelf.code({"../../escape": b"x"})
    for given in (code("f" * 40, "f" * 40), hostile):
        view = await here.until_final(await here.create("true", code=given))

        assert (view.state, view.reason) == ("failed", "code_fetch")
        await here.assert_whole(view)
    assert not list(here.data.rglob("escape"))


async def test_a_large_pack_that_is_none_fails_the_run_at_once(rooms):
    here = await rooms("none")
    given = here.front.shelf.code({"a": os.urandom(8_000_000)})
    answer = here.front.shelf.pack

    async def garbled(body):
        head, _, pack = (await answer(body)).partition(b"\n")
        return head + b"\nJUNK" + pack

    here.front.shelf.pack = garbled
    try:
        views = [await here.until_final(await here.create("true", code=given)) for _ in range(5)]
    finally:
        here.front.shelf.pack = answer

    assert {(view.state, view.reason) for view in views} == {("failed", "code_fetch")}
    assert "pack signature mismatch" in views[0].message
    assert (await here.until_final(await here.create("true", code=given))).state == "complete"


async def test_code_that_cannot_be_copied_fails_the_run_and_leaves_no_copy(rooms):
    here = await rooms("none")
    given = here.front.shelf.code({"a": b"a", "b": b"b"})
    assert (await here.until_final(await here.create("true", code=given))).state == "complete"
    (copied,) = [path for path in here.data.glob("trees/**/b") if path.read_bytes() == b"b"]
    copied.parent.chmod(0o755)
    copied.unlink()
    with socket.socket(socket.AF_UNIX) as unreadable, contextlib.chdir(copied.parent):
        unreadable.bind("b")

    view = await here.until_final(await here.create("true", code=given))

    assert (view.state, view.reason) == ("failed", "start_failed")
    assert "the code could not be copied" in "".join(await here.lines(view.id))


@pytest.mark.parametrize("isolation", ["none", "unshare", "docker"])
async def test_a_command_that_cannot_be_started_fails_the_run(rooms, isolation):
    here = await rooms(isolation)
    given = here.front.shelf.code({"file": b"x"}, cwd="file")
    view = await here.until_final(await here.create("true", code=given))

    assert (view.state, view.reason) == ("failed", "start_failed")
    assert view.message.endswith("/repo/file: Not a directory")
    await here.assert_whole(view)


@pytest.mark.parametrize("isolation", ["none", "unshare"])
async def test_a_shim_that_vanishes_fails_the_run_and_leaves_no_process(rooms, isolation):
    here = await rooms(isolation)
    run_id = await here.create("(setsid sleep 300 &); echo up; sleep 300")
    await here.until_logged(run_id, b"up\n")
    await here.until_true(lambda: here.shim(run_id).started_us)
    below = processes.descendants(here.shim(run_id).pid)

    os.kill(here.shim(run_id).pid, signal.SIGKILL)
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "shim_lost")
    assert await here.output(run_id) == b"up\n"
    assert below
    await here.until_true(lambda: not any(processes.start_ticks(pid) for pid in below))
    await here.assert_whole(view)


async def test_an_attempt_of_another_boot_is_over(rooms):
    here = await rooms("none")
    run_id = await here.create("echo up; sleep 300")
    await here.until_logged(run_id, b"up\n")
    here.runner.kill9()
    claim = here.shim(run_id)
    for pid in (claim.pid, *processes.descendants(claim.pid)):
        os.kill(pid, signal.SIGKILL)
    intent = here.attempt(run_id) / "intent.json"
    intent.write_bytes(re.sub(rb'"boot_id":"[^"]*"', b'"boot_id":"another"', intent.read_bytes(), count=1))

    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "host_rebooted")
    await here.assert_whole(view)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (launch.JOURNAL, 0),
        (launch.JOURNAL, 4096),
        (launch.CLAIM, 0),
        (launch.CLAIM, 100),
        ("steps.jsonl", 0),
        ("steps.jsonl", 100),
        ("intent.json", 0),
    ],
)
async def test_whatever_a_power_cut_leaves_the_run_ends_and_keeps_what_storage_has(rooms, name, left):
    here = await rooms("none")
    run_id = await here.create("echo up; sleep 300")
    await here.until_state(run_id, "running")
    await until(lambda: has_stored(here, run_id, b"up\n"))
    here.end_everything()
    intent = here.attempt(run_id) / "intent.json"
    intent.write_bytes(re.sub(rb'"boot_id":"[^"]*"', b'"boot_id":"another"', intent.read_bytes(), count=1))
    (here.attempt(run_id) / name).write_bytes(bytes(left - 1) + b"\n" if left else b"")

    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "host_rebooted")
    assert await here.output(run_id) == b"up\n"
    if view.log is not None:
        await here.assert_whole(view)
    await here.until_gone(run_id)


async def has_stored(here, run_id, output):
    return output in await here.output(run_id)


async def test_a_journal_that_storage_has_more_of_ends_the_run_all_the_same(rooms):
    here = await rooms("none")
    run_id = await here.create("echo up; sleep 300")
    await here.until_state(run_id, "running")
    await until(lambda: has_stored(here, run_id, b"up\n"))
    here.end_everything()
    (here.attempt(run_id) / launch.JOURNAL).write_bytes(b"")

    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "shim_lost")
    assert await here.output(run_id) == b"up\n"
    await here.until_gone(run_id)


async def test_a_started_attempt_whose_record_is_lost_is_not_started_again(rooms):
    here = await rooms("none")
    count = here.directory / "count-lost"
    run_id = await here.create(f"echo x >> {count}; echo up; sleep 300")
    await here.until_state(run_id, "running")
    here.end_everything()
    here.attempt(run_id).rename(here.directory / "lost")

    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "shim_lost")
    assert count.read_text() == "x\n"


async def test_commands_that_come_again_or_late_start_nothing(rooms):
    here = await rooms("none")
    count = here.directory / "count-again"
    run_id = await here.create(f"echo x >> {count}; sleep 0.2")
    await here.until_state(run_id, "running")
    fence = (await here.held(run_id)).fence
    again = codec.encode(StartAttempt(run_id=run_id, attempt=1, fence=fence))
    for _ in range(5):
        await here.bus.send(subjects.machine_commands(here.machine_id), again)
    await here.until_final(run_id)
    await here.until_gone(run_id)

    await here.bus.send(subjects.machine_commands(here.machine_id), again)
    other = await here.until_final(await here.create("true"))

    assert other.state == "complete"
    assert count.read_text() == "x\n"
    assert not here.attempt(run_id).exists()
    assert "an attempt is over before its start" in here.runner.log.read_text()


async def test_a_message_that_cannot_be_read_harms_nobody(rooms):
    here = await rooms("none")
    for data in (b"", b"{", b'{"kind": "dance"}', b'{"kind": "start_attempt", "v": 2}', b"\xff" * 1000):
        await here.bus.send(subjects.machine_commands(here.machine_id), data)

    assert (await here.until_final(await here.create("true"))).state == "complete"


async def test_times_are_of_this_machine_and_in_order(rooms):
    here = await rooms("none")
    view = await here.until_final(await here.create("sleep 0.2"))

    assert view.started_at is not None
    assert view.started_at.tzinfo == UTC
    assert 0.2 <= view.run_seconds < 3


async def test_a_command_is_not_disturbed_when_the_runner_is_asked_to_end(rooms):
    here = await rooms("none")
    run_id = await here.create("echo up; sleep 1; echo done; exit 4")
    await here.until_logged(run_id, b"up\n")

    assert await here.runner.stop() == 0
    await here.until_true(lambda: launch.read(here.attempt(run_id)).ending)
    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.exit_code, await here.output(run_id)) == (4, b"up\ndone\n")
    await here.assert_whole(view)


async def test_a_run_that_is_not_wanted_here_any_more_is_ended(rooms):
    """As when the scheduler has given it up while this machine was out of reach."""
    here = await rooms("none")
    run_id = await here.create("sleep 300")
    await here.until_state(run_id, "running")
    pid = here.shim(run_id).pid
    intent = here.attempt(run_id) / "intent.json"
    here.runner.kill9()
    intent.write_bytes(re.sub(rb'"fence":\d+', b'"fence":0', intent.read_bytes()))

    here.runner.start()

    await here.until_true(lambda: not processes.start_ticks(pid))
