"""What an attempt does next follows from what is on disk and what is wanted, and from nothing else."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from spell_proto.events import (
    AttemptFinished,
    AttemptKilled,
    CommandExited,
    CommandStarted,
    LogTotals,
    OutputsSaved,
)
from spell_proto.state import Intent, Reason
from spell_runner import phases
from spell_runner.phases import Exit, Facts, Look, Outcome, Status, decide

T0 = datetime(2026, 1, 1, tzinfo=UTC)
T1 = T0 + timedelta(seconds=1)
LOG = LogTotals(journal_bytes=1, stdout_bytes=0, stderr_bytes=0, dropped_bytes=0, sha256="0" * 64)
STARTED = CommandStarted(at=T0)
EXITED = CommandExited(at=T1, exit_code=0, exit_cause="exit")
SAVED = OutputsSaved(at=T1, manifest=None, files=0, bytes=0)


RECLAIMED = phases.Conclude(phases.failed(Reason.SPOT_RECLAIMED))


def an_exit(cause="exit", error=None, at=T1, reason=None):
    return Exit(at, 7, cause, 1, 2, 0, "0" * 64, 99, error, reason)


def facts(
    status,
    *,
    intent=Intent.RUN,
    steps=(),
    started=T0,
    ended=None,
    same_boot=True,
    verdict=None,
    pushing=False,
    reclaimed=False,
):
    return Facts(intent, tuple(steps), Look(status, started, ended), same_boot, verdict, pushing, reclaimed)


def test_an_untouched_attempt_is_prepared_and_then_started():
    assert decide(facts(Status.ABSENT)) == phases.Prepare()
    assert decide(facts(Status.ASKED)) == phases.Start()


@pytest.mark.parametrize("intent", [Intent.STOP, Intent.KILL])
def test_an_end_before_the_claim_keeps_the_command_from_ever_starting(intent):
    assert decide(facts(Status.ABSENT, intent=intent)) == phases.Conclude(phases.KILLED)
    assert decide(facts(Status.ASKED, intent=intent)) == phases.Cancel()
    assert decide(facts(Status.CANCELLED, intent=intent)) == phases.Conclude(phases.KILLED)


def test_a_running_command_is_noted_then_waited_for_then_ended_when_asked():
    assert decide(facts(Status.RUNNING)) == phases.Note((STARTED,))
    assert decide(facts(Status.RUNNING, steps=[STARTED])) == phases.Wait()
    assert decide(facts(Status.RUNNING, steps=[STARTED], intent=Intent.STOP)) == phases.End(Intent.STOP)
    assert decide(facts(Status.RUNNING, started=None, intent=Intent.KILL)) == phases.End(Intent.KILL)


@pytest.mark.parametrize(
    ("cause", "noted"), [("exit", "exit"), ("stop", "stop"), ("reclaim", "reclaim"), ("other", "exit")]
)
def test_an_exit_is_noted_with_its_cause_and_with_the_start_that_was_missed(cause, noted):
    action = decide(facts(Status.EXITED, ended=an_exit(cause), intent=Intent.STOP))

    assert action == phases.Note((STARTED, CommandExited(at=T1, exit_code=7, exit_cause=noted)))


def test_a_clock_that_was_set_back_gives_no_negative_duration():
    action = decide(facts(Status.EXITED, ended=an_exit(at=T0 - timedelta(hours=1))))

    assert isinstance(action, phases.Note)
    assert action.steps[1].at == T0


def test_a_killed_command_is_not_saved():
    assert decide(facts(Status.EXITED, ended=an_exit("kill"), intent=Intent.KILL)) == phases.Conclude(
        phases.KILLED
    )


def test_a_kill_after_the_exit_gives_up_what_is_left():
    for steps in ([STARTED, EXITED], [STARTED, EXITED, SAVED]):
        assert decide(facts(Status.EXITED, steps=steps, intent=Intent.KILL)) == phases.Conclude(phases.KILLED)


def test_a_stop_after_the_exit_changes_nothing():
    assert decide(facts(Status.EXITED, steps=[STARTED, EXITED], intent=Intent.STOP)) == phases.Save()
    saved = facts(Status.EXITED, steps=[STARTED, EXITED, SAVED], intent=Intent.STOP)
    assert decide(saved) == phases.Conclude(phases.FINISHED)


def test_what_is_saved_waits_for_its_environment_to_be_stored_unless_it_is_killed():
    steps = [STARTED, EXITED, SAVED]
    for intent in (Intent.RUN, Intent.STOP):
        assert decide(facts(Status.EXITED, steps=steps, pushing=True, intent=intent)) == phases.Push()
        rebooted = facts(Status.LOST, steps=steps, pushing=True, same_boot=False, intent=intent)
        assert decide(rebooted) == phases.Push()
    killed = facts(Status.EXITED, steps=steps, pushing=True, intent=Intent.KILL)
    assert decide(killed) == phases.Conclude(phases.KILLED)
    assert decide(facts(Status.EXITED, steps=steps[:2], pushing=True)) == phases.Save()


def test_a_command_that_could_not_be_started_fails_with_the_reason():
    failed = facts(Status.EXITED, started=None, ended=an_exit(error="Argument list too long"))

    assert decide(failed) == phases.Conclude(phases.failed(Reason.START_FAILED, "Argument list too long"))


def test_a_shim_that_heard_of_the_end_before_the_start_has_started_nothing():
    asked = facts(Status.EXITED, started=None, ended=an_exit("stop"), intent=Intent.STOP)

    assert decide(asked) == phases.Conclude(phases.KILLED)


def test_a_notice_before_the_claim_keeps_the_command_from_ever_starting():
    assert decide(facts(Status.ABSENT, reclaimed=True)) == RECLAIMED
    assert decide(facts(Status.ASKED, reclaimed=True)) == phases.Cancel()
    assert decide(facts(Status.CANCELLED, reclaimed=True)) == RECLAIMED
    unstarted = facts(Status.EXITED, started=None, ended=an_exit("reclaim"), reclaimed=True)
    assert decide(unstarted) == RECLAIMED
    for intent in (Intent.STOP, Intent.KILL):
        for status in (Status.ABSENT, Status.CANCELLED):
            wanted = facts(status, reclaimed=True, intent=intent)
            assert decide(wanted) == phases.Conclude(phases.KILLED), "what its user wants comes first"


def test_a_notice_ends_a_running_command_and_hurries_one_that_is_stopped():
    running = facts(Status.RUNNING, steps=[STARTED], reclaimed=True)
    stopped = facts(Status.RUNNING, steps=[STARTED], reclaimed=True, intent=Intent.STOP)
    killed = facts(Status.RUNNING, steps=[STARTED], reclaimed=True, intent=Intent.KILL)

    assert decide(running) == phases.End(Intent.RUN, reclaimed=True)
    assert decide(stopped) == phases.End(Intent.STOP, reclaimed=True)
    assert decide(killed) == phases.End(Intent.KILL)


@pytest.mark.parametrize("reclaimed", [True, False])
def test_what_a_notice_has_ended_is_saved_and_then_interrupted_whether_the_notice_stands_or_not(reclaimed):
    ended = an_exit("reclaim", reason=Reason.SPOT_RECLAIMED)
    exited = CommandExited(at=T1, exit_code=7, exit_cause="reclaim")

    def after_steps(*steps, intent=Intent.RUN):
        return decide(
            facts(
                Status.EXITED,
                steps=steps,
                ended=ended,
                reclaimed=reclaimed,
                pushing=not reclaimed,
                intent=intent,
            )
        )

    assert after_steps(STARTED) == phases.Note((exited,))
    assert after_steps(STARTED, exited) == phases.Save()
    assert after_steps(STARTED, exited, SAVED) == RECLAIMED
    assert after_steps(STARTED, exited, SAVED, intent=Intent.STOP) == RECLAIMED, "the notice came first"
    assert after_steps(STARTED, exited, intent=Intent.KILL) == phases.Conclude(phases.KILLED)


def test_an_end_before_the_notice_counts_and_waits_for_no_environment():
    for cause in ("exit", "stop"):
        done = facts(
            Status.EXITED,
            steps=[STARTED, EXITED, SAVED],
            ended=an_exit(cause),
            reclaimed=True,
            pushing=True,
        )
        assert decide(done) == phases.Conclude(phases.FINISHED)


def test_a_shim_that_is_lost_under_a_notice_is_the_machines_doing():
    assert decide(facts(Status.LOST, steps=[STARTED], reclaimed=True)) == RECLAIMED
    rebooted = facts(Status.LOST, steps=[STARTED], reclaimed=True, same_boot=False)
    assert decide(rebooted) == phases.Conclude(phases.failed(Reason.HOST_REBOOTED))


def test_a_lost_shim_and_a_reboot_are_told_apart():
    lost = decide(facts(Status.LOST, steps=[STARTED]))
    rebooted = decide(facts(Status.LOST, steps=[STARTED], same_boot=False))

    assert lost == phases.Conclude(phases.failed(Reason.SHIM_LOST))
    assert rebooted == phases.Conclude(phases.failed(Reason.HOST_REBOOTED))
    assert decide(facts(Status.LOST, intent=Intent.KILL)) == phases.Conclude(phases.KILLED)


def test_an_attempt_of_another_boot_is_never_started():
    for status in (Status.ABSENT, Status.ASKED, Status.RUNNING):
        assert decide(facts(status, same_boot=False)) == phases.Conclude(phases.failed(Reason.HOST_REBOOTED))


@pytest.mark.parametrize("steps", [(), (STARTED,), (STARTED, EXITED)])
def test_an_exit_before_a_reboot_does_not_count_unless_everything_was_saved(steps):
    """Its files were never synced: after a power cut they may be empty, and would be saved as if it had made them so."""
    lost = decide(facts(Status.EXITED, ended=an_exit(), steps=steps, same_boot=False))
    saved = decide(facts(Status.EXITED, ended=an_exit(), steps=[STARTED, EXITED, SAVED], same_boot=False))

    assert lost == phases.Conclude(phases.failed(Reason.HOST_REBOOTED))
    assert saved == phases.Conclude(phases.FINISHED)


def test_a_verdict_is_sealed_and_a_last_step_ends_everything():
    killed = facts(Status.RUNNING, verdict=phases.KILLED)
    over = facts(Status.EXITED, steps=[AttemptKilled(at=T1, log=LOG)], verdict=phases.KILLED)

    assert decide(killed) == phases.Seal(phases.KILLED)
    assert decide(over) == phases.Rest()


def test_whatever_the_facts_there_is_something_to_do_and_it_ends():
    """From every combination, doing what is decided reaches the end in a bounded number of steps."""
    either = [True, False]
    for status, intent, same_boot, pushing, reclaimed in itertools.product(
        Status, Intent, either, either, either
    ):
        ended = an_exit() if status is Status.EXITED else None
        now = facts(
            status, intent=intent, ended=ended, same_boot=same_boot, pushing=pushing, reclaimed=reclaimed
        )
        for _ in range(20):
            action = decide(now)
            if isinstance(action, phases.Rest):
                break
            now = after(now, action)

        assert isinstance(decide(now), phases.Rest), now


def after(now, action):
    """The facts when an action has been carried out and everything went well."""
    steps, look, verdict, pushing = now.steps, now.look, now.verdict, now.pushing
    match action:
        case phases.Prepare():
            look = Look(Status.ASKED)
        case phases.Start():
            look = Look(Status.RUNNING, T0)
        case phases.Cancel():
            look = Look(Status.CANCELLED)
        case phases.Wait() | phases.End():
            look = Look(Status.EXITED, T0, an_exit())
        case phases.Note(steps=more):
            steps += more
        case phases.Save():
            steps += (SAVED,)
        case phases.Push():
            pushing = False
        case phases.Conclude(verdict=made):
            verdict = made
        case phases.Seal(verdict=made):
            steps += (phases.last_step(made, LOG, T1),)
    return Facts(now.intent, steps, look, now.same_boot, verdict, pushing, now.reclaimed)


def test_the_last_step_says_how_it_ended():
    assert phases.last_step(phases.FINISHED, LOG, T1) == AttemptFinished(at=T1, log=LOG)
    failed = phases.last_step(phases.failed(Reason.BUILD_FAILED, "no such package"), LOG, T1)
    assert (failed.reason, failed.message) == (Reason.BUILD_FAILED, "no such package")
    assert phases.failed(Reason.SHIM_LOST).outcome is Outcome.FAILED
    assert phases.failed(Reason.SHIM_LOST).message


@pytest.mark.parametrize(
    ("intent", "saving", "reclaimed", "aborts"),
    [
        (Intent.RUN, False, False, False),
        (Intent.RUN, False, True, True),
        (Intent.RUN, True, True, False),
        (Intent.STOP, False, False, True),
        (Intent.STOP, True, False, False),
        (Intent.KILL, False, False, True),
        (Intent.KILL, True, False, True),
    ],
)
def test_a_stop_or_a_notice_gives_up_what_comes_before_the_command_and_a_kill_everything(
    intent, saving, reclaimed, aborts
):
    assert phases.aborts(intent, saving=saving, reclaimed=reclaimed) is aborts
