"""Silence counts against machines only while they could have been heard."""

from spell_scheduler.loops import BREAK_SECONDS, WATCH_SECONDS, Hearing


def test_hearing_adds_up_while_looks_follow_each_other():
    hearing = Hearing()
    seconds = [hearing.seconds(1000 + WATCH_SECONDS * number, able=True) for number in range(5)]
    assert seconds == [0, WATCH_SECONDS, 2 * WATCH_SECONDS, 3 * WATCH_SECONDS, 4 * WATCH_SECONDS]


def test_a_look_after_a_sleep_of_the_machine_begins_anew():
    hearing = Hearing()
    hearing.seconds(1000, able=True)
    hearing.seconds(1005, able=True)
    assert hearing.seconds(1005 + BREAK_SECONDS + 1, able=True) == 0


def test_an_outage_of_bus_or_database_begins_anew():
    hearing = Hearing()
    hearing.seconds(1000, able=True)
    assert hearing.seconds(1005, able=False) == 0
    assert hearing.seconds(1010, able=True) == 0
    assert hearing.seconds(1012, able=True) == 2


def test_a_clock_that_was_set_back_begins_anew():
    hearing = Hearing()
    hearing.seconds(1000, able=True)
    assert hearing.seconds(400, able=True) == 0
