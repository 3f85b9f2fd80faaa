"""What builds of images share on a daemon, and what they keep from each other."""

import contextlib
import hashlib

import pytest

from spell_builder.directories import Directories
from spell_builder.docker import Docker
from spell_builder.images import Images
from spell_builder.requests import Requests
from spell_proto import database
from spell_proto import docker as proto_docker
from spell_runner.shim import network
from spell_standalone import daemon_leftovers
from support import docker as daemons
from support import web

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="function")]

#: Written into everything that a build could share with another one.
POISON = """import os
for place, _, _ in os.walk("/run/spell/cache"):
    open(place + "/poison", "w").close()
"""


@pytest.fixture(name="builder")
async def _builder(builder, docker, index):
    index.add("alpha", "1.0")
    index.add("viper", "1.0", startup=POISON)
    index.add_running("adder", "1.0", POISON)
    with web.files(index.directory) as port:
        builder.environment |= {
            "UV_DEFAULT_INDEX": f"http://127.0.0.1:{port}/simple",
            "SPELL_DOCKER_SOCKET": str(docker.socket),
            "SPELL_DOCKER_IMAGE": daemons.BASE,
        }
        await builder.end()
        await builder.start()
        try:
            yield builder
        finally:
            await builder.end()
            for name in docker.images(builder.label):
                docker.ask("DELETE", f"/images/{name}?force=1")
            for volume in volumes(builder, docker):
                docker.ask("DELETE", f"/volumes/{volume}?force=1")


async def ask(builder, *pip: str, **more):
    return await builder.ensure(*pip, engine="docker", **more)


def volumes(builder, docker) -> list[str]:
    found = docker.ask("GET", "/volumes")["Volumes"] or ()
    ours = builder.label.partition("=")[2]
    return [volume["Name"] for volume in found if ours in volume["Name"]]


def shared(builder, docker) -> str:
    """The names of all files that builds share."""
    names = volumes(builder, docker)
    return "".join(docker.said(daemons.BASE, "find /v", binds=[f"{name}:/v"]) for name in names)


async def test_no_package_reaches_what_other_builds_use(builder, docker):
    for packages in (["viper", "alpha"], ["adder", "alpha"]):
        answer = await ask(builder, *packages)
        assert answer.ready["key"]
    assert docker.said(answer.ready["path"], "python -c 'import adder; print(adder.VERSION)'") == "1.0\n"

    found = shared(builder, docker)

    assert "alpha" in found, "downloads are shared all the same"
    assert "poison" not in found


async def test_an_image_that_was_removed_halfway_goes_with_the_next_collection(builder, docker):
    ready = (await ask(builder, "alpha")).ready
    name = f"spell-environment:aside-{ready['key']}"
    docker.ask("POST", f"/images/{ready['path']}/tag?repo=spell-environment&tag=aside-{ready['key']}")

    await builder.call("POST", "/environments/collect")

    assert name not in docker.images(builder.label)
    assert docker.has(ready["path"]), "the environment itself stays"


async def test_whoever_looks_while_an_image_goes_does_not_take_it_for_there(builder, docker, postgres):
    key = (await ask(builder, "alpha")).ready["key"]
    identity = builder.label.partition("=")[2]
    left = []

    class Slow(Docker):
        """Is asked for an image by somebody else while its name is taken away."""

        async def untag(self, name: str) -> bool:
            if not name.endswith(f"aside-{key}"):
                assert await images.damage(key) is None
            return await super().untag(name)

    async def in_use(_key: str) -> bool:
        left.append(images.complete(key))
        return False

    socket = str(docker.socket)
    async with (
        database.pool(postgres.url("builder"), "builder") as pool,
        proto_docker.clients(socket) as both,
    ):
        directories = Directories(builder.data)
        images = Images(Slow(both, socket, identity, "", _no_login), directories, Requests(pool, 60.0))
        assert await images.take_away(key, in_use)

    assert left == [False]


async def _no_login(_registry: str) -> None:
    pass


async def test_what_is_in_a_layer_is_told_by_its_files(builder, docker):
    ready = (await ask(builder, "alpha")).ready
    lock = (await builder.call("GET", f"/environments/{ready['key']}"))["lock"]

    labels = docker.ask("GET", f"/images/{ready['path']}/json")["Config"]["Labels"]

    resolved = "".join(line for line in lock.splitlines(keepends=True)[3:])
    assert hashlib.sha256(resolved.encode()).hexdigest() != labels["com.spellrun.files"]


async def test_a_purge_takes_images_and_downloads_of_the_builder_away_and_nothing_else(builder, docker):
    await ask(builder, "alpha")
    assert docker.images(builder.label)
    assert volumes(builder, docker)
    stack = builder.data.parent / "stack"
    stack.mkdir()
    (stack / "builder").symlink_to(builder.data)

    daemon_leftovers.remove(stack, {"SPELL_DOCKER_SOCKET": str(docker.socket)})

    assert not docker.images(builder.label)
    assert not volumes(builder, docker)
    assert docker.has(daemons.BASE)


async def test_downloads_that_are_too_large_go(builder, docker):
    await ask(builder, "alpha")
    packages = [name for name in volumes(builder, docker) if name.endswith("-packages")]
    socket, identity = str(docker.socket), builder.label.partition("=")[2]
    async with proto_docker.clients(socket) as both:
        daemon = Docker(both, socket, identity, "", _no_login)
        await daemon.trim(10**12)
        assert packages
        assert set(packages) <= set(volumes(builder, docker))
        await daemon.trim(0)

    assert not set(packages) & set(volumes(builder, docker))


async def test_a_base_image_without_a_shell_is_told(builder, docker):
    builder.environment["SPELL_DOCKER_IMAGE"] = daemons.EMPTY
    await builder.end()
    await builder.start()

    answer = await ask(builder, "alpha")

    assert answer.failure.startswith("the base image ")
    assert answer.failure.endswith(" has no shell (/bin/sh), so no command can be run in it")


async def test_builds_are_on_the_network_of_runs_where_the_operator_says_so(builder, docker):
    builder.environment["SPELL_BUILD_NETWORK"] = "runs"
    await builder.end()
    await builder.start()
    with contextlib.suppress(RuntimeError):
        docker.ask("POST", "/networks/create", network.definition(str(docker.socket)))

    answer = await ask(builder, "alpha", latest=True)

    assert answer.failure.startswith("pip: the package index cannot be read"), (
        "it is on the machine's loopback"
    )


async def test_a_network_that_means_nothing_is_refused(builder):
    builder.environment["SPELL_BUILD_NETWORK"] = "bridge"
    await builder.end()

    with pytest.raises(RuntimeError, match="SPELL_BUILD_NETWORK must be host or runs"):
        await builder.start()

    del builder.environment["SPELL_BUILD_NETWORK"]
    await builder.start()
