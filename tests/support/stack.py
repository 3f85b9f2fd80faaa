"""Real servers for tests: a Postgres cluster and a NATS server, each alone, that can be killed and come back."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from spell_standalone import nats as nats_server
from spell_standalone import postgres as postgres_server
from spell_standalone.processes import bound_to_parent

READY_SECONDS_MAX = 30.0
MACHINE = "local"


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for the name of a unix socket."""
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="sp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server process that a test may kill and start again."""

    def __init__(self, argv: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self._argv = argv
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _ready(self) -> bool:
        raise NotImplementedError

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        if not await self._ready():
            self.kill9()
            raise RuntimeError(f"{self._argv[0]} did not start:\n{self._log.read_text()[-2000:]}")

    def kill9(self) -> None:
        """End the process at once, as a crash would."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    async def stop(self) -> None:
        """End the process in order."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            await asyncio.to_thread(self._process.wait, 10)
        except subprocess.TimeoutExpired:
            self.kill9()

    async def restart(self) -> None:
        """Start the process again, after `kill9` or `stop`."""
        await self.start()


class Postgres(Server):
    """A cluster with the roles and schemas of production. `url("scheduler")` is the URL of a role."""

    def __init__(self, programs: postgres_server.Programs, directory: Path) -> None:
        self.passwords = {
            role: secrets.token_hex(16) for role in (postgres_server.ADMIN, *postgres_server.ROLES)
        }
        self.data = directory / "pg"
        self.sockets = directory
        self.programs = programs
        argv = postgres_server.argv(programs, self.data, directory, bound_to_parent(signal.SIGINT))
        super().__init__(argv, directory / "postgres.log", postgres_server.environment())

    async def initialise(self) -> None:
        await postgres_server.initialise(self.programs, self.data, self.passwords)

    async def start(self) -> None:
        await postgres_server.clear_stale(self.data)
        await super().start()

    async def _ready(self) -> bool:
        return await postgres_server.until_ready(self.sockets, READY_SECONDS_MAX)

    def url(self, role: str) -> str:
        return postgres_server.url(role, self.passwords[role], self.sockets)


class Nats(Server):
    """A NATS server with the users of production, its streams on disk."""

    def __init__(self, program: Path, directory: Path, machine_ids: tuple[str, ...]) -> None:
        users = [nats_server.SERVICE, nats_server.SUBSCRIBER, *map(nats_server.runner, machine_ids)]
        self.store = directory / "js"
        self.server = nats_server.Server(
            free_port(), self.store, {user: secrets.token_hex(16) for user in users}, machine_ids
        )
        configured = directory / "nats.conf"
        configured.write_text(nats_server.configuration(self.server))
        configured.chmod(0o600)
        argv = nats_server.argv(program, configured, bound_to_parent(signal.SIGINT))
        super().__init__(argv, directory / "nats.log")

    async def _ready(self) -> bool:
        return await nats_server.until_ready(self.server.port, READY_SECONDS_MAX)

    def wipe(self) -> None:
        """Delete everything it has stored. Only while it is down."""
        shutil.rmtree(self.store, ignore_errors=True)

    @property
    def service_url(self) -> str:
        return self.server.url(nats_server.SERVICE)

    @property
    def subscriber_url(self) -> str:
        return self.server.url(nats_server.SUBSCRIBER)

    def runner_url(self, machine_id: str = MACHINE) -> str:
        return self.server.url(nats_server.runner(machine_id))


@asynccontextmanager
async def postgres() -> AsyncIterator[Postgres]:
    """A fresh cluster for as long as the context is open."""
    with short_directory() as directory:
        cluster = Postgres(postgres_server.locate(os.environ), directory)
        await cluster.initialise()
        await cluster.start()
        try:
            yield cluster
        finally:
            await cluster.stop()


@asynccontextmanager
async def nats(machine_ids: tuple[str, ...] = (MACHINE, "m1", "m2")) -> AsyncIterator[Nats]:
    """A fresh server for as long as the context is open. `machine_ids` each get a runner's user."""
    with short_directory() as directory:
        server = Nats(nats_server.locate(os.environ), directory, machine_ids)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
