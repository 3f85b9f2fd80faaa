"""A machine room: the real scheduler and storage, a builder and code of the test's own, and runners to kill."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import TypeAdapter

from integration.runner import shims
from spell_proto import http
from spell_proto.bus import Bus, connect
from spell_proto.environments import MARKER
from spell_proto.errors import FullError, RefusedError
from spell_proto.journal import Decoder, Record, RecordKind
from spell_proto.spec import AttemptSpec
from spell_proto.views import Manifest, RunView, Verdict
from spell_runner import workspace
from spell_runner.directory import Directory
from spell_runner.shim import launch, processes
from support import disks, docker, git_https, registries, stack, stores
from support.scheduler import Client, SchedulerProcess, until
from support.shelf import Shelf

DEADLINE_SECONDS = 20.0
MACHINES = tuple(f"r{number}" for number in range(400))
MANIFEST = TypeAdapter(Manifest)
VERDICT = TypeAdapter(Verdict)
FINAL = {"complete", "stopped", "killed", "failed", "interrupted"}
_NUMBERS = itertools.count()


class Process:
    """One of our programs, in a process group of its own."""

    def __init__(self, name: str, directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.environment = environment
        self.before: tuple[str, ...] = ()  # words in front of the command line
        self.process: subprocess.Popen[bytes] | None = None
        self.said = 0  # how long the log was when the process was started

    def start(self, **settings: str) -> None:
        with self.log.open("ab") as log:
            self.said = log.tell()
            self.process = subprocess.Popen(
                [*self.before, sys.executable, "-m", f"spell_{self.name}"],
                env=os.environ | self.environment | settings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 30)


class Services:
    """What all tests share."""

    def __init__(
        self, directory: Path, postgres: stack.Postgres, nats: stack.Nats, git: git_https.GitHttps
    ) -> None:
        self.nats = nats
        self.git = git
        self.scheduler = SchedulerProcess(postgres, nats, directory, SPELL_RUNS_MAX="1000")
        self.storage_url = f"unix://{directory}/storage.sock"
        #: Where buckets are looked for; a test that needs some starts what answers there.
        self.clouds_port = stack.free_port()
        self.storage_blobs = directory / "storage" / "blobs"
        stores.same_store(postgres.url("storage"), self.storage_blobs)
        self.storage = Process(
            "storage",
            directory,
            {
                "SPELL_DATA_DIR": str(directory / "storage"),
                "SPELL_DATABASE_URL": postgres.url("storage"),
                "SPELL_LISTEN": self.storage_url,
                "SPELL_GATEWAY_URL": f"unix://{directory}/gateway.sock",
                "SPELL_DOCKER_REGISTRIES": "127.0.0.1:*",
                "SPELL_REGISTRY_TOKEN": registries.TOKEN,
                "SPELL_S3_ENDPOINT": f"http://127.0.0.1:{self.clouds_port}",
                "SPELL_GS_ENDPOINT": f"http://127.0.0.1:{self.clouds_port}",
                **git.settings,
            },
        )

    async def start_storage(self) -> None:
        self.storage.start()
        assert await http.until_listening(Path(self.storage_url.removeprefix("unix://")), 20), (
            self.storage.log.read_text()
        )


@asynccontextmanager
async def services(postgres: stack.Postgres) -> AsyncIterator[Services]:
    with stack.short_directory() as directory, git_https.serving(directory) as git:
        async with stack.nats(MACHINES) as nats:
            made = Services(directory, postgres, nats, git)
            await made.scheduler.start()
            await made.start_storage()
            try:
                yield made
            finally:
                made.storage.kill9()
                made.scheduler.kill9()


# ---- what a runner talks to ------------------------------------------------------------------------------------


class Front:
    """Storage as the runner sees it: the real one behind, with code that tests make up, and faults on demand."""

    def __init__(self, behind: str, socket: Path) -> None:
        self.behind = behind
        self.socket = socket
        self.shelf = Shelf(socket.with_suffix(".git"))
        self.broken: re.Pattern[str] | None = None
        self.spoils: re.Pattern[str] | None = None  # flips a bit of these answers
        self.full: re.Pattern[str] | None = None
        self.refused: re.Pattern[str] | None = None
        self.gate = asyncio.Event()  # what matches `held` waits for it
        self.held: re.Pattern[str] | None = None
        self.asked: list[str] = []
        self.sent: list[
            tuple[str, int, int]
        ] = []  # what was asked, the bytes that came with it, how it was answered
        self._session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.broken is not None and self.broken.search(self.asked[-1]):
            assert request.transport is not None
            request.transport.close()
            raise web.HTTPServiceUnavailable
        if self.held is not None and self.held.search(self.asked[-1]):
            await self.gate.wait()
        if self.full is not None and self.full.search(self.asked[-1]):
            return http.refusal_response(FullError("disk_full", "the disk of storage is full"))
        if self.refused is not None and self.refused.search(self.asked[-1]):
            return http.refusal_response(RefusedError("refused", f"no {request.path.strip('/s')} today"))
        if re.fullmatch(r"/code/\d+/\d+/pack", request.path):
            pack = await self.shelf.pack(await request.read())
            if pack is not None:
                return web.Response(body=pack)
        try:
            return await self._passed_on(request)
        except aiohttp.ClientConnectionError:
            # The storage behind is away, and so are we.
            assert request.transport is not None
            request.transport.close()
            raise web.HTTPServiceUnavailable from None

    async def _passed_on(self, request: web.Request) -> web.Response:
        asked = f"{request.method} {request.path}"
        assert self._session is not None
        async with self._session.request(
            request.method,
            f"http://storage{request.path_qs}",
            data=await request.read(),
            headers={
                "Content-Type": request.headers.get("Content-Type", "application/octet-stream"),
                "Authorization": request.headers.get("Authorization", ""),
                **({"Range": request.headers["Range"]} if "Range" in request.headers else {}),
            },
        ) as answer:
            body = bytearray(await answer.read())
            self.sent.append((asked, request.content_length or 0, answer.status))
            if self.spoils is not None and self.spoils.search(asked) and body:
                body[len(body) // 2] ^= 1
            return web.Response(body=bytes(body), status=answer.status, content_type=answer.content_type)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self.handle)
        connector = aiohttp.UnixConnector(self.behind.removeprefix("unix://"))
        async with (
            aiohttp.ClientSession(connector=connector) as self._session,
            http.serve(app, f"unix://{self.socket}"),
        ):
            yield


class Builder:
    """A builder whose environments are a directory and an image that are there already."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self.environment = directory / "env"
        (self.environment / "bin").mkdir(parents=True)
        # The interpreter itself: a checkout below /tmp is out of sight in a sandbox, and so is its .venv.
        (self.environment / "bin/python").symlink_to(Path(sys.executable).resolve())
        (self.environment / MARKER).write_text('{"key": "k"}')
        self.socket = socket
        #: knows the images of environments, which runners are told by their ids
        self.daemon: docker.Docker | None = None
        self.known = True
        #: the engines that environments were asked for
        self.asked: list[str] = []
        self.failure: str | None = None
        self.release = asyncio.Event()
        self.release.set()

    def _image(self) -> str:
        if self.daemon is None:
            return docker.BASE
        return str(self.daemon.ask("GET", f"/images/{docker.BASE}/json")["Id"])

    async def resolved(self, request: web.Request) -> web.StreamResponse:
        if self.known:
            self.asked.append(request.query.get("engine", "local"))
            in_image = self.asked[-1] == "docker"
            path = await asyncio.to_thread(self._image) if in_image else str(self.environment)
            return web.json_response({"key": "k", "path": path})
        return web.json_response(
            {"code": "environment_unknown", "field": None, "message": "not yet", "hint": None}, status=404
        )

    async def ensure(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(b'{"line": "Resolving 1 package", "level": "info"}\n{}\n')
        await self.release.wait()
        last = {"ready": {"key": "k", "path": str(self.environment), "cached": False}}
        if self.failure:
            await response.write(json.dumps({"line": self.failure, "level": "error"}).encode() + b"\n")
            last = {"failed": {"message": self.failure}}
        await response.write(json.dumps(last).encode() + b"\n")
        return response

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/environments/resolved/{digest}", self.resolved)
        app.router.add_post("/environments/ensure", self.ensure)
        async with http.serve(app, f"unix://{self.socket}"):
            yield


# ---- one machine -----------------------------------------------------------------------------------------------


class Room:
    """One machine, whose type nobody else has, and an owner of its own."""

    def __init__(self, services: Services, directory: Path, sockets: Path, client: Client, bus: Bus) -> None:
        self.services = services
        self.number = next(_NUMBERS)
        self.machine_id = MACHINES[self.number]
        self.machine_type = f"T{self.number}"
        self.data = directory / "runner"
        self.directory = directory
        self.client = client
        self.bus = bus
        self.front = Front(services.storage_url, sockets / "front.sock")
        self.builder = Builder(directory, sockets / "builder.sock")
        self.runner = Process(
            "runner",
            directory,
            {
                "SPELL_DATA_DIR": str(self.data),
                "SPELL_MACHINE_ID": self.machine_id,
                "SPELL_MACHINE_TYPE": self.machine_type,
                "SPELL_NATS_URL": services.nats.runner_url(self.machine_id),
                "SPELL_SCHEDULER_URL": f"unix://{services.scheduler.socket}",
                "SPELL_STORAGE_URL": f"unix://{self.front.socket}",
                "SPELL_BUILDER_URL": f"unix://{self.builder.socket}",
                "SPELL_REGISTRY_TOKEN": registries.TOKEN,
                "SPELL_HEARTBEAT_SECONDS": "0.5",
                "SPELL_GRACE_SECONDS": "2",
                "SPELL_SHIMD_LINGER_SECONDS": "2",
                "SPELL_ISOLATION": "none",
            },
        )

    def mend(self) -> None:
        """Undo the faults that a test has made."""
        self.front.broken = self.front.spoils = self.front.full = self.front.held = None
        self.front.refused = None
        self.front.asked.clear()
        self.front.sent.clear()
        self.builder.known = True
        self.builder.failure = None
        self.builder.release.set()
        assert self.runner.process is not None
        if self.runner.process.poll() is not None:
            self.runner.start()

    async def create(self, command: str, **given: Any) -> int:
        view = await self.client.create(command=command, machine_type=self.machine_type, **given)
        return view.id

    async def until_final(self, run_id: int, seconds: float = DEADLINE_SECONDS) -> RunView:
        async def final() -> RunView | None:
            view = await self.client.get(run_id)
            return view if view.state in FINAL else None

        try:
            return await until(final, seconds=seconds)
        except TimeoutError:
            view = await self.client.get(run_id)
            raise AssertionError((view, self.runner.log.read_text()[-4000:])) from None

    async def until_state(self, run_id: int, state: str) -> None:
        async def reached() -> bool:
            return (await self.client.get(run_id)).state == state

        await until(reached, seconds=DEADLINE_SECONDS)

    async def until_logged(self, run_id: int, wanted: bytes) -> None:
        journal = self.attempt(run_id) / launch.JOURNAL
        await self.until_true(lambda: journal.exists() and wanted in journal.read_bytes())

    async def held(self, run_id: int) -> AttemptSpec:
        """The spec of an attempt, as the machine has it."""
        return Directory(self.attempt(run_id)).taken().spec

    def attempt(self, run_id: int) -> Path:
        return self.data / "attempts" / f"{run_id}-1"

    async def until_gone(self, run_id: int) -> None:
        async def gone() -> bool:
            return not self.attempt(run_id).exists()

        await until(gone)

    async def until_true(self, condition: Callable[[], Any]) -> Any:
        async def true() -> Any:
            return condition()

        return await until(true)

    async def records(self, run_id: int) -> list[Record]:
        """The log as storage has it."""
        path = f"/journals/{run_id}/1/bytes"
        async with (
            http.Caller(self.services.storage_url) as caller,
            caller.open("GET", path, params={"offset": 0}) as answer,
        ):
            return Decoder().feed(await answer.read())

    async def output(self, run_id: int) -> bytes:
        records = await self.records(run_id)
        return b"".join(one.payload for one in records if one.kind in {RecordKind.STDOUT, RecordKind.STDERR})

    async def lines(self, run_id: int) -> list[str]:
        """The platform's own lines."""
        kinds = {RecordKind.NOTE, RecordKind.PHASE}
        return [one.json()["text"] for one in await self.records(run_id) if one.kind in kinds]

    async def files(self, view: RunView, snapshot: int | None = None) -> dict[str, bytes]:
        """What was saved: path -> content (a link's is its target)."""
        digest = view.manifest
        if snapshot is not None:
            digest = next(one.manifest for one in view.snapshots if one.number == snapshot)
        if digest is None:
            return {}
        owner = {"owner_id": view.owner_id}
        manifest = await self.manifest(view, digest)
        async with http.Caller(self.services.storage_url) as caller:
            saved = {}
            for entry in manifest.entries:
                if entry.link is not None:
                    saved[entry.path] = entry.link.encode()
                    continue
                async with caller.open("GET", f"/blobs/{entry.sha256}", params=owner) as answer:
                    saved[entry.path] = await answer.read()
            return saved

    async def deleted(self, view: RunView) -> list[str]:
        """What was recorded as removed."""
        return list((await self.manifest(view)).deleted)

    async def manifest(self, view: RunView, digest: str | None = None) -> Manifest:
        """That of what was saved, or another one of the same owner."""
        digest = digest or view.manifest
        assert digest is not None
        owner = {"owner_id": view.owner_id}
        async with http.Caller(self.services.storage_url) as caller:
            return await caller.call("GET", f"/manifests/{digest}", MANIFEST, params=owner)

    async def assert_whole(self, view: RunView) -> None:
        """The scheduler's invariants hold, and the stored log is what was reported."""
        for check in (await self.client.verify()).checks:
            assert check.ok, check
        assert view.log is not None
        params = {"run_id": view.id, "attempt": 1, **view.log.model_dump()}
        async with http.Caller(self.services.storage_url) as caller:
            verdict = await caller.call("GET", "/verify", VERDICT, params=params)
        assert all(check.ok for check in verdict.checks), verdict

    def steps(self, run_id: int) -> bytes:
        """The steps the machine has noted."""
        path = self.attempt(run_id) / "steps.jsonl"
        return path.read_bytes() if path.exists() else b""

    def ready_since_start(self) -> bool:
        return b"runner ready" in self.runner.log.read_bytes()[self.runner.said :]

    def shim(self, run_id: int) -> launch.Claim:
        claim = launch.read(self.attempt(run_id))
        assert claim is not None
        return claim

    def fork_servers(self) -> list[int]:
        """The fork servers of this machine; their shims have the same command line, but another name."""
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                ours = os.fsencode(self.data) in (process / "cmdline").read_bytes()
                if ours and (process / "comm").read_text() == "spell-shimd\n":
                    found.append(int(process.name))
        return found

    def end_everything(self) -> None:
        if self.runner.process is not None and self.runner.process.poll() is None:
            self.runner.kill9()
        for path in (self.data / "attempts").glob("*-*"):
            claim = launch.read(path)
            if claim is not None and claim.pid > 1 and processes.alive(claim.pid, claim.ticks):
                for pid in (claim.pid, *processes.descendants(claim.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        disks.take_down(self.data)


def in_docker(daemon: docker.Docker) -> dict[str, str]:
    """The settings of a machine whose runs are in containers."""
    return {
        "SPELL_ENGINE": "docker",
        "SPELL_DOCKER_SOCKET": str(daemon.socket),
        "SPELL_RUN_MEMORY_BYTES": str(256 << 20),
        "SPELL_RUN_CPUS": "1.5",
        "SPELL_RUN_PIDS": "256",
        "SPELL_RUN_SHM_BYTES": str(32 << 20),
    }


@asynccontextmanager
async def room(
    services: Services, below: str = "/var/tmp", *, before: tuple[str, ...] = (), **settings: str
) -> AsyncIterator[Room]:
    """A machine whose runner is up. Its data is not below /tmp, which a sandbox replaces."""
    shims.need(settings.get("SPELL_ISOLATION", "none"))
    directory = Path(tempfile.mkdtemp(dir=below, prefix="sp"))
    async with AsyncExitStack() as opened:
        sockets = opened.enter_context(stack.short_directory())
        caller = await opened.enter_async_context(http.Caller(f"unix://{services.scheduler.socket}"))
        bus = await opened.enter_async_context(connect(services.nats.service_url, "service"))
        made = Room(services, directory, sockets, Client(caller, 1000 + next(_NUMBERS)), bus)
        made.runner.environment |= settings
        made.runner.before = before
        made.builder.daemon = docker.Docker(Path(settings.get("SPELL_DOCKER_SOCKET", "")))
        await opened.enter_async_context(made.front.open())
        await opened.enter_async_context(made.builder.open())
        made.runner.start()
        try:
            await until_registered(made)
            yield made
        finally:
            made.end_everything()
            workspace.remove(directory)


async def until_registered(made: Room) -> None:
    async def known() -> bool:
        async with made.client.caller.open("GET", "/machine-types") as answer:
            return made.machine_type in (await answer.text())

    try:
        await until(known)
    except TimeoutError:
        raise AssertionError(made.runner.log.read_text()[-4000:]) from None
