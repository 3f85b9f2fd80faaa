"""What is left of what the platform says where it has no log to say it in."""

from spell_runner.notes import SHORTENED_CHARS_MAX, SHORTENED_MAX, shortened


def test_of_many_lines_the_first_are_left_and_how_many_more_there_were():
    left = shortened(["Not saved: 1", "x" * 1000, "\0", *(str(number) for number in range(20))])

    assert left[:3] == ("Not saved: 1", "x" * SHORTENED_CHARS_MAX, "\ufffd")
    assert len(left) == SHORTENED_MAX + 1
    assert left[-1] == "and 13 more like that"


def test_of_nothing_there_is_nothing_to_say():
    assert shortened([]) == ()
