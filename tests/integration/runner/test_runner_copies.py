"""Runs in containers of a daemon that cannot mount the layers of a workspace, as it stands on layers itself."""

import os

import pytest

from integration.runner.room import in_docker, room

pytestmark = pytest.mark.asyncio(loop_scope="session")
SAID = "Docker cannot mount layers on this machine, so the code is copied for this run"


async def test_a_run_without_layers_sees_and_saves_what_one_with_them_does(services, docker, layered):
    async with room(services, layered, **in_docker(docker), SPELL_GRACE_SECONDS="5") as here:
        given = here.front.shelf.code({"kept": b"1\n", "changed": b"2\n", "gone": b"3\n", "d/deep": b"4\n"})
        command = (
            "cat kept d/deep; echo new > changed; rm gone; mkdir -p e; echo made > e/made; touch kept; "
            "git status --short | sort; stat -c %u . kept"
        )

        first = await here.until_final(await here.create(command, code=given))
        bare = await here.until_final(await here.create("pwd; echo x > y"))
        broken = await here.create("echo up; echo x > left; sleep 300", code=given)
        await here.until_logged(broken, b"up\n")
        here.runner.kill9()
        here.runner.start()
        await here.client.end(broken, "stop")
        stopped = await here.until_final(broken)

        uid = str(os.geteuid() or 10_000)
        assert (await here.output(first.id)).decode().split("\n")[:-1] == [
            "1", "4", " D gone", " M changed", "?? e/", uid, uid,
        ]  # fmt: skip
        assert await here.files(first) == {"changed": b"new\n", "e/made": b"made\n"}
        assert (await here.output(bare.id), await here.files(bare)) == (b"/spell\n", {"y": b"x\n"})
        assert (stopped.state, await here.files(stopped)) == ("stopped", {"left": b"x\n"})
        for run_id in (first.id, bare.id, broken):
            assert SAID in await here.lines(run_id)
        await here.assert_whole(first)
        assert not docker.containers("com.spellrun.managed=probe")
