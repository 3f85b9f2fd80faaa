"""What is left out of a save, and how that is said."""

import os

import pytest

from spell_runner import leaving
from spell_runner.outputs import Changes, Found


def found(*paths):
    return Changes([Found(path, f"/nowhere/{path}", 0o644, 1, 0) for path in paths])


def paths(changes):
    return [one.path for one in changes.found]


def test_nothing_is_left_out_without_patterns():
    changes = found("repo/a", "b")

    assert leaving.without(changes, [], (), "repo") is changes


def test_patterns_mean_paths_as_they_are_in_the_resource():
    changes = found("repo/cache/a", "repo/sub/cache/b", "cache/c", "repo/keep")

    left = leaving.without(changes, ["/cache/"], (), "repo")

    assert paths(left) == ["repo/sub/cache/b", "repo/keep"]
    assert left.notes == ["Not saved: 2 files (left out by .spellignore)"]


def test_the_command_line_has_the_last_word():
    changes = found("repo/a.tmp", "repo/best.tmp", "repo/big.bin")

    left = leaving.without(changes, ["*.tmp", "# a comment", ""], ("!best.tmp", "*.bin"), "repo")

    assert paths(left) == ["repo/best.tmp"]
    assert left.notes == ["Not saved: 2 files (left out by .spellignore and --no-save)"]


def test_one_file_is_one_file():
    assert leaving.without(found("a"), [], ("a",), None).notes == [
        "Not saved: 1 file (left out by --no-save)"
    ]


def test_a_deletion_that_is_left_out_is_not_recorded():
    changes = Changes(deleted=["repo/cache/x", "repo/y"])

    left = leaving.without(changes, [], ("cache/",), "repo")

    assert (left.deleted, left.notes) == (["repo/y"], [])


def test_patterns_that_match_nothing_are_not_worth_a_line():
    assert leaving.without(found("a"), [], ("b",), None).notes == []


def test_a_file_of_patterns_is_read_as_git_reads_one(tmp_path):
    (tmp_path / ".spellignore").write_bytes(b"\xef\xbb\xbf*.tmp\r\n\xff\n")

    lines = leaving.read(tmp_path / ".spellignore")

    assert paths(leaving.without(found("a.tmp", "b"), lines, (), None)) == ["b"]


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
