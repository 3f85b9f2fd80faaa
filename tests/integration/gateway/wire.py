"""A machine that starts nothing: a test writes its journals, and says when what was sent where."""

import contextlib
import hashlib
from dataclasses import asdict
from datetime import UTC, datetime

import orjson

from spell_proto import bus, http, subjects
from spell_proto.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    CommandExited,
    CommandStarted,
    LogTotals,
    OutputsSaved,
    SnapshotSaved,
)
from spell_proto.journal import OUTPUT, RecordKind, Totals, encode, encode_json
from spell_proto.state import Reason
from support.scheduler import WireMachine


class Machine:
    """A machine that starts nothing: a test writes its journals, and says when what was sent where."""

    def __init__(self, wire: WireMachine, storage: http.Caller) -> None:
        self.wire = wire
        self.storage = storage

    async def take(self, run_id: int) -> "Attempt":
        """The attempt of a run that has been given to this machine."""
        return Attempt(self, *(await self.wire.taken(run_id)))


class Attempt:
    """One attempt and its journal so far."""

    def __init__(self, machine: Machine, run_id: int, attempt: int, fence: int) -> None:
        self.machine = machine
        self.run_id = run_id
        self.number = attempt
        self.fence = fence
        self.journal = b""
        self.out = {RecordKind.STDOUT: b"", RecordKind.STDERR: b""}
        self._hashing = hashlib.sha256()
        self._at_us = 1_700_000_000_000_000

    def set_clock(self, at_us: int) -> None:
        """What is written from now on is of a later time."""
        self._at_us = at_us

    def write(self, kind: RecordKind, payload: bytes) -> bytes:
        """Append a record; returns its bytes."""
        self._at_us += 1
        record = encode(kind, self._at_us, payload)
        self.journal += record
        if kind in OUTPUT:
            self.out[RecordKind(kind)] += payload
            self._hashing.update(payload)
        return record

    def seal(self) -> LogTotals:
        """Append the end marker."""
        totals = Totals(
            stdout_bytes=len(self.out[RecordKind.STDOUT]),
            stderr_bytes=len(self.out[RecordKind.STDERR]),
            sha256=self._hashing.hexdigest(),
        )
        self.journal += encode_json(RecordKind.END, self._at_us, **asdict(totals))
        return LogTotals(journal_bytes=len(self.journal), **asdict(totals))

    async def live(self, start: int = 0, end: int | None = None) -> None:
        """Publish a part of the journal."""
        data = self.journal[start:end]
        subject = subjects.log_tail(self.machine.wire.id, self.run_id)
        await self.machine.wire.bus.send(subject, data, {"Spell-Offset": str(start)})
        with contextlib.suppress(*bus.LOST):
            await self.machine.wire.bus.client.flush(2)

    async def store(self, start: int = 0, end: int | None = None) -> None:
        """Bring a part of the journal to storage."""
        data = self.journal[start:end]
        header = orjson.dumps(
            {
                "run_id": self.run_id,
                "attempt": self.number,
                "fence": self.fence,
                "offset": start,
                "length": len(data),
            }
        )
        body = len(header).to_bytes(4, "big") + header + data
        async with self.machine.storage.open("POST", "/journals", data=body) as response:
            await response.read()

    async def begin(self) -> None:
        await self.machine.wire.report(self.run_id, CommandStarted(at=now()))

    async def snapshot(self, number: int, manifest: str) -> None:
        """What the command has made so far is in the store, with this manifest."""
        taken = SnapshotSaved(at=now(), number=number, asked=0, manifest=manifest, files=1, bytes=1)
        await self.machine.wire.report(self.run_id, taken)

    async def finish(
        self, totals: LogTotals, manifest: str | None = None, files: int = 0, size: int = 0
    ) -> None:
        """The command exited with 0, and this is what was saved of it."""
        await self.machine.wire.report(
            self.run_id,
            CommandExited(at=now(), exit_code=0, exit_cause="exit"),
            OutputsSaved(at=now(), manifest=manifest, files=files, bytes=size),
            AttemptFinished(at=now(), log=totals),
        )

    async def fail(self) -> None:
        await self.machine.wire.report(
            self.run_id, AttemptFailed(at=now(), reason=Reason.SHIM_LOST, message="it vanished", log=None)
        )

    async def killed(self, totals: LogTotals | None) -> None:
        await self.machine.wire.report(self.run_id, AttemptKilled(at=now(), log=totals))


def now() -> datetime:
    return datetime.now(UTC)
