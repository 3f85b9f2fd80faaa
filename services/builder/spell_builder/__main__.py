"""`python -m spell_builder`: wiring only."""

import asyncio
import os
from pathlib import Path

from spell_builder import api, uv
from spell_builder.ahead import Ahead
from spell_builder.archive_api import ArchiveRoutes
from spell_builder.archives import Archives
from spell_builder.builder import BARE, Builder
from spell_builder.caches import Caches
from spell_builder.channels import Channels
from spell_builder.conda import Conda
from spell_builder.directories import Directories
from spell_builder.frameworks import Frameworks
from spell_builder.inventory import Inventory
from spell_builder.pythons import Pythons
from spell_builder.repositories import Repositories
from spell_builder.requests import Requests
from spell_builder.resolver import Recipe, Resolver
from spell_builder.runs import Runs
from spell_builder.settings import Settings
from spell_builder.sharing import Sharing, Stores
from spell_builder.soundness import Soundness
from spell_builder.sources import Sources
from spell_proto import bus, database, http, logs, outside, service, settings, subjects
from spell_proto.errors import SettingsError

log = logs.get()

_CONSUMED = (subjects.COMMANDS, subjects.BUILDER_CONSUMER, subjects.COMMANDS_FOR_BUILDER)


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    given = settings.load(Settings)
    if given.share_environments and not given.storage_url:
        raise SettingsError("the setting SPELL_SHARE_ENVIRONMENTS needs SPELL_STORAGE_URL")
    data = Path(given.data_dir)
    directories = Directories(data)
    directories.make()
    directories.clean()
    frameworks = Frameworks.load(given.frameworks, given.index_hosts)
    caller = http.Caller(given.storage_url or "unix:///nobody")
    program, conda, resolver = _means(given, directories, frameworks, caller)
    async with (
        database.pool(given.database_url, "builder") as pool,
        bus.connect(given.nats_url, "builder") as nats,
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
            builder = Builder(
                program,
                conda,
                resolver,
                directories,
                requests,
                tasks,
                soundness=soundness,
                sharing=sharing,
                built=built.set,
                builds_max=given.builds_max,
                grace_seconds=given.unawaited_seconds,
            )
            inventory = Inventory(
                requests,
                directories,
                sharing,
                Runs(scheduler).active,
                given.environments_bytes_max,
                Recipe(program.interpreter).key,
            )
            # Nearly every stack runs something without packages: its environment is there before the first one.
            builder.ensure(BARE).hold()
            archives = ArchiveRoutes(builder, requests, sharing)
            app = api.application(builder, inventory, frameworks, sharing, archives)
            async with http.serve(app, given.listen):
                log.info("ready")
                ahead = Ahead(builder, inventory, tasks)
                tasks.create_task(nats.consume(stop, *_CONSUMED, ahead.handle))
                tasks.create_task(inventory.keep(stop, built))
                tasks.create_task(Caches(program, data, given.caches_bytes_max, builder.work).keep(stop))
                await stop.wait()
                builder.close()


def _uv(data: Path, repositories: Repositories) -> uv.Uv:
    reach = outside.load()
    tools = outside.for_tools(reach, outside.ca_file(reach, data / "ca"))
    # rattler gets to see the same; it knows nothing of the indexes.
    return uv.locate(outside.merged(os.environ, tools["uv"]), data, repositories)


def _means(
    given: Settings, directories: Directories, frameworks: Frameworks, storage: http.Caller
) -> tuple[uv.Uv, Conda, Resolver]:
    """What environments are made with."""
    data = Path(given.data_dir)
    repositories = Repositories(data / "git", storage)
    program = _uv(data, repositories)
    channels = Channels(given.conda_channels, given.conda_base_url)
    conda = Conda(channels, program.environment, data / "conda-cache", directories.root)
    sources = Sources(given.index_hosts, repositories)
    return program, conda, Resolver(program, conda, Pythons(program), frameworks, sources)


if __name__ == "__main__":
    service.run("builder", main)
