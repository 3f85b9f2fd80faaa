"""An image is built once for all machines: another daemon pulls what was pushed, whatever became of the registry."""

import contextlib
import os
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from integration.runner import room
from integration.runner.sharing import Shared, shared
from spell_builder.image_layers import REPOSITORY
from spell_proto.http import Caller
from support import docker as daemons
from support import links, stack, web
from support.builder_process import BuilderProcess
from support.registries import registry
from support.scheduler import until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

#: A network of its own: a second daemon would remove that of the first.
BRIDGE, ADDRESS = "spelltests1", "10.231.78.1/24"
USER, PASSWORD = "builder", "s3cret-s3cret"


@pytest.fixture(name="elsewhere", scope="module")
def _elsewhere():
    """A daemon with nothing on it, beside the one that all tests share."""
    for program in ("dockerd", "containerd", "ip"):
        if shutil.which(program) is None:
            daemons.absent(f"{program} is not installed")
    if os.geteuid():
        daemons.absent("only root can start a daemon")
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    options = ["--bridge", BRIDGE, "--iptables=false", "--ip-masq=false"]
    own = daemons.Own(directory, directory / "data", *options)
    try:
        with links.bridge(BRIDGE, ADDRESS), contextlib.closing(own):
            own.begin()
            yield own
    except daemons.NoDockerError as error:
        daemons.absent(str(error))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Near:
    """A builder that shares images by a registry which wants a login, a machine beside it, and one elsewhere."""

    shared: Shared
    docker: daemons.Docker
    first: room.Room
    second: room.Room
    host: str
    registry: Path

    async def ran(self, machine: room.Room, name: str):
        """A run that shows a package."""
        command = f"python -c 'import {name}; print({name}.VERSION)'; {name}"
        return await self.shared.ran(machine, command, pip=[name])

    async def ensure(self, name: str, builder: BuilderProcess | None = None):
        return await (builder or self.shared.builder).ensure(name, engine="docker")

    async def built(self, name: str) -> tuple[str, str, str]:
        """An environment that is built and pushed: its key, its image, and where it is."""
        ready = (await self.ensure(name)).ready
        return ready["key"], ready["path"], await self.pushed(ready["key"])

    async def pushed(self, key: str) -> str:
        async def there():
            query = "SELECT reference FROM builder.pushed_images WHERE key = $1"
            rows = await self.shared.rows(query, key)
            return rows[0]["reference"] if rows else None

        return await until(there, seconds=60)

    async def log_in(self) -> None:
        body = b'{"username": "%b", "password": "%b"}' % (USER.encode(), PASSWORD.encode())
        await self._login("PUT", data=body, headers={"Content-Type": "application/json"})

    async def log_out(self) -> None:
        await self._login("DELETE")

    async def _login(self, method: str, **more) -> None:
        async with (
            Caller(self.shared.services.storage_url) as caller,
            caller.open(method, f"/registries/{self.host}", **more),
        ):
            pass

    async def restart(self, **changed: str) -> None:
        await self.shared.builder.end()
        self.shared.builder.environment |= changed
        await self.shared.builder.start()

    def lose(self, key: str) -> None:
        """The builder's daemon loses an image."""
        self.docker.ask("DELETE", f"/images/{REPOSITORY}:{key}?force=1")

    def empty_registry(self) -> None:
        shutil.rmtree(self.registry / "docker" / "registry" / "v2" / "repositories")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def near(services, postgres, docker, elsewhere, tmp_path_factory):
    directory = tmp_path_factory.mktemp("images")
    async with AsyncExitStack() as opened:
        host = opened.enter_context(registry(directory, USER, PASSWORD))
        made = await opened.enter_async_context(shared(services, postgres, directory))
        for name in ("alpha", "beta", "gamma", "delta", "epsilon"):
            made.index.add(name, "1.0", entry_point=True)
        port = opened.enter_context(web.files(made.index.directory))
        machines = []
        for daemon in (docker, elsewhere):
            settings = room.in_docker(daemon) | {"SPELL_BUILDER_URL": made.builder.address}
            machines.append(await opened.enter_async_context(room.room(services, **settings)))
        here = Near(made, docker, *machines, host, directory / "registry")
        await here.log_in()
        await here.restart(
            UV_DEFAULT_INDEX=f"http://127.0.0.1:{port}/simple",
            SPELL_DOCKER_SOCKET=str(docker.socket),
            SPELL_DOCKER_IMAGE=daemons.BASE,
            SPELL_IMAGE_CACHE=f"{host}/team/environments",
            SPELL_SHARE_ENVIRONMENTS="0",
        )
        try:
            yield here
        finally:
            await made.builder.end()
            # Ours alone: others may be at work on the same daemon.
            for row in await made.rows("SELECT key FROM builder.environments ORDER BY built_at DESC"):
                with contextlib.suppress(RuntimeError):
                    here.lose(row["key"])


async def test_what_one_daemon_has_built_another_one_pulls(near):
    view, said, lines = await near.ran(near.first, "alpha")
    there, again, more = await near.ran(near.second, "alpha")
    _, third, _ = await near.ran(near.second, "alpha")

    assert (view.state, there.state) == ("complete", "complete"), (view, there)
    assert said == again == third == "1.0\n1.0\n"
    key = (await near.ensure("alpha")).ready["key"]
    assert near.shared.told("environment built", key) == 1
    reference = await near.pushed(key)
    assert any(reference in line for line in more), more
    assert not any(reference in line for line in lines)
    assert not near.docker.named(f"{near.host}/team/environments:*")  # no name is left of the push
    assert PASSWORD not in near.shared.builder.log.read_text() + near.second.runner.log.read_text()
    assert await near.first.client.states(view.id) == [
        *("requested", "building", "running", "saving", "pushing", "complete")
    ]


async def test_a_builder_whose_images_are_gone_pulls_them_again(near, elsewhere):
    key, image, _ = await near.built("beta")
    near.lose(key)
    again = (await near.ensure("beta")).ready
    names = near.docker.ask("GET", f"/images/{image}/json")
    async with AsyncExitStack() as opened:
        directory = opened.enter_context(stack.short_directory())
        other = BuilderProcess(directory, near.shared.postgres, near.shared.services.nats, "other")
        other.environment = near.shared.builder.environment | {
            "SPELL_DATA_DIR": str(directory / "data"),
            "SPELL_DOCKER_SOCKET": str(elsewhere.socket),
        }
        await other.start()
        opened.push_async_callback(other.end)
        far = (await near.ensure("beta", other)).ready
        said = other.log.read_text()

    assert (again["key"], again["path"], again["cached"]) == (key, image, True)
    assert (names["RepoTags"], names["RepoDigests"]) == ([f"{REPOSITORY}:{key}"], [])
    assert (far["key"], far["path"], far["cached"]) == (key, image, True)
    assert near.shared.told("environment built", key) == 1
    assert '"event":"environment fetched"' in said
    assert elsewhere.named(f"{REPOSITORY}:*") == [f"{REPOSITORY}:{key}"]  # without what it stands on


async def test_what_the_registry_has_lost_is_pushed_again_or_built_again(near):
    key, _, reference = await near.built("gamma")
    near.empty_registry()

    view, said, lines = await near.ran(near.second, "gamma")
    assert (view.state, said) == ("complete", "1.0\n1.0\n"), view
    assert any("asking for it again" in line for line in lines)
    assert await near.pushed(key) == reference
    near.empty_registry()
    near.lose(key)
    answer = await near.ensure("gamma")

    assert answer.ready["key"] == key
    assert near.shared.told("environment built", key) == 2
    assert any("The image cache does not have" in line for line in answer.lines)


async def test_a_registry_that_refuses_is_told_and_fails_nobody(near):
    await near.log_out()
    try:
        view, said, lines = await near.ran(near.first, "delta")
    finally:
        await near.log_in()

    assert (view.state, said) == ("complete", "1.0\n1.0\n")
    (told,) = [line for line in lines if "is not saved for other machines" in line]
    assert f"the image cache {near.host}/team/environments: " in told


async def test_without_an_image_cache_another_daemon_is_told_so(near):
    await near.restart(SPELL_IMAGE_CACHE="")

    view, _, _ = await near.ran(near.second, "epsilon")

    assert view.reason == "build_failed"
    assert "is on another machine, and the builder shares none (SPELL_IMAGE_CACHE)" in view.message
