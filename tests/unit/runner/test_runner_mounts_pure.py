"""What resources hold and how mounts become layers: names, paths that are refused, skeletons."""

import os
import time
from pathlib import Path

import pytest

from spell_runner.errors import TreeRefusedError
from spell_runner.lower import Lower, Part
from spell_runner.mounts.content import Item, amount, checked, key_of
from spell_runner.mounts.copied import into_workspace
from spell_runner.mounts.layers import Mounted, Skeleton, inside, layers, skeletons
from spell_runner.shim.launch import Launch, Layer
from spell_runner.workspace import Abort


def item(path: str, **given) -> Item:
    return Item(**{"path": path, "size": 1, "mode": 0o644, "mtime_ns": 7, "identity": "abc"} | given)


def test_a_file_has_another_name_for_another_mode_or_time():
    names = {item("a").name, item("b").name, item("a", mode=0o755).name, item("a", mtime_ns=8).name}

    assert names == {"abc.644.7", "abc.755.7", "abc.644.8"}


def test_no_file_is_kept_with_rights_that_a_mode_must_not_give_or_take():
    assert item("a", mode=0o6755).name == "abc.755.7"
    assert item("a", mode=0).name == "abc.400.7"


@pytest.mark.parametrize(
    "paths",
    [
        ["../a"],
        ["a/../b"],
        ["/a"],
        ["a//b"],
        ["a/./b"],
        [""],
        ["a\0b"],
        ["x" * 256],
        ["a", "a"],
        ["a", "a/b"],
    ],
)
def test_what_would_not_stay_in_its_directory_is_refused(paths):
    with pytest.raises(TreeRefusedError):
        checked([item(path) for path in paths])


def test_a_link_is_no_way_out_for_what_comes_after_it():
    with pytest.raises(TreeRefusedError):
        checked([item("a/b"), item("a", link="/etc")])


@pytest.mark.parametrize("name", ["x" * 255, "a\nb", "caf\u00e9", "cafe\u0301", " ", "-rf", "*"])
def test_odd_names_are_names(name):
    assert checked([item(name)])[0].path == name


def test_parts_of_a_key_are_apart():
    assert key_of("ab", "c") != key_of("a", "bc")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (999_960_000, "1.0 GB"),
        (3.4e9, "3.4 GB"),
    ],
)
def test_amounts_are_read_by_people(count, text):
    assert amount(int(count)) == text


MOUNTED = (
    Mounted("/spell/repo/sets/a", "/t/1/files", is_file=False),
    Mounted("/mnt/m.bin", "/t/2/files/file", is_file=True),
    Mounted("/mnt/x/y", "/t/3/files", is_file=False),
    Mounted("/spell/repo/m.bin", "/t/2/files/file", is_file=True),
)


def test_what_is_mounted_on_has_to_be_there_first():
    assert skeletons(MOUNTED) == (
        Skeleton("/spell", ("repo", "repo/sets", "repo/sets/a"), (("repo/m.bin", "/t/2/files/file"),)),
        Skeleton("/mnt", ("x", "x/y"), (("m.bin", "/t/2/files/file"),)),
    )


def test_what_the_platform_shows_below_a_root_has_its_place_there_where_that_is_the_runs_own():
    (spell, mnt) = skeletons(MOUNTED, ("/mnt/spell/env", "/data/other", "/usr/lib"))

    assert spell.directories == ("repo", "repo/sets", "repo/sets/a")
    assert mnt.directories == ("spell", "spell/env", "x", "x/y")


def test_a_root_of_its_own_comes_before_what_is_mounted_in_it():
    assert layers(MOUNTED, "/at/7-1") == (
        Layer("/mnt", "/at/7-1/skeletons/mnt", "mounts/mnt"),
        Layer("/mnt/x/y", "/t/3/files", "mounts/0"),
        Layer("/spell/repo/sets/a", "/t/1/files", "mounts/1"),
    )
    assert [layer.is_root for layer in layers(MOUNTED, "/at/7-1")] == [True, False, False]


def test_only_what_is_below_the_workspace_is_saved():
    assert [one.target for one in inside(MOUNTED)] == ["/spell/repo/sets/a", "/spell/repo/m.bin"]


def test_a_launch_keeps_its_layers():
    told = Launch(
        argv=("true",), env={}, isolation="unshare", overlay=True, lower="/l", cwd="/spell", root="", hidden=(),
        read_only=(), log_bytes_max=0, files="skeletons/spell", layers=layers(MOUNTED, "/at/7-1"),
    )  # fmt: skip

    assert Launch.decode(told.encode()) == told


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def same(lower, path, place):
    return os.path.samestat(lower.status(path), place.lstat())


def test_what_a_mount_hides_is_not_what_was_there(tmp_path):
    code = tree(tmp_path / "code", "repo/data/hidden", "repo/kept", "repo/m.bin")
    mounted = tree(tmp_path / "mounted", "seen")
    file = tree(tmp_path / "file", "m.bin") / "m.bin"
    lower = Lower([Part(mounted, "repo/data", alone=True), Part(file, "repo/m.bin", alone=True), Part(code)])

    assert lower.status("repo/data/hidden") is None
    assert same(lower, "repo/data/seen", mounted / "seen")
    assert same(lower, "repo/m.bin", file)
    assert same(lower, "repo/kept", code / "repo/kept")
    assert lower.files("repo/data", Abort()) == ["repo/data/seen"]
    assert lower.files("repo/m.bin", Abort()) == ["repo/m.bin"]
    assert lower.files("repo/nothing", Abort()) == []


def test_directories_of_two_layers_are_one(tmp_path):
    upper, code = tree(tmp_path / "upper", "in/a", "in/b"), tree(tmp_path / "code", "in/b", "in/c", "a-file")
    lower = Lower.of(upper, code)

    assert sorted(lower.files("in", Abort())) == ["in/a", "in/b", "in/c"]
    assert same(lower, "in/b", upper / "in/b")


def test_a_file_below_a_directory_was_never_seen(tmp_path):
    lower = Lower.of(tree(tmp_path / "upper", "in/a"), tree(tmp_path / "code", "in"))

    assert lower.files("in", Abort()) == ["in/a"]


def test_a_copy_follows_no_link_of_the_code_and_hides_what_is_in_its_way(tmp_path):
    elsewhere, code = tmp_path / "elsewhere", tmp_path / "workspace"
    (elsewhere / "d").mkdir(parents=True)
    (code / "repo").mkdir(parents=True)
    (code / "repo/away").symlink_to(elsewhere)
    (code / "repo/file").write_text("in the way")
    (code / "repo/old").symlink_to(elsewhere / "d")
    source = tree(tmp_path / "source", "a")
    mounted = [
        Mounted("/spell/repo/away/d", str(source), is_file=False),
        Mounted("/spell/repo/file/b", str(source / "a"), is_file=True),
        Mounted("/spell/repo/old", str(source), is_file=False),
    ]
    baseline = {"repo/away": [0], "repo/file": [1], "repo/old": [2], "repo/kept": [3]}

    into_workspace(mounted, code, baseline, Abort(), None)

    assert not list((elsewhere / "d").iterdir())
    assert (code / "repo/away/d/a").read_text() == (code / "repo/file/b").read_text() == "a"
    assert not (code / "repo/old").is_symlink()
    assert sorted(baseline) == ["repo/away/d/a", "repo/file/b", "repo/kept", "repo/old/a"]


def test_many_deep_paths_are_checked_in_no_time():
    deep = "/".join(["d"] * 2_000)
    items = [Item(f"{deep}/{number}", 0, 0o644, 0) for number in range(500)]

    began = time.monotonic()
    checked(items)

    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a", "a!", "a/b"), ("a/b/c", "a/b"), ("x", "x")])
def test_a_file_is_no_directory(paths):
    with pytest.raises(TreeRefusedError, match="a file and a directory, or two files"):
        checked([Item(path, 0, 0o644, 0) for path in paths])
