"""The real storage service as a process of its own, and a gateway that knows the keys of two owners."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from integration.storage.fetching import Owner, Source
from integration.storage.files_room import a_files_room, in_bucket, in_directory
from integration.storage.git_people import Person, a_person
from spell_proto import http
from spell_proto.http import Caller
from support import buckets, git_https, registries, stack, stores


@dataclass
class Service:
    """A storage process: where it listens, what it keeps, and how to end it."""

    directory: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    owners: dict[str, int] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def address(self) -> str:
        return self.environment["SPELL_LISTEN"]

    @property
    def ssh_port(self) -> int:
        return int(self.environment["SPELL_SSH_PORT"])

    def start(self) -> None:
        with (self.directory / "storage.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spell_storage"], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.directory / "storage.sock")) != 0:
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.01)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def person(self, directory: Path) -> Person:
        """Somebody with a key that this service's gateway knows."""
        return a_person(self, directory)

    def client(self, token: str = registries.TOKEN) -> Caller:
        return Caller(self.address, token=token)

    @property
    def log(self) -> str:
        return (self.directory / "storage.log").read_text()


@contextmanager
def _gateway(path: Path, owners: dict[str, int]) -> Iterator[None]:
    """Answers GET /ssh-keys/{fingerprint} as the gateway does, on a thread of its own."""

    async def find(request):
        owner_id = owners.get(request.match_info["fingerprint"])
        if owner_id is None:
            return web.json_response(
                {"code": "key_unknown", "field": None, "message": "no such key", "hint": None}, status=404
            )
        return web.json_response({"owner_id": owner_id, "user_name": f"user{owner_id}"})

    app = web.Application()
    app.router.add_get("/ssh-keys/{fingerprint}", find)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()

    async def serve():
        async with http.serve(app, f"unix://{path}"):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextmanager
def _service(database_url: str, **settings: str) -> Iterator[Service]:
    with stack.short_directory() as directory:
        service = Service(
            directory,
            {
                "PATH": os.environ["PATH"],
                "SPELL_DATA_DIR": str(directory / "data"),
                "SPELL_LISTEN": f"unix://{directory}/storage.sock",
                "SPELL_DATABASE_URL": database_url,
                "SPELL_GATEWAY_URL": f"unix://{directory}/gateway.sock",
                "SPELL_SSH_PORT": str(stack.free_port()),
                "SPELL_REGISTRY_TOKEN": registries.TOKEN,
                **settings,
            },
        )
        stores.same_store(database_url, directory / "data" / "blobs")
        with _gateway(directory / "gateway.sock", service.owners):
            service.start()
            try:
                yield service
            finally:
                if service.process is not None and service.process.poll() is None:
                    service.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def storage(postgres) -> Iterator[Service]:
    """A running service that many tests share: each uses runs and owners of its own."""
    with _service(postgres.url("storage")) as service:
        yield service


def _starter() -> Iterator[Callable[..., Service]]:
    with ExitStack() as services:
        yield lambda database_url, **settings: services.enter_context(_service(database_url, **settings))


@pytest.fixture
def start_storage() -> Iterator[Callable[..., Service]]:
    """Starts services that a test may kill; takes the URL of their database, and settings."""
    yield from _starter()


@pytest.fixture(scope="module")
def module_storage() -> Iterator[Callable[..., Service]]:
    """Starts services that the tests of a module share."""
    yield from _starter()


@pytest.fixture(scope="session")
def clouds(tmp_path_factory):
    """Where buckets are."""
    with buckets.clouds(tmp_path_factory.mktemp("clouds")) as made:
        yield made


@pytest.fixture
def own_storage(postgres, start_storage) -> Service:
    """A running service that a test may kill."""
    return start_storage(postgres.url("storage"))


@pytest.fixture
async def own_database() -> AsyncIterator[stack.Postgres]:
    """A cluster that a test may kill."""
    async with stack.postgres() as cluster:
        yield cluster


@pytest.fixture
async def api(storage):
    """A client of the shared service."""
    async with Caller(storage.address) as caller:
        yield caller


@pytest.fixture
def person(storage, tmp_path):
    return a_person(storage, tmp_path / "one")


@pytest.fixture
def other(storage, tmp_path):
    return a_person(storage, tmp_path / "two")


@pytest.fixture
def source(tmp_path):
    made = Source(tmp_path / "source")
    git_https.GitHttps.git("init", "-q", "-b", "main", str(made.work))
    return made


@pytest.fixture(scope="module")
def host():
    with stack.short_directory() as directory, git_https.serving(directory) as server:
        yield server


@pytest.fixture(scope="module")
def fetching(postgres, host, module_storage):
    """A service that may fetch from that host, and gives up soon."""
    return module_storage(
        postgres.url("storage"),
        **host.settings,
        SPELL_GIT_SILENT_SECONDS_MAX="2",
        SPELL_GIT_FETCH_BYTES_MAX=str(20 << 20),
    )


@pytest.fixture
async def owner(fetching):
    async with fetching.client() as api:
        yield Owner(api)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of its own: a pass, a check or a sweep looks at everything there is."""
    with asyncio.Runner() as runner:
        opened = stack.postgres()
        running = runner.run(opened.__aenter__())
        yield running
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(params=["directory", "s3", "gcs"])
async def room(cluster, clouds, tmp_path, request):
    """The files of a service, in each kind of object store."""
    kind = request.param
    objects = in_directory(tmp_path / "blobs") if kind == "directory" else in_bucket(kind, clouds)
    async with a_files_room(cluster.url("storage"), objects) as made:
        yield made
