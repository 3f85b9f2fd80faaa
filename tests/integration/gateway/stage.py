"""The gateway among real servers: Postgres, NATS, the other services, and a machine whose every byte a test writes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from integration.gateway.wire import Machine
from spell_gateway.accounts import Accounts, new_token, token_digest
from spell_proto import database, http
from spell_proto.errors import RefusedError
from spell_proto.journal import Decoder, Record, RecordKind, encode
from support import stack, stores
from support.scheduler import SchedulerProcess, machine

DEADLINE_SECONDS = 15.0
VERIFY_SECONDS_MAX = 60.0
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHgRJ0dgYFVVRGRYcWY3b2xkS2V5Rm9yVGVzdHM0 ada@laptop"


async def until(condition: Any, *, seconds: float = DEADLINE_SECONDS) -> Any:
    """What the coroutine function `condition` gives, once that is truthy."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0.01)
        return value


class Process:
    """One service, started as the supervisor would."""

    def __init__(self, name: str, directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._environment = os.environ | environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, **settings: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"spell_{self.name}"],
                env=self._environment | settings,
                stdout=log,
                stderr=log,
            )

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, 30)


class Stage:
    """All processes, and how to reach them."""

    def __init__(self, directory: Path, postgres: stack.Postgres, nats: stack.Nats) -> None:
        self.directory = directory
        self.postgres = postgres
        self.nats = nats
        self.url = f"http://127.0.0.1:{stack.free_port()}"
        #: Where buckets are looked for; a test that needs some starts what answers there.
        self.clouds_port = stack.free_port()
        self.tokens = {"ada": new_token(), "bob": new_token()}
        token_file, key_file = directory / "token", directory / "key.pub"
        token_file.write_text(self.tokens["ada"] + "\n")
        key_file.write_text(PUBLIC_KEY + "\n")
        socket = {
            name: f"unix://{directory}/{name}.sock" for name in ("scheduler", "storage", "builder", "gateway")
        }
        self.sockets = socket
        self.scheduler = SchedulerProcess(postgres, nats, directory, SPELL_RUNS_MAX="100")
        stores.same_store(postgres.url("storage"), directory / "storage" / "blobs")
        self.storage = Process(
            "storage",
            directory,
            {
                "SPELL_DATA_DIR": str(directory / "storage"),
                "SPELL_DATABASE_URL": postgres.url("storage"),
                "SPELL_LISTEN": socket["storage"],
                "SPELL_GATEWAY_URL": socket["gateway"],
                # The gateway is not told, so that images come from there only once a login is stored.
                "SPELL_DOCKER_REGISTRIES": "127.0.0.1:*",
                "SPELL_S3_ENDPOINT": f"http://127.0.0.1:{self.clouds_port}",
                "SPELL_GS_ENDPOINT": f"http://127.0.0.1:{self.clouds_port}",
            },
        )
        self.builder = Process(
            "builder",
            directory,
            {
                "SPELL_DATA_DIR": str(directory / "builder"),
                "SPELL_DATABASE_URL": postgres.url("builder"),
                "SPELL_NATS_URL": nats.service_url,
                "SPELL_LISTEN": socket["builder"],
                "SPELL_STORAGE_URL": socket["storage"],
            },
        )
        self.gateway = Process(
            "gateway",
            directory,
            {
                "SPELL_DATABASE_URL": postgres.url("gateway"),
                "SPELL_NATS_URL": nats.service_url,
                "SPELL_SCHEDULER_URL": socket["scheduler"],
                "SPELL_STORAGE_URL": socket["storage"],
                "SPELL_BUILDER_URL": socket["builder"],
                "SPELL_GATEWAY_URL": socket["gateway"],
                "SPELL_LISTEN": self.url,
                "SPELL_FIRST_USER": "ada",
                "SPELL_FIRST_TOKEN_FILE": str(token_file),
                "SPELL_FIRST_SSH_KEY_FILE": str(key_file),
            },
        )

    async def start(self) -> None:
        for process in (self.storage, self.builder, self.gateway):
            process.start()
        await self.scheduler.start()
        for process in (self.storage, self.builder, self.gateway):
            await self.until_up(process)
        async with database.pool(self.postgres.url("gateway"), "gateway") as connections:
            await connections.execute("INSERT INTO users (name) VALUES ('bob')")
            await connections.execute(
                "INSERT INTO tokens (user_id, name, sha256) SELECT id, 'bob', $1 FROM users WHERE name = 'bob'",
                token_digest(self.tokens["bob"]),
            )
            assert await Accounts(connections).user_of_token(token_digest(self.tokens["ada"]))

    async def until_up(self, process: Process) -> None:
        async with http.Caller(self.sockets[process.name]) as caller:

            async def up() -> bool:
                try:
                    async with caller.open("GET", "/health"):
                        return True
                except RefusedError:
                    return False

            try:
                await until(up)
            except TimeoutError:
                raise RuntimeError(process.log.read_text()[-3000:]) from None

    def violated(self) -> dict[str, str]:
        """What `spell verify` finds wrong with the runs of each owner: invariant and owner -> offenders."""
        found = {}
        for name, token in self.tokens.items():
            asked = urllib.request.Request(
                f"{self.url}/api/verify", headers={"Authorization": f"Bearer {token}"}
            )
            with urllib.request.urlopen(asked, timeout=VERIFY_SECONDS_MAX) as answer:
                checks = orjson.loads(answer.read())["checks"]
            found |= {f"{check['id']} of {name}": check["detail"] for check in checks if not check["ok"]}
        return found

    async def stop(self) -> None:
        """Every service drains and exits 0."""
        for process in (self.gateway, self.builder, self.storage, self.scheduler):
            assert await process.stop() == 0, process.log.read_text()[-3000:]

    @asynccontextmanager
    async def client(self, name: str | None = "ada") -> AsyncIterator["Client"]:
        headers = {"Authorization": f"Bearer {self.tokens[name]}"} if name else {}
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(self.url, headers=headers, timeout=timeout) as session:
            yield Client(session)

    @asynccontextmanager
    async def machine(self, machine_type: str, slots: int = 8) -> AsyncIterator["Machine"]:
        """A machine of a type of its own, so that tests do not take each other's runs."""
        async with AsyncExitStack() as opened:
            wire = await opened.enter_async_context(machine(self.nats, machine_type, machine_type, slots))
            storage = await opened.enter_async_context(http.Caller(self.sockets["storage"]))
            client = await opened.enter_async_context(self.client())

            async def known() -> bool:
                _, listed = await client.ask("GET", "/api/machine-types")
                return machine_type in [item["name"] for item in listed["machine_types"]]

            await until(known)
            yield Machine(wire, storage)


class Client:
    """Somebody who talks to the public API."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def ask(self, method: str, path: str, **given: Any) -> tuple[int, Any]:
        """Status, and the JSON body or the raw one."""
        async with self.session.request(method, path, **given) as response:
            data = await response.read()
            as_json = response.content_type == "application/json" and data
            return response.status, orjson.loads(data) if as_json else data

    async def create(self, machine_type: str = "CPU", **given: Any) -> dict[str, Any]:
        body = {"command": "true", "machine_type": machine_type, **given}
        status, run = await self.ask("POST", "/api/runs", json=body)
        assert status == 201, run
        return run

    async def until_final(self, run_id: int) -> dict[str, Any]:
        async def final() -> dict[str, Any] | None:
            _, run = await self.ask("GET", f"/api/runs/{run_id}")
            return run if run["ended_at"] else None

        return await until(final)

    async def until_state(self, run_id: int, state: str) -> None:
        async def reached() -> bool:
            _, run = await self.ask("GET", f"/api/runs/{run_id}")
            return bool(run["state"] == state)

        await until(reached)

    @asynccontextmanager
    async def follow(self, run_id: int, **params: Any) -> AsyncIterator["Stream"]:
        async with self.session.get(f"/api/runs/{run_id}/follow", params=params) as response:
            assert response.status == 200, await response.text()
            yield Stream(response)


class Stream:
    """A follower's stream, record by record."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.start = int(response.headers["Spell-Offset"])
        self.records: list[Record] = []
        self.journal = b""
        self._decoder = Decoder()

    async def read(self) -> bool:
        """Take what comes next; whether anything came."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            data = await self.response.content.readany()
        for record in self._decoder.feed(data):
            self.records.append(record)
            if record.kind < RecordKind.STATE:
                self.journal += encode(record.kind, record.at_us, record.payload)
        return bool(data)

    async def until(self, kind: RecordKind) -> Record:
        """The first record of a kind."""
        while not (found := self.of(kind)):
            assert await self.read(), f"the stream ended before {kind!r}"
        return found[0]

    async def until_journal(self, length: int) -> None:
        while len(self.journal) < length:
            assert await self.read(), f"the stream ended at {len(self.journal)} of {length}"

    async def rest(self) -> "Stream":
        while await self.read():
            pass
        return self

    def of(self, kind: RecordKind) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    @property
    def kinds(self) -> list[RecordKind]:
        return [record.kind for record in self.records]


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Everything, started afresh."""
    async with AsyncExitStack() as opened:
        directory = opened.enter_context(stack.short_directory())
        postgres = await opened.enter_async_context(stack.postgres())
        nats = await opened.enter_async_context(stack.nats())
        made = Stage(directory, postgres, nats)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()
