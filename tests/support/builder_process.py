"""A real builder process that a test may ask, kill and start again."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from spell_proto import http
from spell_proto.spec import EnvironmentRequest
from spell_proto.views import Check, Verdict
from support import stack

VERDICT = TypeAdapter(Verdict)
READY_SECONDS_MAX = 20.0


@dataclass
class Answer:
    """What `ensure` streamed."""

    lines: list[str]
    outcome: dict[str, Any] | None

    @property
    def ready(self) -> dict[str, Any]:
        assert self.outcome is not None
        assert "ready" in self.outcome, (self.outcome, self.lines)
        return self.outcome["ready"]

    @property
    def failure(self) -> str:
        assert self.outcome is not None
        return self.outcome["failed"]["message"]


class BuilderProcess:
    """A builder that a test may kill and start again. `environment` is added to the next start's, whose words come after
    those of `before`.
    """

    def __init__(
        self, directory: Path, postgres: stack.Postgres, nats: stack.Nats, name: str = "builder"
    ) -> None:
        self.data = directory / "data"
        self.environment: dict[str, str] = {}
        self.before: tuple[str, ...] = ()
        self.address = f"unix://{directory}/{name}.sock"
        self._socket = directory / f"{name}.sock"
        self.log = directory / f"{name}.log"
        self._settings = {
            "SPELL_DATA_DIR": str(self.data),
            "SPELL_DATABASE_URL": postgres.url("builder"),
            "SPELL_NATS_URL": nats.service_url,
            "SPELL_LISTEN": self.address,
            "PATH": os.environ["PATH"],
            # The one of ours is half a gigabyte.
            "SPELL_DEFAULT_FRAMEWORK": "",
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(*self.before, sys.executable, "-m", "spell_builder"),
                env={**self._settings, **self.environment},
                stderr=log,
            )
        if not await http.until_listening(self._socket, READY_SECONDS_MAX):
            raise RuntimeError(self.log.read_text()[-2000:])

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.process.wait()

    @property
    def label(self) -> str:
        """What images and containers have that it makes: the daemon is everybody's."""
        return f"com.spellrun.builder={(self.data / 'builder-id').read_text()}"

    async def ensure(self, *pip: str, run_id: int = 1, engine: str = "local", **more: Any) -> Answer:
        """Ask for an environment and read to the end. Without outcome where the builder went away."""
        answer = Answer([], None)
        body = orjson.dumps({"run_id": run_id, "engine": engine, "environment": {"pip": pip, **more}})
        with contextlib.suppress(Exception):
            async with (
                http.Caller(self.address) as caller,
                caller.open(
                    "POST",
                    "/environments/ensure",
                    data=body,
                    headers={"Content-Type": "application/json"},
                    stream=True,
                ) as response,
            ):
                async for raw in response.content:
                    message = orjson.loads(raw)
                    if "line" in message:
                        answer.lines.append(message["line"])
                    elif message:
                        answer.outcome = message
        return answer

    async def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Any other question."""
        async with http.Caller(self.address) as caller:
            return await caller.call(method, path, TypeAdapter(dict[str, Any]), body=body or None)

    async def check(self, **environment: Any) -> None:
        """Ask whether an environment can be tried.

        Raises:
            InvalidError: it cannot.
        """
        async with http.Caller(self.address) as caller:
            await caller.call("POST", "/environments/check", TypeAdapter(dict[str, Any]), body=environment)

    async def verify(self, *pip: str) -> Check:
        """The verdict on one environment, or on all."""
        params = {"request": EnvironmentRequest(pip=pip).digest()} if pip else {}
        async with http.Caller(self.address) as caller:
            (check,) = (await caller.call("GET", "/verify", VERDICT, params=params)).checks
            return check

    async def resolved(self, *pip: str, engine: str = "local", **more: Any) -> dict[str, Any]:
        path = f"/environments/resolved/{EnvironmentRequest(pip=pip, **more).digest()}"
        async with http.Caller(self.address) as caller:
            return await caller.call("GET", path, TypeAdapter(dict[str, Any]), params={"engine": engine})
