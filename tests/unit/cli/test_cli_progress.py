"""What a line of progress shows: on a terminal of any width, how much there is, how fast it goes and how long it takes."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

from spell_cli.progress import cells, line, rate

LONG = "Uploading to uploads/imagenet-2012-training-split-in-its-original-resolution"
_CHILD = """
import sys
from spell_cli.progress import Counted
with Counted("Uploading to uploads/" + "long" * 60, 668 << 20) as counted:
    counted.add(240 << 20, known=True)
    sys.stdin.readline()
    counted.add(1 << 20)
    sys.stdin.readline()
"""


def test_progress_says_how_fast_and_how_long():
    assert rate(0, 100, 5.0)[0] == "[....................] 0 of 100"
    assert rate(50, 100, 0.5)[0] == "[##########..........] 50 of 100"
    assert rate(50 << 20, 100 << 20, 5.0)[0] == "[##########..........] 50M of 100M, 10M/s, 5s left"
    assert rate(1 << 20, 1 << 30, 1.0)[0].endswith("1.0M of 1.0G, 1.0M/s, 17m03s left")
    assert rate(1, 1 << 20, 2.0)[0].endswith("left")
    assert rate(100, 0, 2.0)[0] == "[####################] 100 of 0, 50/s, 0s left"


def test_a_rate_is_of_what_came_since_it_began():
    assert rate(240 << 20, 668 << 20, 2.0, known=240 << 20)[0].endswith("] 240M of 668M")
    assert rate(260 << 20, 660 << 20, 2.0, known=240 << 20)[1] == "260M of 660M, 10M/s, 40s left"


@pytest.mark.parametrize("width", range(20, 201))
@pytest.mark.parametrize("title", ["Copying", LONG, "Lade hoch: uploads/" + "データ" * 40])
def test_no_line_is_too_wide_and_each_has_amount_rate_and_time(width, title):
    messages = rate(240 << 20, 668 << 20, 10.0)

    found = line(title, messages, width)

    assert cells(found) <= width
    assert [part in found for part in ("240M", "24M/s", "18s")] == [True] * 3


def test_a_long_title_loses_its_middle_and_a_short_one_nothing():
    messages = rate(240 << 20, 668 << 20, 10.0)

    assert line(LONG, messages, 80) == (
        "Uploading to …l-resolution… [#######.............] 240M of 668M, 24M/s, 18s left"
    )
    assert line(LONG, messages, 20) == "240M, 24M/s, 18s"
    assert line("Copying", messages, 80).startswith("Copying… [#######")
    assert line(LONG, messages, 200).startswith(f"{LONG}… [#######")


def test_one_message_is_cut_where_there_is_no_room_for_it():
    assert line("Pushing", ["x" * 50], 20) == "x" * 20
    assert line("Looking at files", [""], 40) == "Looking at files…"
    assert line("Looking at files", ["1"], 40, "...") == "Looking at files... 1"


def test_on_a_terminal_a_line_is_as_wide_as_it_is_and_counts_what_is_sent():
    shown, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 64, 0, 0))
    environment = os.environ | {"TERM": "xterm", "PYTHONUTF8": "1"}
    words = [sys.executable, "-c", _CHILD]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=child, env=environment) as process:
        os.close(child)
        assert process.stdin is not None
        first = seen_until(shown, "240M of 668M")
        process.stdin.write(b"\n")
        process.stdin.flush()
        second = seen_until(shown, "left")
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(10) == 0
    os.close(shown)

    assert "/s" not in first
    assert "241M of 668M" in second
    assert all(cells(text) <= 63 for text in (first, second))


def seen_until(terminal, text):
    """The first line drawn that holds a text."""
    seen, deadline = "", time.monotonic() + 20
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
        lines = seen.split("\r\x1b[2K")
        found = [each for each in lines[:-1] if text in each]
        if found:
            return found[0]
    raise AssertionError(seen)
