"""`python -m spell_builder`: wiring only."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from spell_builder import api, contained, uv
from spell_builder.ahead import Ahead
from spell_builder.archive_api import ArchiveRoutes
from spell_builder.archives import Archives
from spell_builder.builder import BARE, Builder, Limits
from spell_builder.caches import Caches
from spell_builder.channels import Channels
from spell_builder.conda import Conda
from spell_builder.directories import Directories, remove
from spell_builder.docker import HOST, RUNS, Docker
from spell_builder.frameworks import Frameworks
from spell_builder.identity import Identity, identity
from spell_builder.image_builder import ImageBuilder
from spell_builder.image_cache import ImageCache, repository
from spell_builder.image_cache_api import ImageRoutes
from spell_builder.image_maker import ImageMaker
from spell_builder.image_resolver import ImageResolver
from spell_builder.images import Images
from spell_builder.inventory import Inventory
from spell_builder.local_builder import LocalBuilder
from spell_builder.local_resolver import LocalResolver
from spell_builder.pythons import Pythons
from spell_builder.repositories import Repositories
from spell_builder.requests import Requests
from spell_builder.resolver import Means, Recipe
from spell_builder.runs import Runs
from spell_builder.settings import Settings
from spell_builder.sharing import Sharing, Stores
from spell_builder.soundness import Soundness
from spell_builder.sources import Sources
from spell_builder.system import System
from spell_proto import bus, database, http, logs, outside, service, settings, subjects
from spell_proto.docker import clients
from spell_proto.engines import DOCKER, LOCAL, Engine
from spell_proto.errors import SettingsError
from spell_proto.registries import login_for, read_token

log = logs.get()

_CONSUMED = (subjects.COMMANDS, subjects.BUILDER_CONSUMER, subjects.COMMANDS_FOR_BUILDER)


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    given = _settings()
    directories = Directories(Path(given.data_dir))
    directories.make()
    directories.clean()
    with identity(Path(given.data_dir)) as ours:
        await _serve(stop, given, directories, ours)


async def _serve(stop: asyncio.Event, given: Settings, directories: Directories, ours: Identity) -> None:
    image_cache = repository(given.image_cache)
    data = Path(given.data_dir)
    frameworks = Frameworks.load(given.frameworks, given.index_hosts, given.default_framework)
    caller = _storage(given)
    means = _means(given, directories, frameworks, caller)
    async with (
        database.pool(given.database_url, "builder") as pool,
        bus.connect(given.nats_url, "builder") as nats,
        _docker(given, data, ours) as docker,
    ):
        await database.migrate(pool, "builder", "spell_builder")
        requests = Requests(pool, given.resolution_seconds)
        built = asyncio.Event()
        async with (
            http.Caller(given.scheduler_url or "unix:///nobody") as scheduler,
            caller as storage,
            asyncio.TaskGroup() as tasks,
        ):
            soundness = Soundness(directories, requests.recorded, given.environment_check_share)
            stores = Stores(directories, soundness, requests, Archives(pool), storage, data / "archives")
            sharing = Sharing(stores, tasks) if given.share_environments else None
            limits: Limits = {
                "built": built.set,
                "builds_max": given.builds_max,
                "grace_seconds": given.unawaited_seconds,
            }
            builder = _local(
                means, _system(data, ours), directories, requests, tasks, soundness, sharing, limits
            )
            images = Images(docker, directories, requests)
            cache = image_cache and ImageCache(image_cache, docker, requests, pool, storage, tasks)
            on_images = _image_builder(docker, images, means, requests, given, tasks, cache, limits)
            builders: dict[Engine, Builder] = {LOCAL: builder, DOCKER: on_images}
            inventory = Inventory(
                requests,
                directories,
                images,
                sharing,
                cache,
                Runs(scheduler).active,
                given.environments_bytes_max,
                Recipe(means.uv.interpreter).key,
            )
            stored = ArchiveRoutes(builder, requests, sharing), ImageRoutes(on_images, cache)
            app = api.application(builders, inventory, frameworks, *stored)
            async with http.serve(app, given.listen):
                log.info("ready")
                ahead = Ahead(builders, inventory, tasks)
                tasks.create_task(nats.consume(stop, *_CONSUMED, ahead.handle))
                tasks.create_task(inventory.keep(stop, built))
                caches = Caches(
                    means.uv, data, given.caches_bytes_max, lambda: _work(builders.values()), docker.trim
                )
                tasks.create_task(caches.keep(stop))
                await stop.wait()
                for each in builders.values():
                    each.close()


def _settings() -> Settings:
    given = settings.load(Settings)
    if given.build_network not in {HOST, RUNS}:
        raise SettingsError(
            f"the setting SPELL_BUILD_NETWORK must be {HOST} or {RUNS}: {given.build_network!r}"
        )
    if given.share_environments and not given.storage_url:
        raise SettingsError("the setting SPELL_SHARE_ENVIRONMENTS needs SPELL_STORAGE_URL")
    return given


def _storage(given: Settings) -> http.Caller:
    return http.Caller(given.storage_url or "unix:///nobody", token=read_token(given.registry_token))


@asynccontextmanager
async def _docker(given: Settings, data: Path, ours: Identity) -> AsyncIterator[Docker]:
    """The daemon, without what builds that were interrupted left on it. It need not answer now."""
    for left in (data / "image-parts").glob("*"):
        if not ours.alive(left.name):
            remove(left)
    async with (
        _storage(given) as storage,
        clients(given.docker_socket) as both,
    ):
        ask_login = partial(login_for, storage) if given.storage_url else _no_login
        names = ours.builder, ours.process
        docker = Docker(both, given.docker_socket, *names, ask_login, given.build_network)
        await docker.clean(ours.alive)
        yield docker


async def _no_login(_registry: str) -> None:
    """Without a storage there are public registries only."""


def _system(data: Path, ours: Identity) -> System:
    reach = outside.load()
    trusted = outside.ca_file(reach, data / "ca")
    system = System(data, outside.for_tools(reach, trusted)["apt"], trusted, ours.process)
    system.clean(ours.alive)
    return system


def _uv(data: Path, repositories: Repositories) -> uv.Uv:
    reach = outside.load()
    tools = outside.for_tools(reach, outside.ca_file(reach, data / "ca"))
    # rattler gets to see the same; it knows nothing of the indexes.
    return uv.locate(outside.merged(os.environ, tools["uv"]), data, repositories)


def _means(given: Settings, directories: Directories, frameworks: Frameworks, storage: http.Caller) -> Means:
    """What environments are made with."""
    data = Path(given.data_dir)
    repositories = Repositories(data / "git", storage)
    program = _uv(data, repositories)
    channels = Channels(given.conda_channels, given.conda_base_url)
    conda = Conda(channels, program.environment, data / "conda-cache", directories.root)
    sources = Sources(given.index_hosts, repositories)
    return Means(program, conda, Pythons(program), frameworks, sources)


def _local(
    means: Means,
    system: System,
    directories: Directories,
    requests: Requests,
    tasks: asyncio.TaskGroup,
    soundness: Soundness,
    sharing: Sharing | None,
    limits: Limits,
) -> LocalBuilder:
    made = LocalBuilder(
        means.uv,
        means.conda,
        LocalResolver(means, system),
        directories,
        requests,
        tasks,
        soundness=soundness,
        sharing=sharing,
        **limits,
    )
    # Nearly every stack runs something without packages: its environment is there before the first one.
    made.ensure(BARE).hold()
    return made


def _work(builders: Iterable[Builder]) -> tuple[int, int]:
    """How much all of them build, and have built."""
    each = [builder.work() for builder in builders]
    return sum(now for now, _ in each), sum(before for _, before in each)


def _image_builder(
    docker: Docker,
    images: Images,
    means: Means,
    requests: Requests,
    given: Settings,
    tasks: asyncio.TaskGroup,
    cache: ImageCache | None,
    limits: Limits,
) -> ImageBuilder:
    inside = contained.room(means.uv)
    resolver = ImageResolver(means, docker, inside, given.default_framework)
    parts = Path(given.data_dir) / "image-parts" / docker.process
    maker = ImageMaker(docker, inside, means, resolver, parts)
    return ImageBuilder(
        docker, images, maker, resolver, requests, given.docker_image, tasks, cache=cache, **limits
    )


if __name__ == "__main__":
    service.run("builder", main)
