"""Runs get the GPUs of their machine by name, each its own, and keep them while the runner is away.

The names are given by setting: what is tested is who gets which, and that needs no GPU.
"""

import pytest

from integration.runner.room import in_docker, room

pytestmark = pytest.mark.asyncio(loop_scope="session")
SHOW = 'echo "$SPELL_GPUS=$CUDA_VISIBLE_DEVICES"'
FOUR = {"SPELL_MACHINE_GPUS": "GPU-a,GPU-b,GPU-c,GPU-d", "SPELL_SLOTS": "2"}


async def test_runs_at_once_have_gpus_of_their_own_also_after_the_runner_was_killed(services):
    async with room(services, **FOUR, SPELL_ISOLATION="none", SPELL_ENGINE="local") as here:
        first = await here.create(f"{SHOW}; while ! test -e {here.data}/go; do sleep 0.05; done")
        await here.until_logged(first, b"\n")
        kind = await here.client.machine_type(here.machine_type)

        here.runner.kill9()
        here.runner.start()
        # What it may see is not for a variable to say.
        second = await here.create(f"{SHOW}; exit 3", env={"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
        assert (await here.until_final(second)).exit_code == 3
        (here.data / "go").touch()
        ended = await here.until_final(first)
        third = await here.create(SHOW)
        await here.until_final(third)

        assert kind.gpus == 2
        assert (ended.engine, ended.gpus) == ("local", ("GPU-a", "GPU-b"))
        assert await here.output(first) == b"GPU-a,GPU-b=GPU-a,GPU-b\n"
        assert await here.output(second) == b"GPU-c,GPU-d=GPU-c,GPU-d\n"
        assert await here.output(third) == b"GPU-a,GPU-b=GPU-a,GPU-b\n"


async def test_runs_share_a_gpu_only_where_there_are_more_slots(services):
    settings = {"SPELL_MACHINE_GPUS": "GPU-a", "SPELL_SLOTS": "2", "SPELL_ISOLATION": "none"}
    async with room(services, **settings, SPELL_ENGINE="local") as here:
        runs = [await here.create(f"{SHOW}; sleep 300") for _ in range(2)]
        for run_id in runs:
            await here.until_logged(run_id, b"GPU-a=GPU-a\n")
            await here.client.end(run_id, "kill")


async def test_a_machine_without_gpus_hides_nothing(services):
    async with room(services, SPELL_ISOLATION="none", SPELL_ENGINE="local") as here:
        run_id = await here.create(SHOW, env={"CUDA_VISIBLE_DEVICES": "mine"})

        await here.until_final(run_id)
        assert await here.output(run_id) == b"=mine\n"


async def test_a_docker_that_cannot_give_gpus_is_told_with_what_is_missing(services, docker):
    if any("nvidia" in name for name in docker.ask("GET", "/info")["Runtimes"]):
        pytest.skip("this daemon can give GPUs")
    async with room(services, **in_docker(docker) | FOUR) as here:
        view = await here.until_final(await here.create("true"))

        assert (view.state, view.reason) == ("failed", "start_failed")
        assert "the NVIDIA Container Toolkit has to be installed" in view.message
        assert docker.containers(f"com.spellrun.machine={here.machine_id}") == []
