"""Patterns leave out what git leaves out by them, and never take long."""

import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spell_runner.ignoring import Patterns

PATHS = (
    *(
        "a",
        "b",
        "ab",
        "a.b",
        "a b",
        "a ",
        "d/a",
        "d/b",
        "d/ab",
        "d/e/a",
        "d/e/f/a",
        "d/e/f/b-a",
        "[x]/q",
        "#a",
        "!a",
    ),
    *("x/d/a", "x/d/e/f/a", "ba/ab/aab", "x/y/abab", "A/a"),
)
PIECES = st.sampled_from(
    [
        *(
            "a",
            "b",
            "d",
            "e",
            "f",
            "x",
            "*",
            "?",
            ".",
            "#",
            "!",
            " ",
            "-",
            "]",
            "[",
            "\\",
            "\\a",
            "\\!",
            "\\#",
            "\\ ",
        ),
        *(
            "[ab]",
            "[!a]",
            "[^d]",
            "[a-e]",
            "[b-a]",
            "[]a]",
            "[a-",
            "[\\]x]",
            "[x/]",
            "[[:alpha:]]",
            "[[:none:]]",
            "[-a]",
        ),
    ]
)
SEGMENTS = st.one_of(st.just("**"), st.lists(PIECES, max_size=4).map("".join))
LINES = st.builds(
    lambda before, segments, after: before + "/".join(segments) + after,
    st.sampled_from(["", "", "!", "/"]),
    st.lists(SEGMENTS, min_size=1, max_size=4),
    st.sampled_from(["", "", "/", " "]),
)
SECONDS_MAX = 1.0


@pytest.fixture(scope="module")
def repository():
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        subprocess.run(["git", "init", "-q", path], check=True)
        for name in PATHS:
            file = Path(path, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        yield Path(path)


def left_out_by_git(repository, lines):
    (repository / ".gitignore").write_text("\n".join(lines) + "\n")
    asked = subprocess.run(
        [
            "git",
            "-C",
            repository,
            "-c",
            "core.excludesFile=/dev/null",
            "check-ignore",
            "--no-index",
            "-z",
            "--stdin",
        ],
        input="\0".join(PATHS).encode(),
        capture_output=True,
        check=False,
    )
    return set(asked.stdout.decode().split("\0")) - {""}


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(LINES, min_size=1, max_size=3))
@example(lines=["/**", "!**/"])
def test_what_git_would_ignore_is_left_out_and_nothing_else(repository, lines):
    patterns = Patterns(lines)

    assert {path for path in PATHS if patterns.leave_out(path)} == left_out_by_git(repository, lines)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 300 + "*b", "a" * 255),
        ("?*" * 300, "a" * 255),
        ("**/" + "a/**/" * 100 + "b", "/".join("a" * 1500)),
        ("*a*a*a*a/" * 20 + "b", "/".join(["a" * 200] * 15)),
        ("/**/*a*a*a*a*a*a*b/**/*a*a*a*a*a*a*b", "/".join(["a" * 200] * 20)),
        ("[a-z]*" * 150 + "!", "a" * 255),
    ],
)
def test_no_pattern_takes_long(pattern, path):
    begun = time.process_time()

    assert not Patterns([pattern]).leave_out(path) or "?" in pattern

    assert time.process_time() - begun < SECONDS_MAX
