"""What of a directory goes into an upload: how far the look at it is, what is left out, and what is said of long names."""

import os

import pytest

from spell_cli.errors import CliError
from spell_cli.gathering import gather, looked_at


def test_how_much_was_looked_at_is_told_while_it_is(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    counts: list[int] = []

    found = gather(tmp_path, counts.append)

    assert counts == [3, 4, 5, 6]
    assert len(found.files) == 3


def test_empty_directories_are_counted_as_they_are_left_out(tmp_path):
    (tmp_path / "full" / "empty").mkdir(parents=True)
    (tmp_path / "full" / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".DS_Store").touch()

    assert gather(tmp_path).empty == 2


def test_an_empty_directory_itself_is_no_directory_left_out(tmp_path):
    assert gather(tmp_path).empty == 0


def test_a_long_path_is_cut_where_a_message_shows_it(tmp_path):
    """The messages are what a terminal shows: 80 characters of a path."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)

    with pytest.raises(CliError) as deep:
        gather(tmp_path)
    with pytest.raises(CliError) as long:
        looked_at(tmp_path / ("x" * 5000))

    assert len(deep.value.message) < 200
    assert len(long.value.message) < 200
