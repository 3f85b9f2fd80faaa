"""Carries one attempt through its life: does what `spell_runner.phases` decides, and writes down what came of it (shell)."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from spell_proto import logs
from spell_proto.events import LogTotals, MountingStarted, OutputsSaved, Step
from spell_proto.http import Caller
from spell_proto.journal import Totals
from spell_proto.spec import AttemptSpec
from spell_proto.state import Intent, RunState, harder
from spell_runner import fetching, findings, leaving, phases, pushes, saving, workspace
from spell_runner.directory import IMAGE, Directory
from spell_runner.engines.engine import Engine
from spell_runner.errors import AttemptError, DiscardedError, ForeignJournalError
from spell_runner.forward import Forwarder
from spell_runner.notes import Notes
from spell_runner.outputs import Changes
from spell_runner.phases import Facts, Look, Outcome, Status, Verdict
from spell_runner.quotas import NO_LIMITS, Limits, Quota
from spell_runner.reports import Account, Reporter
from spell_runner.shim.launch import JOURNAL, SCRATCH
from spell_runner.snapshots import Snapshots
from spell_runner.workspace import Abort, AbortedError

log = logs.get()
T = TypeVar("T")

#: A doorbell may get lost; this often an attempt looks for itself.
LOOK_SECONDS = 1.0
RETRY_SECONDS_MAX = 5.0
PUSHED = "Saving build environment for future runs"


@dataclass(frozen=True, slots=True)
class Means:
    """What all attempts of a machine use. `throw_away` makes a directory vanish and its room free; `limits` are those of
    what each may write. `reclaim_seconds` is how long a command has to end by itself once there is notice.
    """

    engine: Engine
    forwarder: Forwarder
    reporter: Reporter
    storage: Caller
    builder: Caller
    throw_away: Callable[[Path], None] = workspace.remove
    limits: Limits = NO_LIMITS
    reclaim_seconds: float = 15.0


class Attempt:
    """One attempt, new or found again."""

    def __init__(
        self, means: Means, spec: AttemptSpec, directory: Directory, *, fresh: bool, same_boot: bool
    ) -> None:
        self.key = (spec.run_id, spec.attempt)
        self.spec = spec if fresh else fetching.with_code(spec, directory)
        self.directory = directory
        self.intent = spec.intent
        self.reclaimed = False
        self.bell = asyncio.Event()
        steps = [] if fresh else directory.steps()
        self.account = Account(spec.run_id, spec.attempt, spec.fence, steps)
        self._means = means
        self._engine = means.engine
        self._same_boot = same_boot
        self._verdict = None if fresh else directory.verdict()
        self._notes = Notes(directory, lambda: means.forwarder.ring_later(self.tail))
        self._totals: Totals | None = None
        self._work: asyncio.Future[Any] | None = None
        self._abort = Abort()
        self._saving = False
        self._told, self._pushed = False, False
        self._seen: Look | None = None
        self._resumed = fresh
        self._snapshots = Snapshots(means.engine, means.storage, directory, self.account.steps, self._note)
        self._quota = Quota(means.limits, directory, lambda why: means.engine.exceed(directory, why))
        # Last of all: what an earlier runner has left may be unreadable, and then nothing is to be carried.
        self.tail = means.forwarder.follow(
            spec.run_id, spec.attempt, spec.fence, directory / JOURNAL, fresh=fresh, same_boot=same_boot
        )

    @property
    def over(self) -> bool:
        return bool(self.account.steps) and phases.over(self.account.steps[-1])

    def intend(self, intent: Intent) -> None:
        """Something else is wanted of the attempt; an intent never softens."""
        wanted = harder(self.intent, intent)
        if wanted is not self.intent:
            self.intent = wanted
            self.bell.set()
            if phases.aborts(wanted, saving=self._saving):
                self._drop_work()

    def reclaim(self) -> None:
        """The machine is about to be taken away."""
        if not self.reclaimed:
            pushing = self._is_pushing()
            self.reclaimed = True
            self.bell.set()
            if pushing or phases.aborts(self.intent, saving=self._saving, reclaimed=True):
                self._drop_work()

    def _drop_work(self) -> None:
        if self._work is not None:
            self._abort.set()
            self._work.cancel()

    def want_saves(self, saves: int) -> None:
        """So many snapshots of what the command has made were asked for by now."""
        if self._snapshots.want(saves):
            self.bell.set()

    async def live(self) -> None:
        """Until there is nothing more to do."""
        try:
            await self._go_on()
        finally:
            self._snapshots.drop()
            self._quota.drop()

    async def _go_on(self) -> None:
        """Whatever goes wrong is tried again from what is on disk."""
        pause = 0.1
        while True:
            try:
                if not self._resumed:
                    await self._resume()
                if await self._step():
                    return
            except Exception:
                log.exception("an attempt stumbled and goes on", run_id=self.spec.run_id)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            else:
                pause = 0.1

    async def leave(self) -> None:
        """Make sure that nothing of the attempt runs any more. Its life has been cancelled before."""
        self.directory.close()
        while True:
            self.bell.clear()
            look = self._engine.look(self.directory, alive=True)
            match look.status:
                case Status.ASKED:
                    self._engine.cancel(self.directory)
                case Status.RUNNING:
                    self._engine.end(self.directory, Intent.KILL)
                    await self._heard()
                case Status.LOST:
                    await asyncio.to_thread(self._engine.clear, self.directory)
                    return
                case _:
                    return

    # ---- one thing after the other ---------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Take up what an earlier runner has left. A journal of another boot may be shorter than storage's copy."""
        if not self._same_boot:
            await self._means.forwarder.restore(self.tail)
        looked = self._engine.look(self.directory, alive=True).status
        if not self._same_boot or looked not in {Status.RUNNING, Status.ASKED}:
            self._totals, self._notes.ended = await asyncio.to_thread(self.directory.mend)
            if self._same_boot and looked is Status.ABSENT:
                # The command is yet to run: what the journal holds now is not all there will be.
                self._totals = None
        self._means.forwarder.carry(self.tail)
        self._resumed = True

    async def _step(self) -> bool:
        look = self._look(alive=not self.bell.is_set())
        self.bell.clear()
        match await self._decided(look):
            case phases.Prepare():
                await self._prepare()
            case phases.Start():
                await self._start()
            case phases.Wait():
                self._snapshots.look(self.spec, datetime.now(UTC))
                self._quota.look()
                await self._heard()
            case phases.Cancel():
                self._engine.cancel(self.directory)
            case phases.End(intent=intent, reclaimed=reclaimed):
                await self._end(intent, reclaimed=reclaimed)
            case phases.Note(steps=steps):
                self._note(tuple(findings.with_place(self.directory, step) for step in steps))
            case phases.Save():
                await self._save()
            case phases.Push():
                await self._push()
            case phases.Conclude(verdict=verdict):
                await self._conclude(verdict, look)
            case phases.Seal(verdict=verdict):
                await self._seal(verdict)
            case phases.Rest():
                return True
        return False

    async def _start(self) -> None:
        if self.spec.spec.docker_image is not None:
            self._note(findings.image(self.directory, self.account.steps))
        await self._engine.start(self.directory)
        if self._look(alive=False).status is Status.ASKED:
            await self._heard()

    async def _end(self, intent: Intent, *, reclaimed: bool) -> None:
        if intent is not Intent.RUN:
            self._engine.end(self.directory, intent)
        if reclaimed:
            self._engine.reclaim(self.directory, self._means.reclaim_seconds)
        await self._heard()

    async def _decided(self, look: Look) -> phases.Action:
        steps = tuple(self.account.steps)
        facts = Facts(
            self.intent,
            steps,
            look,
            self._same_boot,
            self._verdict,
            pushing=self._is_pushing(),
            reclaimed=self.reclaimed,
        )
        action = phases.decide(facts)
        if not isinstance(action, phases.Wait):
            # What comes now has all the command has made, or nothing of it is wanted.
            self._quota.drop()
            await self._snapshots.end()
        return action

    def _look(self, *, alive: bool) -> Look:
        """What the engine knows; it is asked until nothing can change any more."""
        if self._seen is None or self._seen.status not in {Status.EXITED, Status.CANCELLED}:
            self._seen = self._engine.look(self.directory, alive=alive)
        return self._seen

    async def _heard(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self.bell.wait()

    def _note(self, steps: tuple[Step, ...]) -> None:
        if not steps:
            return
        self.directory.note(steps)
        self.account.steps.extend(steps)
        self._means.reporter.noted(self.account, hold_seconds=self._engine.hold_seconds)

    async def _prepare(self) -> None:
        if self._engine.talkative and self.directory.journal_size() == 0:
            self._notes.phase(RunState.BUILDING, "Machine acquired -- commencing run")
        self._abort = Abort()
        try:
            await self._abortable(self._prepared(self._abort), saving=False)
        except AttemptError as error:
            await self._conclude(phases.failed(error.reason, error.message), Look(Status.ABSENT))

    async def _prepared(self, abort: Abort) -> None:
        if self.spec.spec.github is not None:
            if self.spec.spec.code is None:
                storage = self._means.storage
                self.spec = await fetching.fetch(storage, self.spec, self.directory, self._notes)
            self._note(findings.code(self.directory, self.account.steps))
        await self._engine.prepare(self.spec, self.directory, self._notes, abort, self._note_mounting)

    def _note_mounting(self) -> None:
        """Say that resources are being mounted, once."""
        if not any(isinstance(step, MountingStarted) for step in self.account.steps):
            self._notes.phase(RunState.MOUNTING)
            self._note((MountingStarted(at=datetime.now(UTC)),))

    async def _save(self) -> None:
        ended = self._look(alive=False).exit
        assert ended is not None
        if self._engine.talkative and self.directory.journal_size() <= ended.journal_bytes:
            self._notes.phase(RunState.SAVING, saving.SCANNING)
        self._abort = Abort()
        try:
            saved = await self._abortable(self._saved(), saving=True)
        except DiscardedError:
            # An earlier runner was told to kill, and died before it had written that down.
            await self._conclude(phases.KILLED, Look(Status.EXITED))
        except AttemptError as error:
            await self._conclude(phases.failed(error.reason, error.message), Look(Status.EXITED))
        else:
            if saved is not None:
                self._note((saved,))

    async def _saved(self) -> Step:
        abort = self._abort
        if not self._engine.talkative:
            return saving.nothing()
        changes = Changes()
        try:
            if self._engine.touched(self.directory):
                changes = await asyncio.to_thread(
                    leaving.changes, self._engine, self.spec.spec, self.directory, abort
                )
        except OSError as error:
            raise saving.failed(error, "read") from error
        return await self._stored(changes)

    async def _stored(self, changes: Changes) -> Step:
        storage, owner_id, code = self._means.storage, self.spec.owner_id, self.spec.spec.code
        root = None if code is None else code.root_directory
        return await saving.save(storage, owner_id, root, changes, self._notes, self._abort, last=True)

    def _is_pushing(self) -> bool:
        saved = bool(self.account.steps) and isinstance(self.account.steps[-1], OutputsSaved)
        return saved and not self._pushed and self._verdict is None and bool(self.directory.pushing())

    async def _push(self) -> None:
        self._abort = Abort()
        if self._engine.talkative:
            self._notes.phase(RunState.PUSHING, PUSHED)
        self._told = True
        pushing = pushes.until_stored(
            self._means.builder, self.directory.pushing(), self.spec.run_id, self._notes
        )
        await self._abortable(pushing, saving=True)
        self._pushed = True

    async def _abortable(self, work: Coroutine[Any, Any, T], *, saving: bool) -> T | None:
        """The result of `work`; None when what is wanted meanwhile makes it pointless."""
        if phases.aborts(self.intent, saving=saving, reclaimed=self.reclaimed):
            work.close()
            return None
        task = asyncio.ensure_future(work)
        self._work, self._saving = task, saving
        try:
            await asyncio.wait({task})
            return task.result()
        except (asyncio.CancelledError, AbortedError):
            current = asyncio.current_task()
            if task.done() and current is not None and not current.cancelling():
                return None
            self._abort.set()
            task.cancel()
            raise
        finally:
            self._work = None

    # ---- the end ---------------------------------------------------------------------------------------------

    async def _conclude(self, verdict: Verdict, look: Look) -> None:
        if look.status is Status.LOST:
            await asyncio.to_thread(self._engine.clear, self.directory)
            self._totals, self._notes.ended = await asyncio.to_thread(self.directory.mend)
        if verdict.outcome is Outcome.KILLED and look.status is not Status.ABSENT:
            # Nothing is kept, and what is written from here on may need the room. This alone says that it was killed.
            self._discard()
        if verdict.outcome is Outcome.FINISHED:
            # Not written down: it follows from the steps.
            if self._engine.talkative and not self._told:
                self._notes.phase(RunState.PUSHING, PUSHED)
        else:
            self.directory.conclude(verdict)
            if verdict.outcome is Outcome.FAILED:
                self._notes.last(verdict.message)
        self._verdict = verdict

    def _discard(self) -> None:
        """Free the room that the run has taken on this machine. Storage, too, may wait for it to end the log."""
        if self.directory.has_disk:
            # With the image goes the disk, and all that is on it.
            self._means.throw_away(Path(self.directory / IMAGE))
            self.directory.has_disk = False
        for part in SCRATCH:
            path = Path(self.directory / part)
            if path.exists():
                workspace.make_readable(path)
                self._means.throw_away(path)

    async def _seal(self, verdict: Verdict) -> None:
        if verdict.outcome is not Outcome.FINISHED or self._engine.touched(self.directory):
            # Its files are saved by now, or never will be.
            self._discard()
        totals = self._final_totals()
        self._notes.end(totals)
        try:
            await self._means.forwarder.seal(self.tail)
        except ForeignJournalError:
            self._note((phases.unsealed(verdict, datetime.now(UTC)),))
            return
        sealed = LogTotals(
            journal_bytes=self.directory.journal_size(),
            stdout_bytes=totals.stdout_bytes,
            stderr_bytes=totals.stderr_bytes,
            dropped_bytes=totals.dropped_bytes,
            sha256=totals.sha256,
        )
        self._note((phases.last_step(verdict, sealed, datetime.now(UTC)),))
        log.info(
            "attempt over",
            run_id=self.spec.run_id,
            attempt=self.spec.attempt,
            outcome=verdict.outcome,
            reason=verdict.reason,
        )

    def _final_totals(self) -> Totals:
        ended, mended = self._look(alive=False).exit, self._totals
        if ended is None or (mended is not None and mended.sha256 != ended.sha256):
            # Nothing says how it ended, or a power cut has left less of the output than that says.
            return mended or Totals()
        return Totals(ended.stdout_bytes, ended.stderr_bytes, ended.dropped_bytes, ended.sha256)
