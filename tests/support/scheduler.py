"""A real scheduler process, and a machine that speaks its wire but starts nothing: tests say what it reports."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from spell_proto import bus, codec, http, subjects
from spell_proto.events import (
    AttemptFinished,
    AttemptHeld,
    AttemptReport,
    CommandExited,
    CommandStarted,
    Heartbeat,
    HeartbeatAnswer,
    LogTotals,
    OutputsSaved,
)
from spell_proto.views import (
    ArchiveOutcome,
    CommitsInUse,
    EndOutcome,
    MachineTypeList,
    MachineTypeView,
    ManifestsInUse,
    RunList,
    RunView,
    SaveOutcome,
    TransitionList,
    Verdict,
)
from support.stack import Nats, Postgres

RUN = TypeAdapter(RunView)
RUNS = TypeAdapter(RunList)
IN_USE = TypeAdapter(CommitsInUse)
MANIFESTS_IN_USE = TypeAdapter(ManifestsInUse)
ARCHIVED = TypeAdapter(ArchiveOutcome)
LOG = TypeAdapter(TransitionList)
MACHINE_TYPES = TypeAdapter(MachineTypeList)
VERDICT = TypeAdapter(Verdict)
OUTCOME = TypeAdapter(EndOutcome)
SAVED = TypeAdapter(SaveOutcome)
DEADLINE_SECONDS = 15.0
# A message id that was seen once is dropped by the stream, so one sent again needs a new one.
MESSAGES = itertools.count()
TOTALS = LogTotals(journal_bytes=0, stdout_bytes=0, stderr_bytes=0, dropped_bytes=0, sha256="0" * 64)


async def until(condition: Callable[[], Any], *, seconds: float = DEADLINE_SECONDS) -> Any:
    """What `condition` (a coroutine function) gives, once that is truthy."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0.01)
        return value


def spec(machine_type: str = "CPU", **given: Any) -> dict[str, Any]:
    """A run's spec as the gateway sends it."""
    members = {
        "command": "true",
        "machine_type": machine_type,
        "environment": {"pip": []},
        "env": {},
        "code": None,
        "description": "",
        "timeout_seconds": None,
    }
    return members | given


class SchedulerProcess:
    """`python -m spell_scheduler`, and a client of its HTTP."""

    def __init__(self, postgres: Postgres, nats: Nats, directory: Path, **settings: str) -> None:
        self.socket = directory / "scheduler.sock"
        self.log = directory / "scheduler.log"
        self.postgres = postgres
        self.environment = os.environ | {
            "SPELL_DATABASE_URL": postgres.url("scheduler"),
            "SPELL_NATS_URL": nats.service_url,
            "SPELL_LISTEN": f"unix://{self.socket}",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spell_scheduler"], env=self.environment, stdout=log, stderr=log
            )
        if not await http.until_listening(self.socket, DEADLINE_SECONDS):
            raise RuntimeError(self.log.read_text())

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 30)


class Client:
    """What the gateway asks of a scheduler, for one owner."""

    def __init__(self, caller: http.Caller, owner_id: int) -> None:
        self.caller = caller
        self.owner = {"owner_id": owner_id}

    async def create(self, key: str | None = None, sha256: str = "a" * 64, **given: Any) -> RunView:
        body = {
            "owner_id": self.owner["owner_id"],
            "creator": "ada",
            "idempotency_key": key,
            "request_sha256": sha256,
            "spec": spec(**given),
        }
        return await self.caller.call("POST", "/runs", RUN, body=body)

    async def get(self, run_id: int) -> RunView:
        return await self.caller.call("GET", f"/runs/{run_id}", RUN, params=self.owner)

    async def end(self, run_id: int, verb: str) -> EndOutcome:
        return await self.caller.call("POST", f"/runs/{run_id}/{verb}", OUTCOME, params=self.owner)

    async def save(self, run_id: int) -> SaveOutcome:
        return await self.caller.call("POST", f"/runs/{run_id}/save", SAVED, params=self.owner)

    async def states(self, run_id: int) -> list[str]:
        answer = await self.caller.call("GET", f"/runs/{run_id}/transitions", LOG, params=self.owner)
        return [row.after.value for row in answer.transitions if row.kind == "moved"]

    async def until_state(self, run_id: int, state: str) -> RunView:
        async def reached() -> RunView | None:
            view = await self.get(run_id)
            return view if view.state == state else None

        return await until(reached)

    async def machine_type(self, name: str) -> MachineTypeView:
        listed = await self.caller.call("GET", "/machine-types", MACHINE_TYPES)
        return next(view for view in listed.machine_types if view.name == name)

    async def in_use(self, commits: list[str]) -> set[str]:
        body = self.owner | {"commits": commits}
        return set((await self.caller.call("POST", "/commits/in-use", IN_USE, body=body)).commits)

    async def manifests_in_use(self, *digests: str) -> set[str]:
        body = self.owner | {"digests": digests}
        answer = await self.caller.call("POST", "/manifests/in-use", MANIFESTS_IN_USE, body=body)
        return set(answer.digests)

    async def manifests_let_go(self, *digests: str) -> set[str]:
        body = self.owner | {"digests": digests}
        answer = await self.caller.call("POST", "/manifests/let-go", MANIFESTS_IN_USE, body=body)
        return set(answer.digests)

    async def archive(self, *run_ids: int) -> ArchiveOutcome:
        body = {"run_ids": run_ids}
        return await self.caller.call("POST", "/runs/archive", ARCHIVED, params=self.owner, body=body)

    async def verify(self) -> Verdict:
        return await self.caller.call("GET", "/verify", VERDICT, params=self.owner)


class WireMachine:
    """A machine as the scheduler sees one."""

    def __init__(self, connection: bus.Bus, machine_id: str, machine_type: str, slots: int) -> None:
        self.bus = connection
        self.id = machine_id
        self.boot_id = "boot-1"
        self.machine_type = machine_type
        self.slots = slots
        #: What it says it has: nothing, as older ones do.
        self.has: dict[str, Any] = {}
        self.steps: dict[tuple[int, int, int], list[Any]] = {}
        self.commands: list[Any] = []

    async def on_command(self, message: Any) -> None:
        self.commands.append(codec.decode(codec.MACHINE_COMMAND, message.data))

    async def beat(self) -> HeartbeatAnswer:
        """A heartbeat; attempts it is told about are held from then on."""
        held = tuple(
            AttemptHeld(run_id=key[0], attempt=key[1], fence=key[2], steps=len(steps))
            for key, steps in self.steps.items()
        )
        message = Heartbeat(
            machine_id=self.id,
            boot_id=self.boot_id,
            machine_type=self.machine_type,
            slots=self.slots,
            isolation="none",
            attempts=held,
            **self.has,
        )
        data = await self.bus.request(subjects.heartbeat(self.id), codec.encode(message), timeout=5)
        answer = codec.decode(codec.HEARTBEAT_ANSWER, data)
        for wanted in answer.attempts:
            self.steps.setdefault((wanted.run_id, wanted.attempt, wanted.fence), [])
        return answer

    async def taken(self, run_id: int) -> tuple[int, int, int]:
        """The attempt of a run that this machine holds. It beats until it is given one: a host that is held up for
        long lets the scheduler count the machine among those that do not answer, and admit the run later.
        """

        async def held() -> tuple[int, int, int] | None:
            key = next((key for key in self.steps if key[0] == run_id), None)
            if key is None:
                await self.beat()
            return key

        key: tuple[int, int, int] = await until(held)
        return key

    async def report(self, run_id: int, *steps: Any, times: int = 1) -> None:
        """Note steps of the attempt it has taken and send them, `times` times."""
        key = await self.taken(run_id)
        first = len(self.steps[key]) + 1
        self.steps[key].extend(steps)
        await self.send(key, first, steps, times=times)

    async def send(self, key: tuple[int, int, int], first: int, steps: Any, times: int = 1) -> None:
        report = AttemptReport(
            machine_id=self.id,
            run_id=key[0],
            attempt=key[1],
            fence=key[2],
            first_step=first,
            steps=tuple(steps),
        )
        for _ in range(times):
            await self.bus.store(
                subjects.report(self.id, key[0]),
                codec.encode(report),
                message_id=f"{self.id}:{next(MESSAGES)}",
                stream=subjects.REPORTS,
            )


def now() -> datetime:
    return datetime.now(UTC)


def whole_life(exit_code: int = 0) -> tuple[Any, ...]:
    """The steps of a run that saves nothing."""
    return (
        CommandStarted(at=now(), engine="docker", gpus=("GPU-1", "GPU-2")),
        CommandExited(at=now(), exit_code=exit_code, exit_cause="exit"),
        OutputsSaved(at=now(), manifest=None, files=0, bytes=0),
        AttemptFinished(at=now(), log=TOTALS),
    )


@asynccontextmanager
async def machine(
    nats: Nats, machine_id: str, machine_type: str, slots: int = 1
) -> AsyncIterator[WireMachine]:
    """A machine that is connected and has said hello."""
    async with bus.connect(nats.service_url, f"machine-{machine_id}") as connection:
        made = WireMachine(connection, machine_id, machine_type, slots)
        async with connection.tail(subjects.machine_commands(machine_id), made.on_command):
            await made.beat()
            yield made


@asynccontextmanager
async def scheduler(
    postgres: Postgres, nats: Nats, directory: Path, **settings: str
) -> AsyncIterator[tuple[SchedulerProcess, http.Caller]]:
    """A running scheduler and a caller of it."""
    process = SchedulerProcess(postgres, nats, directory, **settings)
    await process.start()
    try:
        async with http.Caller(f"unix://{process.socket}") as caller:
            yield process, caller
    finally:
        if process.process is not None and process.process.poll() is None:
            assert await process.stop() == 0, process.log.read_text()
