"""What is kept of what the platform says where it has no log to say it in."""

from spell_runner.directory import Directory
from spell_runner.notes import GATHERED_CHARS_MAX, GATHERED_MAX, Gathered


def test_only_what_nobody_should_miss_is_kept_and_not_too_much_of_it(tmp_path):
    notes = Gathered(Directory(tmp_path))

    notes.line("Saving '/spell/a'")
    notes.lines(["Not saved: 1", "x" * 1000], important=True)
    notes.lines([str(number) for number in range(20)], important=True)
    notes.line("one more", important=True)

    kept = notes.kept
    assert kept[:2] == ("Not saved: 1", "x" * GATHERED_CHARS_MAX)
    assert len(kept) == GATHERED_MAX + 1
    assert kept[-1] == "and 13 more like that"


def test_of_nothing_there_is_nothing_to_say(tmp_path):
    assert Gathered(Directory(tmp_path)).kept == ()
