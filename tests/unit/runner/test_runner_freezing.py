"""What is frozen of a workspace that somebody works on at the same time."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from spell_runner import freezing
from spell_runner.directory import BASELINE, Directory
from spell_runner.lower import Lower
from spell_runner.outputs import in_copy
from spell_runner.shim.launch import LAUNCH, UPPER, WORKSPACE
from spell_runner.workspace import Abort, copy_tree, open_readable, read_baseline, remove
from support import nobody
from support.specs import a_launch


@pytest.fixture
def overlaid(tmp_path):
    directory = Directory(tmp_path)
    (tmp_path / UPPER).mkdir()
    (tmp_path / LAUNCH).write_bytes(a_launch(overlay=True).encode())
    return directory


def below(path):
    return sorted(str(found.relative_to(path)) for found in Path(path).rglob("*"))


def test_everything_is_there_under_its_name_and_nothing_is_copied(overlaid):
    upper = Path(overlaid / UPPER)
    (upper / "a/b").mkdir(parents=True)
    (upper / "a/b/file").write_text("x")
    (upper / "link").symlink_to("/etc/passwd")
    (upper / ".git").mkdir()
    (upper / ".git/object").write_text("o")
    os.mkfifo(upper / "pipe")

    frozen = Path(freezing.freeze(overlaid, Abort()) / UPPER)

    assert below(frozen) == ["a", "a/b", "a/b/file", "link", "pipe"]
    assert (frozen / "a/b/file").stat().st_ino == (upper / "a/b/file").stat().st_ino
    assert str((frozen / "link").readlink()) == "/etc/passwd"


def test_what_happens_afterwards_to_names_does_not_matter(overlaid):
    upper = Path(overlaid / UPPER)
    (upper / "model").write_text("first")
    frozen = Path(freezing.freeze(overlaid, Abort()) / UPPER)

    (upper / "model.new").write_text("second")
    (upper / "model.new").rename(upper / "model")

    assert (frozen / "model").read_text() == "first"


def test_what_is_left_of_an_earlier_one_does_not_count(overlaid):
    (Path(overlaid / UPPER) / "a").touch()
    freezing.freeze(overlaid, Abort())
    (Path(overlaid / UPPER) / "a").unlink()

    frozen = freezing.freeze(overlaid, Abort())

    assert below(frozen / UPPER) == []
    freezing.thaw(overlaid)
    assert not (overlaid.path / "snapshot").exists()


def modes(path):
    return [stat.S_IMODE(one.lstat().st_mode) for one in sorted(path.rglob("*"))]


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100, 0o300])
def test_what_a_command_has_closed_is_looked_into_and_stays_closed(mode):
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Directory(Path(name))
        outer, inner, file = (directory.path / UPPER / path for path in ("o", "o/i", "o/i/file"))
        inner.mkdir(parents=True)
        file.write_text("x")
        (directory.path / LAUNCH).write_bytes(a_launch(overlay=True).encode())
        with nobody.become(directory.path):
            for path in (file, inner, outer):
                path.chmod(mode)
            frozen = Path(freezing.freeze(directory, Abort()) / UPPER)
            found = below(frozen)
            with os.fdopen(open_readable(str(frozen / "o/i/file"))) as reader:
                content = reader.read()
        closed = modes(directory.path / UPPER)

    assert (found, content) == (["o", "o/i", "o/i/file"], "x")
    assert closed == [mode] * 3


def test_of_a_copy_of_the_code_only_what_was_touched_is_looked_at(tmp_path):
    lower, directory = tmp_path / "lower", Directory(tmp_path / "attempt")
    workspace = directory.path / WORKSPACE
    (lower / "repo").mkdir(parents=True)
    for name in ("same", "touched", "changed", "gone"):
        (lower / "repo" / name).write_text(name)
    workspace.mkdir(parents=True)
    (directory.path / BASELINE).write_bytes(copy_tree(lower, workspace, Abort()))
    (directory.path / LAUNCH).write_bytes(a_launch(overlay=False, lower=str(lower)).encode())
    (workspace / "repo/touched").touch()
    (workspace / "repo/changed").write_text("another")
    (workspace / "repo/gone").unlink()
    (workspace / "new").touch()
    untouched = (workspace / "repo/same").stat().st_ctime_ns

    frozen = freezing.freeze(directory, Abort())
    baseline = read_baseline(Path(frozen / BASELINE).read_bytes())
    found = in_copy(Path(frozen / WORKSPACE), Lower.of(lower), baseline, Abort())

    assert below(frozen / WORKSPACE) == ["new", "repo", "repo/changed", "repo/touched"]
    assert [one.path for one in found.found] == ["new", "repo/changed"]
    assert found.deleted == ["repo/gone"]
    assert (workspace / "repo/same").stat().st_ctime_ns == untouched


@pytest.mark.parametrize("mounted", [False, True])
def test_a_path_that_is_too_long_is_left_out_and_named(tmp_path, mounted):
    source, frozen = tmp_path / "source", tmp_path / "frozen"
    source.mkdir()
    (source / "file").touch()
    at = os.open(source, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=at)
        below_it = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below_it
    os.close(at)

    notes = freezing.link_tree(str(source), frozen, Abort(), at="data" if mounted else "")

    (note,) = notes
    assert note.startswith("Not saved: '/spell/data/ddd" if mounted else "Not saved: '/spell/ddd")
    assert note.endswith("ddd' (its path has more than 4,000 bytes)")
    assert (frozen / "file").exists()
    for path in (source, frozen):
        remove(path)
        assert not path.exists()


def test_what_a_snapshot_cannot_keep_costs_nothing_but_itself(tmp_path):
    source, frozen = tmp_path / "source", tmp_path / "frozen"
    (source / "directory").mkdir(parents=True)
    for name in ("a", "directory/b", "z"):
        (source / name).touch()

    def skip(path, status):
        del status
        if path in {"a", "directory/b"}:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "/a/path/of/the/machine")
        return False

    notes = freezing.link_tree(str(source), frozen, Abort(), skip)

    assert sorted(notes) == [
        f"Not saved: '/spell/{path}' (it cannot be kept for a snapshot: Input/output error)"
        for path in ("a", "directory/b")
    ]
    assert below(frozen) == ["directory", "z"]
