"""What of a run's output a terminal is given."""

import pytest

from spell_cli.escapes import EscapeFilter

CASES = [
    (b"plain\r\x1b[31mred\x1b[0m\x1b[K\n", b"plain\r\x1b[31mred\x1b[0m\x1b[K\n"),
    (b"a\x1b]0;title\x07b", b"ab"),
    (b"a\x1b]52;c;eA==\x1b\\b", b"ab"),
    (b"a\x1bPq\n#1\x1b\\b", b"ab"),
    (b"a\x1b_x\x1b\\\x1b^y\x1b\\\x1bXz\x1b\\b", b"ab"),
    (b"a\x1bcb", b"ab"),
    (b"a\x1b]never ended\nb", b"a\nb"),
    (b"a\x1b]0;x\x1b[1mb", b"a\x1b[1mb"),
    (b"a\x1b]0;x\x1b]52;c;eA==\x07b", b"ab"),
    (b"a\x1b\x1bcb", b"ab"),
    (b"a\x1b\x1bc]52;c;eA==\x07b", b"a]52;c;eA==\x07b"),
]


@pytest.mark.parametrize(("given", "shown"), CASES)
def test_what_acts_on_the_terminal_is_taken_out_and_text_passes(given, shown):
    assert EscapeFilter().feed(given) == shown


@pytest.mark.parametrize(("given", "shown"), CASES)
def test_a_sequence_may_come_in_pieces(given, shown):
    one = EscapeFilter()

    assert b"".join(one.feed(given[place : place + 1]) for place in range(len(given))) == shown


@pytest.mark.parametrize("size", [1, 2, 100])
def test_control_characters_in_the_middle_hide_nothing(size):
    data = b"a\x1b\n\x1b\r]52;c;eA==\x07b\x1b\x1b[1mc"
    one = EscapeFilter()
    shown = b"".join(one.feed(data[place : place + size]) for place in range(0, len(data), size))

    assert b"]" not in shown
    assert shown.endswith(b"[1mc")
