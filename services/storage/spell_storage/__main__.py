"""Starts the storage service: wiring only."""

import asyncio
import os
import resource
import sys
from pathlib import Path

import asyncpg

from spell_proto import database, http, logs, outside, service, settings
from spell_proto.registries import read_token
from spell_storage import amazon, api, git, git_server
from spell_storage.amazon import Amazon
from spell_storage.appender import Appender
from spell_storage.archive_api import ArchiveRoutes
from spell_storage.blobs import Blobs
from spell_storage.bucket_api import BucketRoutes
from spell_storage.bucket_roles import Roles
from spell_storage.bucket_stores import Stores, read_endpoints
from spell_storage.buckets import Buckets
from spell_storage.code import Code
from spell_storage.code_api import CodeRoutes
from spell_storage.credentials import Credentials, read_hosts
from spell_storage.fetch_api import FetchRoutes
from spell_storage.fetcher import Fetcher
from spell_storage.garbage import Garbage, runs_with, runs_without
from spell_storage.housekeeping import Housekeeping, InUse, runs_of
from spell_storage.journals import Journals
from spell_storage.merger import Merger
from spell_storage.objects import Objects
from spell_storage.quota_api import QuotaRoutes
from spell_storage.quotas import Quotas
from spell_storage.registries import Registries, read_role
from spell_storage.registry_api import RegistryRoutes
from spell_storage.registry_door import Door
from spell_storage.remote import FetchLimits, Remote
from spell_storage.scrub import Scrub
from spell_storage.scrub_api import ScrubRoutes
from spell_storage.sealed import Seal
from spell_storage.settings import Settings
from spell_storage.upload_api import upload_routes

log = logs.get()


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish what is in hand."""
    given = settings.load(Settings)
    data = Path(given.data_dir)
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    reach = outside.load()
    # The client of the object store reads them from here, and from nowhere else; git is told what stands here.
    os.environ.update(outside.for_tools(reach, outside.ca_file(reach, data / "ca"))["store"])
    objects = Objects.open(given.blob_store, data / "blobs")
    repositories = git.Repositories(data, push_bytes_max=given.git_push_bytes_max)
    repositories.prepare()
    remote = _remote(given, data)
    key = git_server.host_key(data / "ssh_host_ed25519_key")
    listener = git_server.bound(given.ssh_listen_host, given.ssh_port)
    port = listener.getsockname()[1]
    async with (
        database.pool(given.database_url, "storage") as pool,
        http.Caller(given.gateway_url) as gateway,
        http.Caller(given.scheduler_url) as scheduler,
    ):
        await database.migrate(pool, "storage", "spell_storage")
        journals = Journals(pool, objects)
        merger = Merger(journals)
        appender = Appender(journals, merger.consider)
        code = Code(pool, repositories, f"{given.ssh_host}:{port}", kept_seconds=given.commit_kept_seconds)
        server = git_server.GitServer(
            code, repositories, git_server.owners_from(gateway), _push_limits(given)
        )
        seal = Seal(data / "git-credentials.key")
        credentials = Credentials(pool, read_hosts(given.git_hosts), seal)
        fetcher = Fetcher(code, repositories, credentials, remote)
        code_in_use, files_in_use, files_let_go = _in_use(given, scheduler)
        blobs, about_files = _files(given, pool, objects, (files_in_use, files_let_go))
        housekeeping = Housekeeping(pool, repositories, code_in_use, given.commit_kept_seconds)
        garbage = Garbage(pool, objects, blobs, files_in_use, given.files_kept_seconds)
        incoming, uploads = upload_routes(pool, objects, blobs)
        routes: tuple[api.Routes, ...] = (
            CodeRoutes(code, repositories),
            FetchRoutes(fetcher, credentials),
            *_foreign(given, pool, seal),
            ArchiveRoutes(objects),
            *uploads,
            *about_files,
        )
        app = api.make(pool, journals, appender, blobs, *routes)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(appender.run())
            tasks.create_task(merger.run())
            every = given.collect_seconds
            sweeping = incoming.run(stop, every, given.upload_kept_seconds)
            lasting = (fetcher.run(), housekeeping.run(stop, every), garbage.run(stop, every), sweeping)
            going_on = [tasks.create_task(each) for each in lasting]
            async with git_server.serve(server, listener, key), http.serve(app, given.listen):
                log.info("storage is ready", ssh_port=port)
                await stop.wait()
            for task in going_on:
                task.cancel()
            await appender.close()
            merger.close()
    log.info("storage has stopped")


def _in_use(given: Settings, scheduler: http.Caller) -> tuple[InUse | None, InUse | None, InUse | None]:
    """Who says which commits and manifests are in use, and which manifests were: without a scheduler, nobody can."""
    if not given.scheduler_url:
        return None, None, None
    return runs_of(scheduler), runs_with(scheduler), runs_without(scheduler)


def _files(
    given: Settings, pool: asyncpg.Pool, objects: Objects, in_use: tuple[InUse | None, InUse | None]
) -> tuple[Blobs, tuple[api.Routes, ...]]:
    """What is about all saved files."""
    quotas = Quotas(pool, given.owner_files_max, given.owner_bytes_max, *in_use)
    blobs = Blobs(pool, objects, given.files_kept_seconds, quotas)
    return blobs, (QuotaRoutes(quotas), ScrubRoutes(Scrub(pool, objects, blobs, given.files_kept_seconds)))


def _remote(given: Settings, data: Path) -> Remote:
    limits = FetchLimits(given.git_fetch_bytes_max, given.git_fetch_seconds_max, given.git_silent_seconds_max)
    remote = Remote(data, limits, given.git_ca_file)
    remote.prepare()
    return remote


def _foreign(given: Settings, pool: asyncpg.Pool, seal: Seal) -> tuple[api.Routes, ...]:
    """What is about registries and buckets of others."""
    door = Door(given.docker_registries)
    registries = Registries(pool, seal, door, Amazon(amazon.issue), read_role(given.aws_role))
    stores = Stores(read_endpoints(given.s3_endpoint, given.gs_endpoint))
    buckets = Buckets(pool, seal, stores, Roles(amazon.lend), registries.role)
    return RegistryRoutes(registries, read_token(given.registry_token)), BucketRoutes(buckets)


def _push_limits(given: Settings) -> git_server.Limits:
    return git_server.Limits(
        push_seconds=given.git_push_seconds_max,
        silent_seconds=given.git_push_silent_seconds_max,
        refs_per_push=given.git_push_refs_max,
        refs=given.git_refs_max,
        connections=given.ssh_connections_max,
    )


if __name__ == "__main__":
    # What other hosts are told is in its memory, and in that of the git processes it starts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    service.run("storage", main)
    # The object store's threads abort the interpreter now and then when it is taken down under them.
    sys.stderr.flush()
    os._exit(0)
