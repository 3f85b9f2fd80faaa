"""A run that has a disk of its own finds it full at its limits, ends, keeps its files, and is nobody else's trouble."""

import re
import subprocess

import pytest

from integration.runner import shims
from integration.runner.room import in_docker, room
from integration.runner.stowing import mount, stow
from support import disks

pytestmark = pytest.mark.asyncio(loop_scope="session")
BYTES_MAX, FILES_MAX = 20 << 20, 500
MAX = {
    "SPELL_RUN_BYTES_MAX": str(BYTES_MAX),
    "SPELL_RUN_FILES_MAX": str(FILES_MAX),
    "SPELL_RUN_QUOTA": "strict",
}
FULL = "its disk is full: it may write 20 MiB"
NO_ROOM = b"No space left on device"
FILL = "dd if=/dev/zero of=big bs=1M count=100"
MAKE = "mkdir d; for i in $(seq 1000); do : > d/$i || break; done"


@pytest.fixture(autouse=True)
def possible():
    disks.need()


def settings_for(isolation, request):
    return (
        in_docker(request.getfixturevalue("docker"))
        if isolation == "docker"
        else {"SPELL_ISOLATION": isolation}
    )


async def output(here, run_id):
    return b"".join(record.payload for record in await here.records(run_id))


async def until_clean(here):
    """Until no disk is left."""
    await here.until_true(lambda: not disks.images(here.data))
    assert disks.mounts(here.data) == []
    assert list((here.data / "disks").iterdir()) == []


@pytest.mark.parametrize("isolation", shims.ISOLATIONS)
async def test_a_run_finds_its_disk_full_at_its_limits(services, request, isolation):
    async with room(services, **settings_for(isolation, request), **MAX) as here:
        code = here.front.shelf.code({"given": b"g" * 3_000_000})
        neighbour = await here.create("while sleep 0.05; do date > now || exit 9; done")
        writes = f"echo kept > small; {FILL}; echo went on; exec sleep 60"
        ends = f"{FILL}; exit 3"
        makes = f"{MAKE}; exec sleep 60"
        scratch = f"{FILL.replace('big', '/tmp/big')}; exec sleep 60" if isolation != "none" else ends
        copes = f"{FILL}; rm big; truncate -s 1P huge || echo fine > end; test -e huge && rm huge; true"
        run_ids = [await here.create(one, code=code) for one in (writes, ends, makes, scratch, copes)]

        views = [await here.until_final(run_id) for run_id in run_ids]

        assert [(view.state, view.reason) for view in views] == [
            *[("failed", "disk_quota")] * 4,
            ("complete", None),
        ]
        assert (views[0].message, views[1].message, views[1].exit_code) == (FULL, FULL, 3)
        assert FULL in await here.lines(run_ids[0])
        for run_id in run_ids:
            assert NO_ROOM in await output(here, run_id), run_id
        saved = await here.files(views[0])
        assert saved["small"] == b"kept\n"
        # A command that is root here gets at what is kept for us.
        kept = 8 << 20 if isolation == "none" else 3 << 20
        assert BYTES_MAX - (1 << 16) <= len(saved["big"]) <= BYTES_MAX + kept
        made = int(re.fullmatch(r"it has made ([0-9]+) files .* may make 500", views[2].message)[1])
        assert FILES_MAX < made <= 1.3 * FILES_MAX
        assert made - 5 <= len(await here.files(views[2])) <= made
        assert await here.files(views[4]) == {"end": b"fine\n"}
        assert (await here.client.get(neighbour)).state == "running"
        await here.client.end(neighbour, "stop")
        assert (await here.until_final(neighbour)).state == "stopped"
        await until_clean(here)


@pytest.mark.parametrize("isolation", ["unshare", "docker"])
async def test_a_run_may_write_and_make_all_that_it_may(services, request, isolation):
    async with room(services, **settings_for(isolation, request), **MAX) as here:
        code = here.front.shelf.code({f"{number}": b"x" * 100_000 for number in range(300)})
        writes = f"head -c {BYTES_MAX - 8192} /dev/urandom > big"
        makes = "mkdir d; for i in $(seq 498); do : > d/$i || exit 1; done"

        views = [await here.until_final(await here.create(one, code=code)) for one in (writes, makes)]

        assert [(view.state, view.exit_code, view.reason) for view in views] == [("complete", 0, None)] * 2
        assert len((await here.files(views[0]))["big"]) == BYTES_MAX - 8192
        assert len(await here.files(views[1])) == 498


async def test_a_disk_goes_with_its_run_while_others_go_on(services):
    async with room(services, SPELL_ISOLATION="unshare", **MAX) as here:
        # Each of them begins while the other one's disk is mounted, and so has that in its namespace.
        first = await here.create("echo up; exec sleep 60")
        await here.until_logged(first, b"up\n")
        second = await here.create("echo up; exec sleep 60")
        await here.until_logged(second, b"up\n")
        assert len(disks.images(here.data)) == 2

        await here.client.end(first, "kill")
        await here.until_final(first)

        await here.until_true(lambda: len(disks.images(here.data)) == 1)
        await here.until_true(lambda: not (here.data / f"disks/{first}-1").exists())
        assert (await here.client.get(second)).state == "running"
        await here.client.end(second, "kill")
        await here.until_final(second)
        await until_clean(here)
        assert await here.runner.stop() == 0
        assert not (here.data / "disks").exists()


async def test_files_that_are_mounted_take_no_room_on_the_disk(services):
    async with room(services, SPELL_ISOLATION="unshare", **MAX) as here:
        given = await stow(here, {"large": b"l" * (30 << 20), "dir/small": b"s"})
        mounts = (
            mount(here, given, "/spell/large", "large", is_file=True),
            mount(here, given, "/data/dir", "dir"),
        )
        command = (
            "ls -l large | tr -s ' ' | cut -d' ' -f5; cat /data/dir/small; echo x > /data/dir/y; echo y > z"
        )

        view = await here.until_final(await here.create(command, mounts=mounts))

        assert (view.state, view.message) == ("complete", None)
        assert b"31457280\ns" in await output(here, view.id)
        assert await here.files(view) == {"z": b"y\n"}


async def test_a_runner_that_comes_back_finds_the_disk_of_a_run_that_goes_on(services):
    async with room(services, SPELL_ISOLATION="unshare", **MAX) as here:
        command = (
            "echo up; until [ -e /tmp/go ]; do sleep 0.05; echo x >> more; done; exec dd if=/dev/zero of=big"
        )
        run_id = await here.create(command)
        await here.until_logged(run_id, b"up\n")
        here.runner.kill9()
        disk = here.data / f"disks/{run_id}-1"
        (disk / "tmp/go").touch()
        await here.until_true((disk / "upper/big").exists)

        here.runner.start()
        view = await here.until_final(run_id)

        assert (view.state, view.reason, view.message) == ("failed", "disk_quota", FULL)
        assert {"more", "big"} <= set(await here.files(view))
        await here.until_gone(run_id)
        await until_clean(here)


async def test_what_a_killed_runner_has_left_is_taken_down(services):
    async with room(services, SPELL_ISOLATION="unshare", **MAX) as here:
        here.runner.kill9()
        place = here.data / "disks/999-1"
        place.mkdir()
        image = here.data / "gone.img"
        subprocess.run(["truncate", "-s", "8M", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        image.unlink()
        (here.data / "disks/998-1").mkdir()
        half = here.data / "attempts/.997-1"
        half.mkdir()
        (half / "disk.img").touch()

        here.runner.start(SPELL_RUN_BYTES_MAX="0", SPELL_RUN_FILES_MAX="0", SPELL_RUN_QUOTA="auto")

        view = await here.until_final(await here.create("echo plain > file"))
        assert await here.files(view) == {"file": b"plain\n"}
        await until_clean(here)
        await here.until_true(lambda: not half.exists())


async def test_a_snapshot_of_a_full_disk_is_saved_before_the_run_is_ended(services):
    async with room(services, SPELL_ISOLATION="unshare", **MAX | {"SPELL_RUN_FILES_MAX": "5000"}) as here:
        here.front.held = re.compile("PUT /blobs|POST /blobs/pack")
        command = (
            f"for i in $(seq 200); do mkdir -p many/$i; echo $i > many/$i/file; done; {FILL}; "
            "while dd if=/dev/zero bs=4k count=1 >> more; do :; done; echo full; exec sleep 60"
        )
        run_id = await here.create(command)
        await here.until_logged(run_id, b"full\n")

        await here.client.save(run_id)
        await here.until_true((here.data / f"disks/{run_id}-1/snapshot/upper").exists)
        await here.until_true(lambda: any("/blobs" in asked for asked in here.front.asked))
        here.front.gate.set()
        view = await here.until_final(run_id)

        assert (view.state, view.reason) == ("failed", "disk_quota")
        assert [snapshot.number for snapshot in view.snapshots] == [1]
        saved = await here.files(view, 1)
        assert saved["many/200/file"] == b"200\n"
        assert saved.keys() == (await here.files(view)).keys()


async def test_strict_limits_that_cannot_be_enforced_keep_a_runner_from_starting(services):
    async with room(services, SPELL_ISOLATION="none") as here:
        for settings, problem in (
            ({"SPELL_RUN_FILES_MAX": "9"}, "SPELL_RUN_FILES_MAX needs SPELL_RUN_BYTES_MAX"),
            ({"SPELL_RUN_BYTES_MAX": str(1 << 59)}, "File too large"),
        ):
            await here.runner.stop()
            here.runner.start(SPELL_RUN_QUOTA="strict", **settings)

            assert here.runner.process.wait(20) != 0
            assert problem in here.runner.log.read_text()
        here.runner.start(SPELL_RUN_BYTES_MAX=str(1 << 59))
        assert (await here.until_final(await here.create("true"))).state == "complete"
