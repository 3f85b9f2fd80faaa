"""When a snapshot is to be taken: a function of the steps so far and of what was asked for."""

from datetime import UTC, datetime, timedelta

from spell_proto.events import CodeFetched, CommandStarted, SnapshotFailed, SnapshotSaved
from spell_runner.snapshots import BY_ITSELF_MAX, due, is_news, met

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(seconds=100)
STARTED = CommandStarted(at=START)


def saved(number, asked, seconds=0):
    at = START + timedelta(seconds=seconds)
    return SnapshotSaved(at=at, number=number, asked=asked, manifest="m", files=1, bytes=1)


def failed(asked):
    return SnapshotFailed(at=START, asked=asked, message="no")


def test_before_the_command_runs_there_is_nothing_to_save():
    fetched = CodeFetched(at=START, repository_id=1, repository="r", commit="c", tree="t")

    assert due([fetched], 1, 10, NOW) is None


def test_who_asks_is_served_at_once_and_once():
    assert due([STARTED], 1, None, NOW) == NOW
    assert due([STARTED, saved(1, 1)], 1, None, NOW) is None
    assert due([STARTED, saved(1, 1)], 2, None, NOW) == NOW


def test_one_snapshot_serves_all_who_had_asked_before_it_was_begun():
    assert due([STARTED, saved(1, 3)], 3, None, NOW) is None


def test_a_failure_is_an_answer_too():
    assert met([STARTED, saved(1, 1), failed(2)]) == 2
    assert due([STARTED, failed(2)], 2, None, NOW) is None


def test_of_what_nobody_asked_for_only_what_is_new_is_noted():
    other = saved(2, 0).model_copy(update={"manifest": "other"})

    assert is_news([STARTED], saved(1, 0))
    assert not is_news([STARTED], saved(1, 0).model_copy(update={"manifest": None}))
    assert not is_news([STARTED, saved(1, 0)], saved(2, 0))
    assert is_news([STARTED, saved(1, 0)], other)


def test_that_it_fails_is_noted_once_and_then_that_it_does_not_any_more():
    assert is_news([STARTED], failed(0))
    assert is_news([STARTED, saved(1, 0)], failed(0))
    assert not is_news([STARTED, saved(1, 0), failed(0)], failed(0))
    assert is_news([STARTED, saved(1, 0), failed(0)], saved(2, 0))


def test_time_counts_from_the_start_and_then_from_the_last_one():
    assert due([STARTED], 0, 30, NOW) == START + timedelta(seconds=30)
    assert due([STARTED, saved(1, 0, 40)], 0, 30, NOW) == START + timedelta(seconds=70)


def test_by_itself_a_run_is_saved_so_often_and_no_more():
    taken = [saved(number + 1, 0) for number in range(BY_ITSELF_MAX)]

    assert due([STARTED, *taken], 0, 30, NOW) is None
    assert due([STARTED, *taken], 1, 30, NOW) == NOW
