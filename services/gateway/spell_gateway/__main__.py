"""Start the gateway: `python -m spell_gateway`."""

import asyncio

import orjson

from spell_gateway import openapi
from spell_gateway.accounts import Accounts
from spell_gateway.accounts_api import AccountsApi
from spell_gateway.app import public_app
from spell_gateway.auth import Authenticator
from spell_gateway.buckets import Buckets
from spell_gateway.buckets_api import BucketsApi
from spell_gateway.builder import Builder
from spell_gateway.code import Code
from spell_gateway.code_api import CodeApi
from spell_gateway.environments_api import EnvironmentsApi
from spell_gateway.files import Files
from spell_gateway.files_api import FilesApi
from spell_gateway.follow import Sources
from spell_gateway.follow_api import FollowApi
from spell_gateway.health import Doctor
from spell_gateway.internal_api import internal_app
from spell_gateway.links_api import LinksApi
from spell_gateway.live import Live
from spell_gateway.mounting import Mounts
from spell_gateway.registries import Registries
from spell_gateway.registries_api import RegistriesApi
from spell_gateway.resolving import Resolver
from spell_gateway.room import Room
from spell_gateway.runs import Runs
from spell_gateway.runs_api import RunsApi
from spell_gateway.scheduler import Scheduler
from spell_gateway.service_api import ServiceApi
from spell_gateway.settings import Settings
from spell_gateway.storage import Storage
from spell_gateway.store_check import StoreCheck
from spell_gateway.store_check_api import StoreCheckApi
from spell_gateway.uploads_api import UploadsApi
from spell_gateway.usage import UsageOf
from spell_proto import asyncapi, logs, settings
from spell_proto.database import migrate, pool
from spell_proto.http import Caller, serve
from spell_proto.service import run

log = logs.get()


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop`; followers are let go first, then every connection is closed."""
    configured = settings.load(Settings)
    async with (
        pool(configured.database_url, "gateway") as connections,
        Caller(configured.scheduler_url) as scheduler_caller,
        Caller(configured.storage_url) as storage_caller,
        Caller(configured.builder_url) as builder_caller,
    ):
        await migrate(connections, "gateway", "spell_gateway")
        accounts = Accounts(connections)
        if configured.first_user:
            await accounts.ensure_first_user(
                configured.first_user, configured.first_token_file, configured.first_ssh_key_file
            )
        scheduler, storage, live = Scheduler(scheduler_caller), Storage(storage_caller), Live()
        builder = Builder(builder_caller)
        resolver = Resolver(scheduler, storage)
        files = Files(scheduler, storage, resolver)
        registries = Registries(storage, configured.docker_registries)
        buckets = Buckets(storage_caller)
        runs = Runs(
            scheduler, Code(storage), builder, registries, Mounts(resolver, files, buckets), Room(storage)
        )
        services = {"scheduler": scheduler_caller, "storage": storage_caller, "builder": builder_caller}
        doctor = Doctor(runs, scheduler, storage, builder, live, services)
        authenticator = Authenticator(accounts.user_of_token)
        documents: dict[str, bytes] = {}
        routes = [
            *RunsApi(runs, scheduler, storage).routes(),
            *FollowApi(Sources(runs, scheduler, storage, live)).routes(),
            *FilesApi(files, UsageOf(scheduler, resolver, files, storage), storage).routes(),
            *LinksApi(files, storage).routes(),
            *UploadsApi(accounts, resolver, storage).routes(),
            *CodeApi(accounts, scheduler, storage).routes(),
            *RegistriesApi(accounts, storage).routes(),
            *BucketsApi(accounts, buckets).routes(),
            *AccountsApi(accounts, authenticator).routes(),
            *EnvironmentsApi(runs, builder).routes(),
            *StoreCheckApi(StoreCheck(scheduler, storage)).routes(),
            *ServiceApi(doctor, documents).routes(),
        ]
        documents["/api/openapi.json"] = orjson.dumps(openapi.document(routes))
        documents["/api/asyncapi.json"] = orjson.dumps(asyncapi.document())
        async with asyncio.TaskGroup() as tasks:
            # The bus may come up after us, or not at all: nothing here waits for it.
            bus = tasks.create_task(live.serve(stop, configured.nats_url))
            async with (
                serve(public_app(routes, authenticator), configured.listen) as port,
                # Last: who finds it healthy can ask it anything.
                serve(internal_app(accounts, doctor), configured.gateway_url),
            ):
                log.info("gateway ready", port=port)
                await stop.wait()
                live.stop()
            bus.cancel()


if __name__ == "__main__":
    run("gateway", main)
