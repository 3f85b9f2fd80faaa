"""Saving goes on from what is stored, whoever is killed wherever, and keeps files that change meanwhile whole."""

import asyncio
import hashlib
import re

import asyncpg
import pytest

from support.scheduler import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
FILES = 12
FILE_BYTES = 300_000
#: Of so many files the bytes may be on their way when somebody dies.
UPLOADS_AT_ONCE = 4
MAKE = (
    f"for i in $(seq {FILES}); do head -c {FILE_BYTES} /dev/urandom > $i; done; echo ready; "
    "until [ -e go ]; do sleep 0.05; done"
)
POINTS = ["POST /blobs/missing", "PUT /blobs/", "PUT /blobs/", "PUT /blobs/", "PUT /manifests"]


async def make(here):
    """A run whose files are there, and which ends as soon as it is let."""
    run_id = await here.create(MAKE)
    await here.until_logged(run_id, b"ready\n")
    workspace = here.attempt(run_id) / "spell"
    made = {path.name: path.read_bytes() for path in workspace.iterdir()}
    here.front.sent.clear()
    here.front.asked.clear()
    return run_id, workspace, made | {"go": b""}


async def saved(here, run_id):
    """The run, once it was saved as it was asked to be."""

    async def taken():
        view = await here.client.get(run_id)
        return view if view.saves_met else None

    return await until(taken)


def assert_little_was_sent_twice(here, made, deaths):
    """What storage has said that it has never comes again; of the rest, what was on its way."""
    known: set[str] = set()
    total = 0
    for asked, size, status in here.front.sent:
        if asked.startswith("PUT /blobs/"):
            assert asked not in known, "it was there already"
            total += size
            if status == 201:
                known.add(asked)
    whole = sum(len(data) for data in made.values())
    # What arrived while its sender died is stored, but nobody was left to be told.
    assert abs(total - whole) <= deaths * UPLOADS_AT_ONCE * FILE_BYTES


@pytest.mark.parametrize("point", sorted(set(POINTS)))
@pytest.mark.parametrize("count", [1, 3])
async def test_a_runner_killed_while_it_saves_sends_only_what_is_missing(rooms, point, count):
    here = await rooms("none")
    run_id, workspace, made = await make(here)
    deaths = 0

    (workspace / "go").touch()
    for _ in range(count):
        here.front.gate.clear()
        here.front.asked.clear()
        here.front.held = re.compile(point)
        if point == "PUT /blobs/":
            # A few come through each time, and once all have, the manifest.
            await here.until_true(
                lambda: any(asked.startswith((point, "PUT /manifests")) for asked in here.front.asked)
            )
            here.front.gate.set()
            wanted = len(here.front.sent) + 2
            await here.until_true(
                lambda wanted=wanted: (
                    len(here.front.sent) >= wanted
                    or any(asked.startswith("PUT /manifests") for asked, _, _ in here.front.sent)
                )
            )
        else:
            await here.until_true(lambda: any(point in asked for asked in here.front.asked))
        if (await here.client.get(run_id)).state != "saving":
            break
        here.runner.kill9()
        deaths += 1
        here.front.held = None
        here.front.gate.set()
        here.runner.start()
        await here.until_true(here.ready_since_start)
    here.front.held = None
    here.front.gate.set()
    view = await here.until_final(run_id)

    assert view.state == "complete"
    assert await here.files(view) == made
    assert_little_was_sent_twice(here, made, deaths)


async def test_a_storage_killed_while_files_come_keeps_what_it_has_said_that_it_has(rooms, services):
    here = await rooms("none")
    run_id, workspace, made = await make(here)

    (workspace / "go").touch()
    await here.until_true(lambda: sum("PUT /blobs" in asked for asked, _, _ in here.front.sent) >= 3)
    services.storage.kill9()
    await services.start_storage()
    view = await here.until_final(run_id)

    assert view.state == "complete"
    assert await here.files(view) == made
    assert_little_was_sent_twice(here, made, deaths=1)


async def test_what_storage_has_said_that_it_has_and_lost_is_sent_again(rooms, postgres):
    here = await rooms("none")
    run_id, workspace, made = await make(here)
    here.front.gate.clear()
    here.front.held = re.compile("PUT /manifests")

    (workspace / "go").touch()
    await here.until_true(lambda: any("PUT /manifests" in asked for asked in here.front.asked))
    # So a database ends that is killed: its last commits are gone.
    connection = await asyncpg.connect(postgres.url("storage"))
    lost = await connection.execute("DELETE FROM blobs WHERE owner_id = $1", here.client.owner["owner_id"])
    await connection.close()
    here.front.held = None
    here.front.gate.set()
    view = await here.until_final(run_id)

    assert int(lost.removeprefix("DELETE ")) >= len(made)
    assert (view.state, view.reason) == ("complete", None)
    assert await here.files(view) == made


def hold_files(here):
    """Let no large file arrive."""
    here.front.gate.clear()
    here.front.held = re.compile("PUT /blobs/")


async def write_while_it_is_sent(here, path, at, data):
    """Change a file in place once it is on its way, and let it go on."""
    await here.until_true(lambda: any("PUT /blobs/" in asked for asked in here.front.asked))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    here.front.gate.set()


async def test_a_file_written_in_place_while_it_is_sent_is_read_once_more(rooms):
    here = await rooms("none")
    run_id = await here.create("head -c 9000000 /dev/zero > big; echo ready; while sleep 0.05; do :; done")
    await here.until_logged(run_id, b"ready\n")
    hold_files(here)

    await here.client.save(run_id)
    await write_while_it_is_sent(here, here.attempt(run_id) / "spell/big", 8_500_000, b"x" * 500_000)

    view = await saved(here, run_id)
    assert view.save_problem is None
    assert view.snapshots[0].notes == ("'/spell/big' changed during save",)
    assert await here.files(view, 1) == {"big": bytes(8_500_000) + b"x" * 500_000}
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_a_file_written_to_in_the_final_save_is_read_again_and_flagged(rooms):
    here = await rooms("none")
    run_id = await here.create(
        "head -c 9000000 /dev/zero > big; echo x > calm; mkfifo pipe; echo ready; until [ -e go ]; do sleep 0.05; done"
    )
    await here.until_logged(run_id, b"ready\n")
    hold_files(here)
    workspace = here.attempt(run_id) / "spell"

    (workspace / "go").touch()
    await write_while_it_is_sent(here, workspace / "big", 8_500_000, b"x" * 500_000)
    view = await here.until_final(run_id)

    assert (view.state, view.saved_files, view.saved_changed) == ("complete", 3, 1)
    notes = ("Not saved: '/spell/pipe' (neither a file nor a link)", "'/spell/big' changed during save")
    assert view.save_notes == notes
    assert [entry.path for entry in (await here.manifest(view)).entries if entry.changed] == ["big"]
    assert (await here.files(view))["big"] == bytes(8_500_000) + b"x" * 500_000
    assert [text for text in await here.lines(run_id) if text in notes] == list(notes)


async def test_of_two_files_of_one_content_the_one_that_did_not_change_keeps_it(rooms):
    here = await rooms("none")
    run_id = await here.create(
        "head -c 9000000 /dev/zero | tee a > b; echo ready; while sleep 0.05; do :; done"
    )
    await here.until_logged(run_id, b"ready\n")
    hold_files(here)

    await here.client.save(run_id)
    await write_while_it_is_sent(here, here.attempt(run_id) / "spell/b", 8_999_999, b"x")

    view = await saved(here, run_id)
    assert await here.files(view, 1) == {"a": bytes(9_000_000), "b": bytes(8_999_999) + b"x"}
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_a_file_that_only_grows_is_what_it_was_when_it_was_read(rooms):
    here = await rooms("none")
    run_id = await here.create(
        "head -c 9000000 /dev/zero | tr '\\0' a > log; echo ready; while echo more >> log; do sleep 0.01; done"
    )
    await here.until_logged(run_id, b"ready\n")

    await here.client.save(run_id)

    view = await saved(here, run_id)
    content = (await here.files(view, 1))["log"]
    assert content.startswith(b"a" * 9_000_000)
    assert set(content[9_000_000:].splitlines()) <= {b"more", b"mor", b"mo", b"m"}
    puts = [asked for asked, _, _ in here.front.sent if asked.startswith("PUT /blobs/")]
    assert puts == [f"PUT /blobs/{hashlib.sha256(content).hexdigest()}"]
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)


async def test_a_huge_file_full_of_holes_is_no_trouble(rooms):
    here = await rooms("none")

    run_id = await here.create("truncate -s 300M holes; printf end >> holes")
    view = await here.until_final(run_id, seconds=60)

    assert (view.state, view.saved_bytes) == ("complete", 300 * 1024**2 + 3)
    async with asyncio.timeout(5):
        await here.until_gone(run_id)
