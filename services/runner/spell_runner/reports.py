"""Tells the scheduler the steps of all attempts: batched, retried, and never in an attempt's way (shell).

A step is on disk before it is reported here. Steps that follow each other closely travel in one message; the
last step of an attempt never waits. What the scheduler has not got, the next heartbeat's answer asks for.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from spell_proto import bus as message_bus
from spell_proto import codec, logs, subjects
from spell_proto.events import AnyStep, AttemptReport, CommandStarted, Step
from spell_runner.link import Link
from spell_runner.phases import over
from spell_runner.tasks import Tasks

log = logs.get()

#: How long a step may wait for the next one to travel with it.
STARTED_WAITS_SECONDS = 0.02
OTHERS_WAIT_SECONDS = 0.05
RETRY_SECONDS_MAX = 5.0
#: A step that was stored this recently may simply not have been read by the scheduler yet.
SETTLE_SECONDS = 3.0
IN_FLIGHT_MAX = 256


@dataclass(slots=True)
class Account:
    """What has been reported of one attempt. `base` steps were known before those kept here."""

    run_id: int
    attempt: int
    fence: int
    steps: list[Step]
    base: int = 0
    sent: int = 0
    sent_at: float = 0.0
    resends: int = 0
    sending: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        return self.base + len(self.steps)


class Reporter:
    """One for the machine. `on_over` is called when the last step of an attempt is stored."""

    def __init__(self, machine_id: str, link: Link, tasks: Tasks, on_over: Callable[[], None]) -> None:
        self._machine_id = machine_id
        self._link = link
        self._tasks = tasks
        self._on_over = on_over
        self._limit = asyncio.Semaphore(IN_FLIGHT_MAX)

    def noted(self, account: Account, *, hold_seconds: float = 0.0) -> None:
        """Steps were added to `account`: send them soon, the last one of all now."""
        last = account.steps[-1]
        if over(last):
            wait = 0.0
        else:
            usual = STARTED_WAITS_SECONDS if isinstance(last, CommandStarted) else OTHERS_WAIT_SECONDS
            wait = max(hold_seconds, usual)
        self._send_in(account, wait)

    def known(self, account: Account, steps: int) -> None:
        """The scheduler says how many steps it knows: send the rest again if it had the time to read them."""
        loop = asyncio.get_running_loop()
        if steps > account.count:
            # Some were noted by a machine that has lost them since: ours follow those.
            account.base += steps - account.count
        account.sent = max(account.sent, steps)
        if account.sending or account.timer is not None or steps >= account.count:
            return
        if steps < account.sent and loop.time() - account.sent_at < SETTLE_SECONDS:
            return
        if steps < account.sent:
            account.resends += 1
            log.info("sending steps again", run_id=account.run_id, known=steps, noted=account.count)
        account.sent = max(steps, account.base)
        self._send_in(account, 0.0)

    def _send_in(self, account: Account, seconds: float) -> None:
        if account.sending:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if account.timer is not None:
            if account.timer.when() <= due:
                return
            account.timer.cancel()
        account.timer = loop.call_at(due, self._begin, account)

    def _begin(self, account: Account) -> None:
        account.timer = None
        if not account.sending:
            account.sending = True
            self._tasks.start(self._send(account))

    async def _send(self, account: Account) -> None:
        pause = 0.1
        try:
            while account.sent < account.count:
                bus = await self._link.get()
                try:
                    async with self._limit:
                        await self._send_once(bus, account)
                except message_bus.LOST as error:
                    log.info("a report waits", run_id=account.run_id, problem=repr(error))
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, RETRY_SECONDS_MAX)
        finally:
            account.sending = False

    async def _send_once(self, bus: message_bus.Bus, account: Account) -> None:
        first = account.sent + 1
        steps: tuple[AnyStep, ...] = tuple(account.steps[account.sent - account.base :])  # type: ignore[arg-type]  # a Step is always one of them
        report = AttemptReport(
            cause=f"machine {self._machine_id}",
            machine_id=self._machine_id,
            run_id=account.run_id,
            attempt=account.attempt,
            fence=account.fence,
            first_step=first,
            steps=steps,
        )
        again = f":{account.resends}" if account.resends else ""
        await bus.store(
            subjects.report(self._machine_id, account.run_id),
            codec.encode(report),
            message_id=f"{self._machine_id}:{account.run_id}:{account.attempt}:{first}:{len(steps)}{again}",
            stream=subjects.REPORTS,
        )
        # A heartbeat's answer may have moved it on meanwhile.
        account.sent = max(account.sent, first - 1 + len(steps))
        account.sent_at = asyncio.get_running_loop().time()
        if over(steps[-1]):
            self._on_over()
