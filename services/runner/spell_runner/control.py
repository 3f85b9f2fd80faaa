"""What lives on this machine and what should: heartbeats, their answers, commands, and taking up after a restart (shell)."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from nats.aio.msg import Msg

from spell_proto import bus as message_bus
from spell_proto import codec, logs, subjects
from spell_proto.commands import EndAttempt, SaveAttempt, StartAttempt
from spell_proto.errors import CodecError, GoneError, RefusedError
from spell_proto.events import (
    AttemptFailed,
    AttemptHeld,
    AttemptKilled,
    AttemptWanted,
    Heartbeat,
    HeartbeatAnswer,
)
from spell_proto.http import Caller
from spell_proto.state import REASON_TEXT, Intent, Reason, harder
from spell_runner import workspace
from spell_runner.attempt import Attempt, Means
from spell_runner.directory import SPEC, Directory
from spell_runner.disks import Disks
from spell_runner.gpus import models
from spell_runner.link import Link
from spell_runner.reports import Account
from spell_runner.settings import Machine
from spell_runner.tasks import Tasks

log = logs.get()

ANSWER_SECONDS_MAX = 5.0
#: After the end of an attempt: long enough for others to end too, short enough to free the disk.
SOON_SECONDS = 0.15
SOON_SECONDS_MAX = 2.0
#: After a heartbeat that was not answered: while everything starts, the scheduler is there any moment.
AGAIN_SECONDS = 1.0
FIRST_AGAIN_SECONDS = 0.2

Key = tuple[int, int]
_UNANSWERED: tuple[type[BaseException], ...] = (*message_bus.LOST, CodecError)


class Control:
    """One for the machine. `means` makes attempts; `data` holds `attempts/` and `trash/`."""

    def __init__(
        self,
        machine: Machine,
        data: Path,
        link: Link,
        scheduler: Caller,
        tasks: Tasks,
        disks: Disks,
        *,
        heartbeat_seconds: float,
    ) -> None:
        self._machine = machine
        self._attempts_path = data / "attempts"
        self._trash_path = data / "trash"
        self._link = link
        self._scheduler = scheduler
        self._tasks = tasks
        self._disks = disks
        self._heartbeat_seconds = heartbeat_seconds
        self._means: Means | None = None
        self._attempts: dict[Key, Attempt] = {}
        self._lives: dict[Key, asyncio.Task[None]] = {}
        self._leaving: set[Key] = set()
        self._starting: dict[Key, Intent] = {}
        self._broken: set[Key] = set()
        self._lost: dict[Key, Account] = {}
        self._wake = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        self._impatience = SOON_SECONDS
        self._heard = False
        self._engines: tuple[str, ...] | None = None
        self._trash = asyncio.Event()
        self._reclaimed = False

    # ---- from the start --------------------------------------------------------------------------------------

    def open(self, means: Means) -> None:
        """Take up every attempt that an earlier runner has left."""
        self._means = means
        for path in (self._attempts_path, self._trash_path):
            path.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(self._attempts_path.iterdir()):
            if path.name.startswith("."):
                workspace.remove(path)
                continue
            try:
                taken = Directory(path).taken()
                same_boot = taken.boot_id == self._machine.boot_id
                self._begin(Attempt(means, taken.spec, Directory(path), fresh=False, same_boot=same_boot))
            except Exception as error:  # noqa: BLE001 -- a power cut leaves any file torn in any way
                log.warning("an attempt cannot be read", attempt=path.name, problem=repr(error))
                run_id, _, attempt = path.name.partition("-")
                self._broken.add((int(run_id), int(attempt)))
            else:
                log.info("attempt taken up", run_id=taken.spec.run_id, same_boot=same_boot)
        self._trash.set()

    def _begin(self, attempt: Attempt) -> None:
        self._attempts[attempt.key] = attempt
        if self._reclaimed:
            attempt.reclaim()
        self._lives[attempt.key] = self._tasks.start(attempt.live())

    def reclaim(self, stands: bool) -> None:
        """A notice that this machine is about to be taken away stands, or does not stand any more.

        What has begun to end because of it goes on to its end all the same.
        """
        self._reclaimed = stands
        self.beat_soon(0.0)
        if stands:
            for attempt in self._attempts.values():
                attempt.reclaim()

    @property
    def settled(self) -> bool:
        """Whether everything here has come to its end, and has been reported."""
        told = (one.over and one.account.sent >= one.account.count for one in self._attempts.values())
        return not self._starting and all(told)

    def named(self, name: str) -> Attempt | None:
        """The attempt whose directory has this name."""
        run_id, _, attempt = name.partition("-")
        return self._attempts.get((int(run_id), int(attempt)))

    # ---- commands --------------------------------------------------------------------------------------------

    async def on_command(self, message: Msg) -> None:
        """A command hurries what the next heartbeat's answer would bring as well."""
        try:
            command: StartAttempt | EndAttempt | SaveAttempt = codec.decode(
                codec.MACHINE_COMMAND, message.data
            )
        except CodecError as error:
            log.warning("a command cannot be read", problem=str(error))
            return
        match command:
            case EndAttempt():
                self._end((command.run_id, command.attempt), command.fence, command.intent)
            case SaveAttempt():
                attempt = self._attempts.get((command.run_id, command.attempt))
                if attempt is not None and attempt.spec.fence == command.fence:
                    attempt.want_saves(command.saves)
            case StartAttempt():
                self._start(command.run_id, command.attempt, command.fence, Intent.RUN)

    def _end(self, key: Key, fence: int, intent: Intent) -> None:
        attempt = self._attempts.get(key)
        if attempt is not None and attempt.spec.fence == fence:
            attempt.intend(intent)
        elif key in self._starting:
            self._starting[key] = harder(self._starting[key], intent)
        else:
            self.beat_soon(0.0)

    def _start(self, run_id: int, attempt: int, fence: int, intent: Intent) -> None:
        key = (run_id, attempt)
        lost = self._lost.get(key)
        over = key in self._broken or (lost is not None and lost.fence == fence)
        if not over and key not in self._attempts and key not in self._starting:
            self._starting[key] = intent
            self._tasks.start(self._fetch(key, fence))

    async def _fetch(self, key: Key, fence: int) -> None:
        """Take an attempt on. Its directory is made right after its spec is there, so it is made once."""
        assert self._means is not None
        run_id, number = key
        try:
            path = f"/attempts/{run_id}/{number}"
            async with self._scheduler.open("GET", path, params={"fence": fence}) as response:
                raw = await response.read()
            spec = SPEC.validate_json(raw)
            directory = Directory.take_on(self._attempts_path, spec, raw, self._machine.boot_id)
        except GoneError:
            log.info("an attempt is over before its start", run_id=run_id, attempt=number)
            return
        except (RefusedError, aiohttp.ClientError, ValueError, OSError) as error:
            log.warning("an attempt cannot be taken on yet", run_id=run_id, problem=repr(error))
            if self._starting[key] is not Intent.RUN:
                # Nothing of it is here, and nothing need be for it to be over: its machine may have no room at all.
                log.info("an attempt is over before its start", run_id=run_id, attempt=number)
                step = AttemptKilled(at=datetime.now(UTC), log=None)
                self._lost[key] = Account(run_id, number, fence, [step])
                self._tell_known(self._lost[key], 0)
            self.beat_soon(1.0)
            return
        finally:
            intent = self._starting.pop(key)
        attempt = Attempt(self._means, spec, directory, fresh=True, same_boot=True)
        attempt.intend(intent)
        self._begin(attempt)

    # ---- heartbeats ------------------------------------------------------------------------------------------

    def beat_soon(self, seconds: float = SOON_SECONDS) -> None:
        """A heartbeat within `seconds`; many such wishes make one."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._soon is not None:
            if self._soon.when() <= due:
                return
            self._soon.cancel()
        self._soon = loop.call_at(due, self._beat_now)

    def _beat_now(self) -> None:
        self._soon = None
        self._wake.set()

    async def run_heartbeats(self) -> None:
        """One at a time, so answers come in the order of what they answer; never returns."""
        await self._link.get()
        while True:
            await self.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_seconds):
                    await self._wake.wait()
            self._wake.clear()

    async def beat(self) -> None:
        """Say what is here, hear what should be."""
        # First: it may take a while, and what is said of attempts must be true when it is sent.
        engines = await self._able()
        held = {key: attempt for key, attempt in self._attempts.items() if key not in self._leaving}
        machine = self._machine
        assert self._means is not None
        message = Heartbeat(
            cause=f"machine {machine.id}",
            machine_id=machine.id,
            boot_id=machine.boot_id,
            machine_type=machine.type,
            slots=machine.slots,
            isolation=self._means.engine.isolation,
            spot=machine.spot,
            reclaimed=self._reclaimed,
            engines=engines,
            gpus=machine.run_gpus,
            gpu_models=models(machine.gpus),
            run_bytes_max=self._means.limits.bytes_max,
            run_files_max=self._means.limits.files_max,
            attempts=tuple(_held(attempt) for attempt in held.values()),
        )
        bus = await self._link.get()
        try:
            data = await bus.request(
                subjects.heartbeat(machine.id), codec.encode(message), timeout=ANSWER_SECONDS_MAX
            )
            answer = codec.decode(codec.HEARTBEAT_ANSWER, data)
        except _UNANSWERED as error:
            log.info("a heartbeat was not answered", problem=repr(error))
            self.beat_soon(AGAIN_SECONDS if self._heard else FIRST_AGAIN_SECONDS)
            return
        self._heard = True
        self._apply(answer, held)

    async def _able(self) -> tuple[str, ...]:
        assert self._means is not None
        engines = await self._means.engine.able()
        if engines != self._engines:
            log.info("engines of this machine", engines=engines, before=self._engines)
            self._engines = engines
        return engines

    def _apply(self, answer: HeartbeatAnswer, held: dict[Key, Attempt]) -> None:
        wanted = {(one.run_id, one.attempt): one for one in answer.attempts}
        lingering = False
        for key, one in wanted.items():
            attempt = self._attempts.get(key)
            if attempt is None:
                self._take_on(key, one)
            elif key in self._leaving:
                continue
            elif attempt.spec.fence == one.fence:
                attempt.intend(one.intent)
                attempt.want_saves(one.saves)
                self._tell_known(attempt.account, one.steps)
                lingering = lingering or attempt.over
        for key, attempt in held.items():
            listed = wanted.get(key)
            if listed is None or listed.fence != attempt.spec.fence:
                self._leaving.add(key)
                self._tasks.start(self._remove(attempt))
        for key in (self._broken | set(self._lost)) - set(wanted):
            self._forget_lost(key)
        # What is over should be taken off the list any moment; asking once more frees its directory sooner.
        self._impatience = min(2 * self._impatience, SOON_SECONDS_MAX) if lingering else SOON_SECONDS
        if lingering:
            self.beat_soon(self._impatience)

    def _tell_known(self, account: Account, steps: int) -> None:
        assert self._means is not None
        self._means.reporter.known(account, steps)

    def _take_on(self, key: Key, one: AttemptWanted) -> None:
        lost = self._lost.get(key)
        if one.steps == 0 and key not in self._broken and (lost is None or lost.fence != one.fence):
            self._start(one.run_id, one.attempt, one.fence, one.intent)
            return
        # It was started here, and what we knew of it is gone: it must not be started again.
        account = self._lost.get(key)
        if account is None or account.fence != one.fence:
            reason = Reason.HOST_REBOOTED if key in self._broken else Reason.SHIM_LOST
            step = AttemptFailed(at=datetime.now(UTC), reason=reason, message=REASON_TEXT[reason], log=None)
            account = self._lost[key] = Account(one.run_id, one.attempt, one.fence, [step], base=one.steps)
            account.sent = one.steps
        self._tell_known(account, min(one.steps, account.count))

    def _forget_lost(self, key: Key) -> None:
        self._lost.pop(key, None)
        self._broken.discard(key)
        path = self._attempts_path / f"{key[0]}-{key[1]}"
        if path.exists():
            self.throw_away(path)

    # ---- removal ---------------------------------------------------------------------------------------------

    async def _remove(self, attempt: Attempt) -> None:
        """Nobody wants this attempt any more: end what runs of it, then let its directory go."""
        assert self._means is not None
        life = self._lives.pop(attempt.key)
        if not life.done():
            life.cancel()
            await asyncio.wait({life})
            log.info("an attempt is not wanted any more", run_id=attempt.spec.run_id)
        await attempt.leave()
        self._means.forwarder.forget(attempt.tail)
        self.throw_away(attempt.directory.path)
        del self._attempts[attempt.key]
        self._leaving.discard(attempt.key)

    def throw_away(self, path: Path) -> None:
        path.rename(self._trash_path / f"{path.parent.name}.{path.name}.{time.time_ns()}")
        self._trash.set()

    async def run_removal(self) -> None:
        """Delete what was thrown away, in a thread, one batch after the other; never returns."""
        while True:
            await self._trash.wait()
            self._trash.clear()
            # First what holds an image that was thrown away.
            await asyncio.to_thread(self._disks.sweep)
            await asyncio.to_thread(_empty, self._trash_path)


def _held(attempt: Attempt) -> AttemptHeld:
    spec = attempt.spec
    return AttemptHeld(
        run_id=spec.run_id, attempt=spec.attempt, fence=spec.fence, steps=attempt.account.count
    )


def _empty(trash: Path) -> None:
    for path in trash.iterdir():
        if workspace.is_directory(path):
            workspace.remove(path)
        else:
            path.unlink()
