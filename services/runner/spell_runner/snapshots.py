"""Saves what a command has made while it runs: as often as somebody asks, and now and then by itself (shell).

One at a time, beside the life of the attempt and never in its way: a snapshot that is not done when the command ends is
given up, as the final save has everything. How many were asked for the scheduler says, again and again; which were
taken is among the steps of the attempt. So nothing is lost with a message, or with a runner.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from spell_proto import logs
from spell_proto.events import CommandStarted, SnapshotFailed, SnapshotSaved, Step
from spell_proto.http import Caller
from spell_proto.spec import AttemptSpec
from spell_runner import freezing, leaving, phases, saving
from spell_runner.directory import Directory
from spell_runner.engines.engine import Engine
from spell_runner.errors import AttemptError, problem
from spell_runner.notes import Silent
from spell_runner.outputs import Changes
from spell_runner.workspace import Abort, AbortedError

log = logs.get()
T = TypeVar("T")

#: As many may be kept of a run that saves by itself; who asks for one gets it all the same.
BY_ITSELF_MAX = 1_000
#: One that stumbled is tried again no sooner.
AGAIN_SECONDS = 5.0


def due(steps: Sequence[Step], wanted: int, every_seconds: int | None, now: datetime) -> datetime | None:
    """When the next snapshot is to be begun; `now` or earlier means now, None never. Pure."""
    started = [step.at for step in steps if isinstance(step, CommandStarted)]
    if not started:
        return None
    if wanted > met(steps):
        return now
    taken = [step for step in steps if isinstance(step, SnapshotSaved)]
    if every_seconds is None or len(taken) >= BY_ITSELF_MAX:
        return None
    last = taken[-1].at if taken else started[-1]
    return last + timedelta(seconds=every_seconds)


def met(steps: Sequence[Step]) -> int:
    """Of how many snapshots that were asked for something has come."""
    return max((step.asked for step in steps if isinstance(step, SnapshotSaved | SnapshotFailed)), default=0)


def is_news(steps: Sequence[Step], step: SnapshotSaved | SnapshotFailed) -> bool:
    """Whether what came of a snapshot that nobody asked for is worth noting: one more of the same helps nobody. That the
    last one failed is said until one is saved. Pure.
    """
    tried = [one for one in steps if isinstance(one, SnapshotSaved | SnapshotFailed)]
    last = tried[-1] if tried else None
    if isinstance(step, SnapshotFailed):
        return not isinstance(last, SnapshotFailed)
    return isinstance(last, SnapshotFailed) or step.manifest != (last.manifest if last else None)


class Snapshots:
    """Those of one attempt. `note` adds a step to it, `steps` are those it has."""

    def __init__(
        self,
        engine: Engine,
        storage: Caller,
        directory: Directory,
        steps: Sequence[Step],
        note: Callable[[tuple[Step, ...]], None],
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._directory = directory
        self._steps = steps
        self._note = note
        self._wanted = 0
        self._not_before: datetime | None = None
        self._abort = Abort()
        self._task: asyncio.Task[None] | None = None

    def want(self, saves: int) -> bool:
        """So many were asked for by now; whether that is news."""
        if saves <= self._wanted:
            return False
        self._wanted, self._not_before = saves, None
        return True

    def look(self, spec: AttemptSpec, now: datetime) -> None:
        """Begin one if it is time. The command runs."""
        if not self._engine.talkative or (self._task is not None and not self._task.done()):
            return
        at = due(self._steps, self._wanted, spec.spec.save_every_seconds, now)
        if at is None or max(at, self._not_before or at) > now:
            return
        self._abort = Abort()
        self._task = asyncio.ensure_future(self._take(spec, self._wanted, now, self._abort))

    async def end(self) -> None:
        """Give up what is in hand. Nothing is noted any more once this returns."""
        self.drop()
        if self._task is not None:
            await asyncio.wait({self._task})

    def drop(self) -> None:
        """Give up what is in hand, without waiting for it."""
        self._abort.set()
        if self._task is not None:
            self._task.cancel()

    async def _take(self, spec: AttemptSpec, asked: int, now: datetime, abort: Abort) -> None:
        by_itself = asked <= met(self._steps)
        try:
            step = await self._tried(spec, asked, abort)
            if not by_itself or is_news(self._steps, step):
                self._note((step,))
                log.info("snapshot", run_id=spec.run_id, step=step.kind, asked=asked)
                if not by_itself or isinstance(step, SnapshotSaved):
                    return
        except AbortedError:
            return
        except Exception:
            # The attempt itself must not hear of it.
            log.exception("a snapshot stumbled and is tried again", run_id=spec.run_id)
        self._not_before = now + timedelta(seconds=max(spec.spec.save_every_seconds or 0, AGAIN_SECONDS))

    async def _tried(self, spec: AttemptSpec, asked: int, abort: Abort) -> SnapshotSaved | SnapshotFailed:
        root = None if spec.spec.code is None else spec.spec.code.root_directory
        quiet = Silent(self._directory, lambda: None)
        try:
            changes = await _in_thread(lambda: self._made(spec, abort), abort)
            saved = await saving.save(self._storage, spec.owner_id, root, changes, quiet, abort, last=False)
        except (AttemptError, OSError) as error:
            log.warning("a snapshot could not be saved", run_id=spec.run_id, problem=str(error))
            message = problem(error) if isinstance(error, OSError) else str(error)
            message = message[: phases.MESSAGE_CHARS_MAX]
            return SnapshotFailed(at=datetime.now(UTC), asked=asked, message=message)
        finally:
            await asyncio.shield(asyncio.to_thread(freezing.thaw, self._directory))
        return SnapshotSaved(
            at=datetime.now(UTC),
            number=1 + sum(isinstance(step, SnapshotSaved) for step in self._steps),
            asked=asked,
            manifest=saved.manifest,
            files=saved.files,
            bytes=saved.bytes,
            notes=saved.notes,
        )

    def _made(self, spec: AttemptSpec, abort: Abort) -> Changes:
        left_out: list[str] = []
        frozen = freezing.freeze(self._directory, abort, left_out)
        made = leaving.changes(self._engine, spec.spec, frozen, abort)
        made.notes += left_out
        return made


async def _in_thread(work: Callable[[], T], abort: Abort) -> T:
    """The result of `work`. It is over when this returns, however that comes about."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        abort.set()
        await asyncio.wait({working})
        working.exception()
        raise
