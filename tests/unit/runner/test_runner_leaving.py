"""What is left out of a save, and how that is said."""

import os
import time

import pytest

from spell_runner import leaving
from spell_runner.outputs import Changes, Found
from spell_runner.workspace import Abort, AbortedError


def found(*paths):
    return Changes([Found(path, f"/nowhere/{path}", 0o644, 1, 0) for path in paths])


def paths(changes):
    return [one.path for one in changes.found]


def test_nothing_is_left_out_without_patterns():
    changes = found("repo/a", "b")

    assert leaving.without(changes, [], (), "repo", Abort()) is changes


def test_patterns_mean_paths_as_they_are_in_the_resource():
    changes = found("repo/cache/a", "repo/sub/cache/b", "cache/c", "repo/keep")

    left = leaving.without(changes, ["/cache/"], (), "repo", Abort())

    assert paths(left) == ["repo/sub/cache/b", "repo/keep"]
    assert left.notes == ["Not saved: 2 files (left out by .spellignore)"]


def test_the_command_line_has_the_last_word():
    changes = found("repo/a.tmp", "repo/best.tmp", "repo/big.bin")

    left = leaving.without(changes, ["*.tmp", "# a comment", ""], ("!best.tmp", "*.bin"), "repo", Abort())

    assert paths(left) == ["repo/best.tmp"]
    assert left.notes == ["Not saved: 2 files (left out by .spellignore and --no-save)"]


def test_one_file_is_one_file():
    assert leaving.without(found("a"), [], ("a",), None, Abort()).notes == [
        "Not saved: 1 file (left out by --no-save)"
    ]


def test_a_deletion_that_is_left_out_is_not_recorded():
    changes = Changes(deleted=["repo/cache/x", "repo/y"])

    left = leaving.without(changes, [], ("cache/",), "repo", Abort())

    assert (left.deleted, left.notes) == (["repo/y"], [])


def test_patterns_that_match_nothing_are_not_worth_a_line():
    assert leaving.without(found("a"), [], ("b",), None, Abort()).notes == []


def test_a_file_of_patterns_is_read_as_git_reads_one(tmp_path):
    (tmp_path / ".spellignore").write_bytes(b"\xef\xbb\xbf*.tmp\r\n\xff\n")

    lines = leaving.read(tmp_path / ".spellignore")

    assert paths(leaving.without(found("a.tmp", "b"), lines, (), None, Abort())) == ["b"]


def test_no_file_of_patterns_leaves_nothing_out(tmp_path):
    assert leaving.read(tmp_path / ".spellignore") == []


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "too long"])
def test_what_is_no_file_of_patterns_is_not_used_and_says_why(tmp_path, kind):
    path = tmp_path / ".spellignore"
    match kind:
        case "link":
            path.symlink_to("/etc/passwd")
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            path.write_bytes(b"*" * (leaving.BYTES_MAX + 1))

    with pytest.raises(ValueError, match=r"^it (cannot be read|is no file|has more than 64 KiB)"):
        leaving.read(path)


def test_whoever_waits_for_it_to_be_given_up_does_not_wait_for_all_files():
    abort = Abort()
    abort.set()

    with pytest.raises(AbortedError):
        leaving.without(found("a"), ["x"], (), None, abort)


def test_a_file_of_more_patterns_than_there_may_be_is_not_used(tmp_path):
    (tmp_path / "many").write_text("x\n" * (leaving.PATTERNS_MAX + 1))
    (tmp_path / "most").write_text("# of it\n\n" * 2000 + "x\n" * leaving.PATTERNS_MAX)

    with pytest.raises(ValueError, match="more than 1000 patterns"):
        leaving.read(tmp_path / "many")
    assert "x" in leaving.read(tmp_path / "most")


def test_as_many_patterns_as_there_may_be_take_no_long_for_many_files():
    changes = found(*(f"some/directory/of/many/file-{number}" for number in range(20_000)))
    patterns = [f"/some/*/of/other-{number}/*" for number in range(leaving.PATTERNS_MAX)]

    began = time.monotonic()
    left = leaving.without(changes, patterns, (), None, Abort())

    assert left.found == changes.found
    assert time.monotonic() - began < 20
