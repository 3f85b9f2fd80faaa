"""The lifecycle against an independent small model: any order of facts, doubled, lost, late, with crashes.

The model knows nothing of versions, rows or messages. It is a machine that goes through an attempt by itself, a
scheduler that hears of it in whatever order, and the promises of design.md section 4.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spell_proto.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    AttemptReport,
    CodeFetched,
    CommandExited,
    CommandStarted,
    ImagePinned,
    LogTotals,
    MountingStarted,
    OutputsSaved,
    SnapshotFailed,
    SnapshotSaved,
)
from spell_proto.state import FINAL, Intent, Reason, RunState, check_transition
from spell_scheduler import runs
from spell_scheduler.lifecycle import (
    Admitted,
    EndAsked,
    Expired,
    MachineGone,
    Run,
    SaveAsked,
    created,
    decide,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
LOG = LogTotals(journal_bytes=9, stdout_bytes=0, stderr_bytes=0, dropped_bytes=0, sha256="0" * 64)
TIMEOUT_SECONDS = 100


class LifeOfARun(RuleBasedStateMachine):
    """One run, one machine that holds it, one wire between them that may do what it likes."""

    def __init__(self):
        super().__init__()
        self.now = START
        self.run = Run(id=1, owner_id=1, timeout_seconds=TIMEOUT_SECONDS)
        self.rows = [created(self.run, "user", self.now)]
        self.fence = 0
        # The machine's side: what it has done and noted, and what it was told.
        self.fences_started: list[int] = []
        self.noted: list = []
        self.phase = "none"
        self.told = Intent.RUN
        self.exit_cause = None
        self.spot = False
        self.notice = False
        # What a reader of the promises expects.
        self.asked = [Intent.RUN]
        self.asked_before_final = Intent.RUN
        self.lost = False

    def apply(self, fact):
        before = self.run
        decision = decide(before, fact, self.now)
        again = decide(before, fact, self.now)
        assert again == decision, "a decision depends on its arguments alone"
        if before.state in FINAL:
            assert decision.run == before
            assert not decision.logged, "final states absorb everything"
        self.run = decision.run
        self.rows.extend(decision.logged)
        return decision

    def step(self, step):
        self.noted.append(step)

    # ---- the user and the clock

    @rule(kill=st.booleans())
    def ask(self, kill):
        intent = Intent.KILL if kill else Intent.STOP
        reason = Reason.KILLED_BY_USER if kill else Reason.STOPPED_BY_USER
        if self.run.state not in FINAL:
            self.asked.append(intent)
        self.apply(EndAsked(intent, reason, "user"))

    @rule()
    def ask_for_a_snapshot(self):
        before = self.run
        decision = self.apply(SaveAsked())
        assert (decision.run.state, decision.run.version) == (before.state, before.version)
        assert bool(decision.orders) == (decision.run.saves == before.saves + 1)

    @precondition(lambda self: self.phase == "running")
    @rule(fails=st.booleans())
    def machine_takes_a_snapshot(self, fails):
        if fails:
            self.step(SnapshotFailed(at=self.now, asked=self.run.saves, message="no"))
            return
        number = 1 + sum(isinstance(step, SnapshotSaved) for step in self.noted)
        self.step(
            SnapshotSaved(at=self.now, number=number, asked=self.run.saves, manifest="m", files=1, bytes=1)
        )

    @invariant()
    def no_more_is_met_than_was_asked_for(self):
        assert 0 <= self.run.saves_met <= self.run.saves

    @rule(seconds=st.integers(0, 2 * TIMEOUT_SECONDS))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)
        if self.run.state is RunState.RUNNING and self.run.deadline and self.now >= self.run.deadline:
            self.asked.append(Intent.STOP)
        self.apply(Expired())

    # ---- the scheduler and its machine

    @rule(spot=st.booleans())
    def admission(self, spot=False):
        """Admitted once; a second admission that raced is a no-op."""
        self.fence += 1
        decision = self.apply(Admitted("m1", "boot", spot, self.fence))
        if decision.changed:
            self.spot = spot
        else:
            self.fence = max(self.fence, self.run.fence)

    @precondition(lambda self: self.spot)
    @rule(stands=st.booleans())
    def machine_has_notice(self, stands):
        """That it is about to be taken away; and not any more, as when a runner has come back and cannot ask yet."""
        self.notice = stands

    @precondition(lambda self: self.run.machine_id == "m1" and self.phase == "none" and not self.lost)
    @rule()
    def machine_takes_the_attempt(self):
        """The hint or a heartbeat's answer reaches the machine, and its intent log remembers."""
        if self.run.state in FINAL:
            return
        assert self.run.fence not in self.fences_started, "an attempt is started once"
        self.fences_started.append(self.run.fence)
        self.phase = "building"

    @rule(steps=st.integers(1, 6), heard=st.booleans(), report=st.booleans(), noticed=st.booleans())
    def the_machine_gets_on(self, steps, heard, report, noticed):
        """Several steps without trouble: without this, a random walk seldom gets as far as Pushing."""
        if self.run.state is RunState.REQUESTED:
            self.admission(noticed)
        if self.run.machine_id == "m1" and self.phase == "none" and not self.lost:
            self.machine_takes_the_attempt()
        if heard:
            self.machine_hears_the_intent()
        for _ in range(steps):
            if self.phase in {"building", "mounting"}:
                self.machine_prepares("start")
            elif self.phase == "running":
                self.notice = self.notice or (self.spot and noticed)
                self.command_ends(by_itself=self.told is Intent.RUN and not self.notice)
            elif self.phase in {"saving", "pushing"}:
                self.machine_saves_and_pushes(fails=False)
        if report and self.noted:
            self.deliver(1, len(self.noted))

    @rule()
    def machine_hears_the_intent(self):
        if self.phase not in {"none", "over"} and self.run.state not in FINAL:
            self.told = self.run.intent

    @precondition(lambda self: self.phase in {"building", "mounting"})
    @rule(what=st.sampled_from(["fetch", "pin", "mount", "start", "fail"]))
    def machine_prepares(self, what):
        if self.told is not Intent.RUN:
            self.step(AttemptKilled(at=self.now, log=LOG))
            self.phase = "over"
        elif self.notice:
            # The second is what a runner says that has come back and found a start that was cancelled.
            failed = AttemptFailed(at=self.now, reason=Reason.SPOT_RECLAIMED, message="gone", log=LOG)
            self.step(failed if what != "fail" else AttemptKilled(at=self.now, log=LOG))
            self.phase = "over"
        elif what == "fail":
            self.step(AttemptFailed(at=self.now, reason=Reason.BUILD_FAILED, message="no", log=LOG))
            self.phase = "over"
        elif what == "fetch" and self.phase == "building":
            self.step(
                CodeFetched(at=self.now, repository_id=1, repository="r", commit="c" * 40, tree="t" * 40)
            )
        elif what == "pin" and self.phase == "building":
            self.step(ImagePinned(at=self.now, image=f"docker.io/library/x@sha256:{len(self.noted):064x}"))
        elif what == "mount" and self.phase == "building":
            self.step(MountingStarted(at=self.now))
            self.phase = "mounting"
        else:
            self.step(CommandStarted(at=self.now))
            self.phase = "running"

    @precondition(lambda self: self.phase == "running")
    @rule(by_itself=st.booleans())
    def command_ends(self, by_itself):
        if by_itself:
            self.exit_cause = "exit"
        elif self.told is Intent.KILL:
            self.step(AttemptKilled(at=self.now, log=LOG))
            self.phase = "over"
            return
        elif self.told is Intent.STOP:
            self.exit_cause = "stop"
        elif self.notice:
            self.exit_cause = "reclaim"
        else:
            return
        self.step(CommandExited(at=self.now, exit_code=3, exit_cause=self.exit_cause))
        self.phase = "saving"

    @precondition(lambda self: self.phase in {"saving", "pushing"})
    @rule(fails=st.booleans())
    def machine_saves_and_pushes(self, fails):
        if self.told is Intent.KILL:
            self.step(AttemptKilled(at=self.now, log=LOG))
            self.phase = "over"
        elif self.phase == "saving" and fails:
            self.step(AttemptFailed(at=self.now, reason=Reason.SAVE_FAILED, message="no", log=LOG))
            self.phase = "over"
        elif self.phase == "saving":
            self.step(OutputsSaved(at=self.now, manifest="d" * 64, files=1, bytes=1))
            self.phase = "pushing"
        elif fails:
            self.step(AttemptFailed(at=self.now, reason=Reason.OOM, message="too much", log=LOG))
            self.phase = "over"
        elif self.exit_cause == "reclaim":
            self.step(AttemptFailed(at=self.now, reason=Reason.SPOT_RECLAIMED, message="gone", log=LOG))
            self.phase = "over"
        else:
            self.step(AttemptFinished(at=self.now, log=LOG))
            self.phase = "over"

    @precondition(lambda self: self.noted)
    @rule(data=st.data())
    def a_piece_of_the_report_arrives(self, data):
        """Any contiguous piece, any number of times, in any order, or not at all."""
        first = data.draw(st.integers(1, len(self.noted)))
        last = data.draw(st.integers(first, len(self.noted)))
        self.deliver(first, last)

    def deliver(self, first, last, fence=None):
        if not self.fences_started:
            return
        self.apply(
            AttemptReport(
                machine_id="m1",
                run_id=1,
                attempt=1,
                fence=self.fences_started[-1] if fence is None else fence,
                first_step=first,
                steps=tuple(self.noted[first - 1 : last]),
            )
        )

    @rule()
    def the_scheduler_dies_and_comes_back(self):
        """All it knows of the run is what the row holds: a decision that depends on more would differ from here on."""
        row = runs._run_json(self.run, self.run)
        self.run = runs.run_of(row)
        assert runs._run_json(self.run, self.run) == row

    @precondition(lambda self: self.noted)
    @rule()
    def the_machine_dies_and_comes_back(self):
        """It has its notes, hears what is wanted and how far it is believed, and sends the rest."""
        if self.phase != "over" and self.run.state not in FINAL:
            self.told = self.run.intent
        if self.run.steps < len(self.noted):
            self.deliver(self.run.steps + 1, len(self.noted))
            assert self.run.state in FINAL or self.run.steps == len(self.noted)

    @precondition(lambda self: self.noted)
    @rule()
    def a_stranger_reports(self):
        """A report under a fence that is not the run's changes nothing."""
        before = self.run
        self.deliver(1, len(self.noted), fence=self.run.fence + 7)
        assert self.run == before

    @precondition(lambda self: self.run.machine_id == "m1")
    @rule()
    def the_machine_is_lost(self):
        self.fence += 1
        if self.run.state not in FINAL and self.run.state is not RunState.REQUESTED:
            self.lost = True
        self.apply(MachineGone(Reason.MACHINE_LOST, self.fence))

    # ---- the promises

    @invariant()
    def the_log_is_legal_and_whole(self):
        assert [row.version for row in self.rows] == list(range(1, self.run.version + 1))
        state = None
        for row in self.rows:
            assert row.before == state or row.kind == "intent"
            if row.kind == "moved":
                check_transition(state, row.after)
                state = row.after
            else:
                assert row.before == row.after == state
        assert state == self.run.state
        assert self.rows[-1].intent is self.run.intent

    @invariant()
    def there_is_one_final_row_at_most_and_it_is_the_last(self):
        final = [row.version for row in self.rows if row.after in FINAL]
        assert final in ([], [self.run.version])

    @invariant()
    def the_scheduler_believes_what_the_machine_noted_and_no_more(self):
        """The state is that of the noted steps up to the last one that was applied: none skipped, none twice."""
        run = self.run
        assert run.steps <= len(self.noted)
        believed = "requested" if run.machine_id is None else "building"
        after = {
            CodeFetched: "building",
            ImagePinned: "building",
            MountingStarted: "mounting",
            CommandStarted: "running",
            SnapshotSaved: "running",
            SnapshotFailed: "running",
            CommandExited: "saving",
            OutputsSaved: "pushing",
        }
        for step in self.noted[: run.steps]:
            believed = after.get(type(step), "over")
        if run.state not in FINAL:
            assert run.state == believed
        elif not self.lost and run.machine_id is not None:
            assert believed == "over", "an end that the machine never told"
        fetched = [step for step in self.noted[: run.steps] if isinstance(step, CodeFetched)]
        assert run.fetched == (fetched[-1] if fetched else None)
        pinned = [step.image for step in self.noted[: run.steps] if isinstance(step, ImagePinned)]
        assert run.image == (pinned[-1] if pinned else None)
        if run.state is RunState.FAILED:
            assert self.lost or any(isinstance(step, AttemptFailed) for step in self.noted)
        if run.exit_cause is not None:
            assert run.exit_cause == self.exit_cause

    @invariant()
    def intents_only_harden(self):
        previous = Intent.RUN
        for row in self.rows:
            assert row.kind == "moved" or row.intent is not previous, "a row that says nothing new"
            previous = row.intent
        order = [Intent.RUN, Intent.STOP, Intent.KILL]
        seen = [order.index(row.intent) for row in self.rows]
        assert seen == sorted(seen)
        assert order.index(self.run.intent) == max(order.index(intent) for intent in self.asked)

    @invariant()
    def the_final_state_is_the_promised_one(self):
        run = self.run
        if run.state is RunState.COMPLETE:
            assert run.exit_cause == "exit"
            assert run.intent is not Intent.KILL
            assert run.manifest is not None
        if run.state is RunState.STOPPED:
            assert run.exit_cause == "stop"
            assert Intent.STOP in self.asked
            assert run.manifest is not None
        if run.state in {RunState.KILLED, RunState.FAILED} and run.reason is not Reason.OOM:
            assert run.manifest is None, "nothing of a killed or failed run is shown"
        if run.reason is Reason.OOM:
            assert run.state is RunState.FAILED
            assert run.manifest is not None, "what a run had made when its memory was used up is shown"
        if run.state is RunState.INTERRUPTED:
            assert self.spot
            assert run.reason is Reason.SPOT_RECLAIMED
            assert run.intent is not Intent.KILL
            assert self.lost or run.intent is Intent.RUN or run.started_at is not None
            saved = any(isinstance(step, OutputsSaved) for step in self.noted[: run.steps])
            assert (run.manifest is not None) is saved, "what was saved by then is shown, and nothing else"
        if run.state is RunState.KILLED:
            assert run.intent is not Intent.RUN
            by_kill = run.intent is Intent.KILL
            assert run.reason is (Reason.KILLED_BY_USER if by_kill else Reason.STOPPED_BEFORE_RUNNING)
            assert by_kill or run.started_at is None
        if run.state in FINAL:
            assert run.ended_at is not None
            assert run.started_at is None or run.ended_at >= run.started_at

    def teardown(self):
        """Faults stop: the wire heals and the machine goes on. The run must reach a final state."""
        for _ in range(12):
            if self.run.state is RunState.REQUESTED:
                self.admission()
            if self.run.machine_id == "m1" and self.phase == "none" and not self.lost:
                self.machine_takes_the_attempt()
            if self.run.state not in FINAL and self.phase not in {"none", "over"}:
                self.told = self.run.intent
            if self.phase in {"building", "mounting"}:
                self.machine_prepares("start")
            elif self.phase == "running":
                self.command_ends(by_itself=True)
            elif self.phase in {"saving", "pushing"}:
                self.machine_saves_and_pushes(fails=False)
            if self.noted:
                self.deliver(1, len(self.noted))
        assert self.run.state in FINAL, f"stuck in {self.run.state}"
        self.the_log_is_legal_and_whole()
        self.the_final_state_is_the_promised_one()


LifeOfARun.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestLifeOfARun = LifeOfARun.TestCase


def test_a_report_that_makes_no_sense_never_leaves_a_run_stuck():
    """An end that is reported out of phase fails the run, with a sentence; other odd steps are passed over."""
    run = Run(1, 1, state=RunState.RUNNING, machine_id="m1", fence=4, version=3)
    report = AttemptReport(
        machine_id="m1", run_id=1, attempt=1, fence=4, first_step=1, steps=(MountingStarted(at=START),)
    )
    assert not decide(run, report, START).changed

    ended = decide(run, report.model_copy(update={"steps": (AttemptFinished(at=START, log=LOG),)}), START).run
    assert ended.state is RunState.FAILED
    assert "while the run was running" in (ended.message or "")


def test_a_lost_spot_machine_interrupts_and_another_one_fails():
    run = Run(1, 1, state=RunState.RUNNING, machine_id="m1", fence=4, version=3)
    assert decide(run, MachineGone(Reason.MACHINE_LOST, 5), START).run.state is RunState.FAILED

    spot = decide(replace(run, spot=True), MachineGone(Reason.MACHINE_LOST, 5), START).run
    assert (spot.state, spot.fence) == (RunState.INTERRUPTED, 5)


def reported(run, *steps):
    """The run after a report of all its machine's next steps."""
    first = run.steps + 1
    report = AttemptReport(
        machine_id="m1", run_id=1, attempt=1, fence=4, first_step=first, steps=tuple(steps)
    )
    return decide(run, report, START).run


ON_SPOT = Run(1, 1, state=RunState.RUNNING, machine_id="m1", fence=4, version=3, spot=True)
RECLAIMED = AttemptFailed(at=START, reason=Reason.SPOT_RECLAIMED, message="gone", log=LOG)
RECLAIM = CommandExited(at=START, exit_code=143, exit_cause="reclaim")
SAVED = OutputsSaved(at=START, manifest="d" * 64, files=1, bytes=1)


def test_a_run_that_had_notice_is_interrupted_with_its_files():
    done = reported(ON_SPOT, RECLAIM, SAVED, RECLAIMED)

    assert (done.state, done.reason, done.exit_cause) == (
        RunState.INTERRUPTED,
        Reason.SPOT_RECLAIMED,
        "reclaim",
    )
    assert (done.manifest, done.saved_files, done.exit_code) == ("d" * 64, 1, 143)


def test_a_spot_machine_that_vanishes_takes_what_was_not_saved_by_then():
    for steps, manifest in (([RECLAIM], None), ([RECLAIM, SAVED], "d" * 64)):
        gone = decide(reported(ON_SPOT, *steps), MachineGone(Reason.MACHINE_LOST, 5), START).run

        assert (gone.state, gone.manifest) == (RunState.INTERRUPTED, manifest)


def test_what_its_user_wanted_of_a_run_before_its_command_comes_before_a_notice():
    for state in (RunState.BUILDING, RunState.MOUNTING):
        waiting = replace(ON_SPOT, state=state)
        assert reported(waiting, RECLAIMED).state is RunState.INTERRUPTED
        stopped = reported(replace(waiting, intent=Intent.STOP), RECLAIMED)
        assert (stopped.state, stopped.reason) == (RunState.KILLED, Reason.STOPPED_BEFORE_RUNNING)
        killed = reported(replace(waiting, intent=Intent.KILL), RECLAIMED)
        assert (killed.state, killed.reason) == (RunState.KILLED, Reason.KILLED_BY_USER)


def test_a_stop_that_comes_after_the_notice_interrupts_and_a_kill_kills():
    stopping = reported(replace(ON_SPOT, intent=Intent.STOP), RECLAIM, SAVED, RECLAIMED)
    assert (stopping.state, stopping.manifest) == (RunState.INTERRUPTED, "d" * 64)

    killed = reported(replace(ON_SPOT, intent=Intent.KILL), RECLAIM, SAVED, RECLAIMED)
    assert (killed.state, killed.manifest) == (RunState.KILLED, None)


def test_a_spot_machine_that_comes_back_with_another_boot_had_been_taken_away():
    rebooted = AttemptFailed(at=START, reason=Reason.HOST_REBOOTED, message="its machine restarted", log=LOG)

    assert reported(ON_SPOT, rebooted).state is RunState.INTERRUPTED
    assert reported(replace(ON_SPOT, spot=False), rebooted).reason is Reason.HOST_REBOOTED
