"""Where runs have no disks of their own, one that takes more than it may is ended, keeps what it has made, and is nobody
else's trouble.
"""

import pytest

from integration.runner import shims
from integration.runner.room import in_docker, room

pytestmark = pytest.mark.asyncio(loop_scope="session")
MAX = {"SPELL_RUN_BYTES_MAX": str(20 << 20), "SPELL_RUN_FILES_MAX": "500", "SPELL_RUN_QUOTA": "watch"}


def settings_for(isolation, request):
    return (
        in_docker(request.getfixturevalue("docker"))
        if isolation == "docker"
        else {"SPELL_ISOLATION": isolation}
    )


@pytest.mark.parametrize("isolation", shims.ISOLATIONS)
async def test_a_run_that_writes_too_much_is_ended_and_keeps_its_files(services, request, isolation):
    async with room(services, **settings_for(isolation, request), **MAX) as here:
        neighbour = await here.create("echo up; read _ < /dev/zero & sleep 60 & wait; true")
        writes = "echo kept > small; head -c 30000000 /dev/urandom > big; echo written; sleep 60"
        makes = "mkdir d; for i in $(seq 600); do : > d/$i; done; echo made; trap '' TERM; sleep 60"
        scratch = "head -c 30000000 /dev/urandom > /tmp/big; sleep 60" if isolation != "none" else writes
        run_ids = [await here.create(command) for command in (writes, makes, scratch)]

        views = [await here.until_final(run_id) for run_id in run_ids]

        assert [(view.state, view.reason, view.exit_code) for view in views] == [
            ("failed", "disk_quota", 137)
        ] * 3
        assert views[0].message == "it has written 29 MiB, and may write 20 MiB"
        assert views[1].message == "it has made 601 files and directories, and may make 500"
        saved = await here.files(views[0])
        assert (saved["small"], len(saved["big"])) == (b"kept\n", 30_000_000)
        assert len(await here.files(views[1])) == 600
        assert views[0].message in await here.lines(run_ids[0])
        assert (await here.client.get(neighbour)).state == "running"
        kind = await here.client.machine_type(here.machine_type)
        assert (kind.run_bytes_max, kind.run_files_max) == (20 << 20, 500)
        await here.client.end(neighbour, "kill")
        await here.until_final(neighbour)


@pytest.mark.parametrize("isolation", shims.ISOLATIONS)
async def test_what_has_no_name_or_is_in_no_directory_of_a_run_counts_too(services, request, isolation):
    async with room(services, **settings_for(isolation, request), **MAX) as here:
        commands = ["exec 3> g; rm g; head -c 30000000 /dev/urandom >&3; sleep 60"]
        if isolation == "docker":
            commands.append("head -c 30000000 /dev/urandom > /var/tmp/big; sleep 60")
        run_ids = [await here.create(command) for command in commands]

        views = [await here.until_final(run_id) for run_id in run_ids]

        assert [(view.state, view.reason) for view in views] == [("failed", "disk_quota")] * len(commands)


async def test_a_run_that_stays_within_its_limits_does_not_notice_them(services):
    async with room(services, SPELL_ISOLATION="unshare", **MAX) as here:
        code = here.front.shelf.code({f"{number}": b"x" * 100_000 for number in range(300)})
        command = (
            "for i in 1 2 3; do head -c 15000000 /dev/urandom > big; sleep 0.7; rm big; done; echo fine > end"
        )

        view = await here.until_final(await here.create(command, code=code))

        assert (view.state, view.exit_code) == ("complete", 0)
        assert await here.files(view) == {"end": b"fine\n"}


async def test_a_runner_that_comes_back_goes_on_measuring(services):
    async with room(services, SPELL_ISOLATION="unshare", **MAX) as here:
        run_id = await here.create(
            "echo up; until [ -e /tmp/go ]; do sleep 0.05; done; head -c 30000000 /dev/zero > big; sleep 60"
        )
        await here.until_logged(run_id, b"up\n")
        here.runner.kill9()
        (here.attempt(run_id) / "tmp/go").touch()
        await here.until_true((here.attempt(run_id) / "upper/big").exists)

        here.runner.start()
        view = await here.until_final(run_id)

        assert (view.state, view.reason) == ("failed", "disk_quota")
