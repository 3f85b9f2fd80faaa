"""Starts the storage service: wiring only."""

import asyncio
import os
import sys
from pathlib import Path

from spell_proto import database, http, logs, service, settings
from spell_storage import api, git, git_server
from spell_storage.appender import Appender
from spell_storage.blobs import Blobs
from spell_storage.code import Code
from spell_storage.journals import Journals
from spell_storage.merger import Merger
from spell_storage.objects import Objects
from spell_storage.settings import Settings

log = logs.get()


async def main(stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish what is in hand."""
    given = settings.load(Settings)
    data = Path(given.data_dir)
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    objects = Objects.open(given.blob_store, data / "blobs")
    repositories = git.Repositories(data)
    repositories.prepare()
    key = git_server.host_key(data / "ssh_host_ed25519_key")
    listener = git_server.bound(given.ssh_listen_host, given.ssh_port)
    port = listener.getsockname()[1]
    async with (
        database.pool(given.database_url, "storage") as pool,
        http.Caller(given.gateway_url) as gateway,
    ):
        await database.migrate(pool, "storage", "spell_storage")
        journals = Journals(pool, objects)
        merger = Merger(journals)
        appender = Appender(journals, merger.consider)
        code = Code(pool, repositories, f"{given.ssh_host}:{port}")
        server = git_server.GitServer(code, repositories, git_server.owners_from(gateway))
        app = api.make(pool, journals, appender, Blobs(pool, objects), code)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(appender.run())
            tasks.create_task(merger.run())
            async with git_server.serve(server, listener, key), http.serve(app, given.listen):
                log.info("storage is ready", ssh_port=port)
                await stop.wait()
            await appender.close()
            merger.close()
    log.info("storage has stopped")


if __name__ == "__main__":
    service.run("storage", main)
    # The object store's threads abort the interpreter now and then when it is taken down under them.
    sys.stderr.flush()
    os._exit(0)
