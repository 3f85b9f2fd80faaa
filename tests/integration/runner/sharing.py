"""Two machines that share nothing but the services: only one of them can see what the builder has built."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from integration.runner import room
from integration.runner.room import Front, Room, Services
from spell_proto import http
from spell_proto.views import RunView
from spell_runner import workspace
from support import registries, stack
from support.builder_process import BuilderProcess
from support.conda_packages import Channel
from support.packages import Index

#: Mounts nothing over a directory, for the program that follows and for nobody else.
_BLINDED = 'mount -t tmpfs none "$0" && exec "$@"'


@dataclass
class Shared:
    """A builder that shares what it builds, the storage that it sees, and machines beside it."""

    services: Services
    directory: Path
    builder: BuilderProcess
    front: Front
    index: Index
    channel: Channel
    postgres: stack.Postgres
    opened: AsyncExitStack

    async def machine(self, *, sees: bool, isolation: str = "none", **settings: str) -> Room:
        """A machine; one that does not see what is built is as far away as another one."""
        hidden = str(self.builder.data)
        before = () if sees else ("unshare", "--mount", "sh", "-c", _BLINDED, hidden)
        made = room.room(
            self.services,
            before=before,
            SPELL_ISOLATION=isolation,
            SPELL_BUILDER_URL=self.builder.address,
            **settings,
        )
        return await self.opened.enter_async_context(made)

    async def other_builder(self) -> BuilderProcess:
        """A builder elsewhere, with the same database and storage."""
        directory = self.opened.enter_context(stack.short_directory())
        made = BuilderProcess(directory, self.postgres, self.services.nats, "other")
        made.environment = {**self.builder.environment, "SPELL_DATA_DIR": str(directory / "data")}
        await made.start()
        self.opened.push_async_callback(made.end)
        return made

    def told(self, event: str, key: str) -> int:
        """How often the builder has said something of an environment."""
        return len(re.findall(rf'"key":"{key}".*"event":"{event}"', self.builder.log.read_text())) or len(
            re.findall(rf'"event":"{event}".*"key":"{key}"', self.builder.log.read_text())
        )

    def stored(self) -> list[Path]:
        """The archives that storage has."""
        data = Path(self.services.storage.environment["SPELL_DATA_DIR"])
        return [path for path in (data / "blobs" / "archives").glob("*/*") if path.is_file()]

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.postgres.url("builder"))
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    async def digest(self, key: str) -> str | None:
        """The archive of an environment, if it is stored."""
        query = "SELECT digest FROM builder.archives WHERE key = $1 AND packed_at IS NOT NULL AND removed_at IS NULL"
        rows = await self.rows(query, key)
        return rows[0]["digest"] if rows else None

    async def ran(self, machine: Room, command: str, **environment: Any) -> tuple[RunView, str, list[str]]:
        """A run to its end: how it ended, what it printed, and what the platform said."""
        run_id = await machine.create(command, environment=environment)
        view = await machine.until_final(run_id, seconds=90.0)
        return view, (await machine.output(run_id)).decode(), await machine.lines(run_id)


@asynccontextmanager
async def shared(services: Services, postgres: stack.Postgres, tmp_path: Path) -> AsyncIterator[Shared]:
    """A builder whose data are not below /tmp, which a sandbox replaces."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no second machine can be made here: mount namespaces are forbidden")
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    async with AsyncExitStack() as opened:
        sockets = opened.enter_context(stack.short_directory())
        front = Front(services.storage_url, sockets / "s.sock")
        await opened.enter_async_context(front.open())
        builder = BuilderProcess(sockets, postgres, services.nats)
        builder.data = directory / "builder"
        builder.data.mkdir()
        index, channel = Index(tmp_path / "index"), Channel(tmp_path / "channel")
        builder.environment = {
            "SPELL_DATA_DIR": str(builder.data),
            "SPELL_SHARE_ENVIRONMENTS": "1",
            "SPELL_STORAGE_URL": f"unix://{front.socket}",
            "SPELL_REGISTRY_TOKEN": registries.TOKEN,
            "SPELL_SCHEDULER_URL": f"unix://{services.scheduler.socket}",
            "UV_DEFAULT_INDEX": index.url,
            "SPELL_CONDA_CHANNELS": f"local={channel.url}",
        }
        made = Shared(services, directory, builder, front, index, channel, postgres, opened)
        await made.rows("DROP SCHEMA IF EXISTS builder CASCADE")
        storage = Path(services.storage.environment["SPELL_DATA_DIR"])
        shutil.rmtree(storage / "blobs" / "archives", ignore_errors=True)
        await builder.start()
        opened.push_async_callback(builder.end)
        try:
            assert await http.until_listening(Path(builder.address.removeprefix("unix://")), 20)
            yield made
        finally:
            await opened.aclose()
            workspace.remove(directory)
