"""A Docker daemon that hangs, answers nonsense or is away costs no run that can do without it, and fails none that cannot."""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from integration.runner.room import in_docker, room
from spell_proto.docker import clients
from spell_runner.engines import hardening, overlays
from spell_runner.engines.hardening import Limits, files_max
from spell_runner.engines.images import Image
from spell_runner.shim import network
from support import docker as daemons
from support import stack
from support.docker_gate import gate
from support.scheduler import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
IMAGE = f"docker.io/{daemons.TINY}"
NOT_PING = re.compile(rb"^\w+ /(?!_ping)")
AWAY = "Docker does not answer; waiting for it"
LIMITS = Limits(memory_bytes=256 << 20, cpus=1.0, shm_bytes=64 << 20, pids=256, files=files_max())


def settings_of(docker, socket):
    return in_docker(docker) | {"SPELL_ENGINE": "auto", "SPELL_DOCKER_SOCKET": str(socket)}


async def has(here, *engines):
    return (await here.client.machine_type(here.machine_type)).engines == engines


@pytest.mark.parametrize("fault", ["hung", "odd"])
async def test_a_daemon_that_pings_and_does_nothing_else_keeps_a_machine_from_nothing(
    services, docker, fault
):
    with stack.short_directory() as directory:
        socket = directory / "d.sock"
        async with gate(docker.socket, socket) as made:
            setattr(made, fault, NOT_PING)
            started = time.monotonic()
            async with room(services, **settings_of(docker, socket)) as here:
                assert time.monotonic() - started < 15
                assert await has(here, "local")
                assert (await here.until_final(await here.create("true"))).state == "complete"

                setattr(made, fault, None)
                # What hangs already is given up after half a minute.
                await until(lambda: has(here, "docker", "local"), seconds=45)
                contained = await here.create("true", docker_image=IMAGE)
                assert (await here.until_final(contained)).state == "complete"


async def test_a_run_whose_machine_starts_again_while_docker_is_away_waits_for_it(services, docker, tmp_path):
    socket = tmp_path / "d.sock"
    socket.symlink_to(docker.socket)
    async with room(services, **settings_of(docker, socket)) as here:
        here.front.held = re.compile("/pack$")
        given = here.front.shelf.code({"x": b"1"})
        run_id = await here.create("cat x", docker_image=IMAGE, code=given)
        await here.until_true(lambda: any(one.endswith("/pack") for one in here.front.asked))

        here.runner.kill9()
        socket.unlink()
        here.front.held = None
        here.front.gate.set()
        here.runner.start()
        await until(lambda: has(here, "local"))
        await here.until_true(
            lambda: any(
                AWAY.encode() in path.read_bytes()
                for path in here.attempt(run_id).iterdir()
                if path.is_file()
            )
        )
        socket.symlink_to(docker.socket)

        view = await here.until_final(run_id)
        assert (view.state, await here.output(run_id)) == ("complete", b"1")


async def test_runs_go_on_after_somebody_has_removed_their_network(rooms, docker):
    here = await rooms("docker")
    assert (await here.until_final(await here.create("true"))).state == "complete"
    if docker.ask("GET", "/networks/bridge")["Options"].get(network.ICC) == "false":
        pytest.skip("the bridge of this daemon is used, which nobody can remove")

    docker.ask("DELETE", f"/networks/{network.NAME}")
    views = [await here.until_final(await here.create("true")) for _ in range(2)]

    assert [view.state for view in views] == ["complete", "complete"], views
    made = docker.ask("GET", f"/networks/{network.NAME}")
    assert made["Options"] == network.definition(str(docker.socket))["Options"]
    assert made["EnableIPv6"] is False


async def test_what_a_killed_runner_was_trying_layers_with_is_removed(rooms, docker):
    here = await rooms("docker")
    labels = {hardening.MANAGED: "probe", hardening.MACHINE: here.machine_id}
    docker.ask("POST", "/containers/create", {"Image": daemons.BASE, "Cmd": ["true"], "Labels": labels})
    (here.data / "probe-x/lower").mkdir(parents=True)

    here.runner.kill9()
    here.runner.start()
    await here.until_true(here.ready_since_start)

    assert not docker.containers(f"{hardening.MACHINE}={here.machine_id}")
    assert not list(here.data.glob("probe-*"))


@pytest.fixture(name="elsewhere")
def _elsewhere():
    """A directory of which it has to be tried whether Docker can mount layers in it."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory")
    path = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="sp"))
    yield path
    shutil.rmtree(path)


async def test_what_layers_are_tried_with_bears_the_name_of_the_machine(docker, elsewhere):
    with stack.short_directory() as directory:
        socket = directory / "d.sock"
        async with gate(docker.socket, socket) as made, clients(str(socket)) as both:
            machine = f"m{time.monotonic_ns()}"
            image = Image(daemons.BASE, "", "/bin/sh", "/bin")
            assert await overlays.work(both.control, image, elsewhere, machine, LIMITS) is not None

    created = [asked for asked in made.asked if b"/containers/create" in asked]
    assert len(created) == 1
    assert machine.encode() in created[0]


async def test_a_daemon_that_goes_while_layers_are_tried_is_waited_for(services, docker, elsewhere):
    with stack.short_directory() as directory:
        socket = directory / "d.sock"
        async with gate(docker.socket, socket) as made:
            made.broken = re.compile(rb'"com.spellrun.managed": ?"probe"')
            async with room(services, str(elsewhere), **settings_of(docker, socket)) as here:
                run_id = await here.create("true", docker_image=IMAGE)
                await here.until_true(lambda: any(made.broken.search(asked) for asked in made.asked))
                made.broken = None

                assert (await here.until_final(run_id)).state == "complete"
                assert AWAY in await here.lines(run_id)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (
            "error while mounting volume '/v/_data': failed to mount local volume: mount overlay:/v/_data",
            True,
        ),
        ("invalid mount config for type bind: bind source path does not exist: /mount", False),
    ],
)
async def test_only_what_docker_says_of_layers_is_taken_for_a_refusal_of_them(said, refused):
    assert overlays.unmounted(said) is refused
