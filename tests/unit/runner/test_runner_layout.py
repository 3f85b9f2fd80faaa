# ruff: noqa: PTH104, PTH115, PTH116, PTH121, PTH123, PTH208 -- names that are bytes, which pathlib does not take
"""A tree is laid out from objects that may be hostile: byte for byte, or refused in a sentence, and never outside."""

import os
import subprocess

import pytest

from spell_runner import git, index, layout
from spell_runner.errors import StoreDamagedError, TreeRefusedError
from spell_runner.layout import checked_parts
from spell_runner.workspace import Abort, AbortedError
from support.shelf import Shelf


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf.git")


@pytest.fixture
def lay(shelf, tmp_path):
    """Lay files, or a tree, out in a new place."""

    def made(what, earlier=None, abort=None):
        place = tmp_path / f"place-{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        tree = what if isinstance(what, str) else shelf.tree(what)
        before = None if earlier is None else (earlier, "repo")
        layout.lay(shelf.path, tree, place, "repo", before, abort or Abort())
        return place

    return made


def status(place, shelf, tree):
    """What git says of a place, as seen with no other knowledge than its index."""
    given = {
        "GIT_DIR": str(shelf.path),
        "GIT_WORK_TREE": str(place / "files/repo"),
        "GIT_INDEX_FILE": str(place / "index"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PATH": os.environ["PATH"],
    }
    minimal = ["git", "-c", "core.checkStat=minimal", "-c", "core.trustctime=false", "-c", "core.bare=false"]
    asked = (
        ("diff-files",),
        ("diff-index", "--cached", tree),
        ("fsck", "--cache", "--no-dangling"),
        ("ls-files", "-s"),
    )
    said = [subprocess.run([*minimal, *words], env=given, capture_output=True, check=True) for words in asked]
    assert [one.stdout for one in said[:3]] == [b"", b"", b""]
    return said[3].stdout


MIXED = {
    "a/deep/er/one.txt": b"one\n",
    "a/deep/two": b"\n" * 300,
    "a/run.sh": ("100755", b"#!/bin/sh\n"),
    "a.b": b"before a/ in git's order\n",
    "b/empty": b"",
    "b/link": ("120000", b"../a/run.sh"),
    "b/outside": ("120000", b"/etc/passwd"),
    b"b/not-utf8-\xff": b"x",
    "b/new\nline": b"newline\n",
    "-rf": b"a leading dash\n",
    "Twin": b"one case\n",
    "twin": b"the other\n",
    "n" * 255: b"as long as a name can be\n",
    "big": b"0123456789" * 500_000,
    "sub": ("160000", b"7" * 40),
}


def test_every_file_is_laid_out_byte_for_byte(lay):
    root = lay(MIXED) / "files/repo"

    for path, what in MIXED.items():
        mode, content = what if isinstance(what, tuple) else ("100644", what)
        place = os.fsencode(root) + b"/" + os.fsencode(path)
        if mode == "120000":
            assert os.readlink(place) == content
        elif mode == "160000":
            assert os.listdir(place) == []
        else:
            with open(place, "rb") as file:
                assert file.read() == content
            assert os.stat(place).st_mode & 0o777 == (0o755 if mode == "100755" else 0o644)


def test_git_takes_the_index_for_its_own_and_finds_nothing_changed(lay, shelf):
    tree = shelf.tree(MIXED)
    place = lay(tree)

    listed = status(place, shelf, tree)

    assert listed.count(b"\n") == len(MIXED)
    assert (place / "index").stat().st_mtime > (place / "files/repo/big").stat().st_mtime + 1


@pytest.mark.parametrize("files", [{}, {"only": b""}, {f"d{n:04}/f": b"%d" % n for n in range(300)}])
def test_an_index_is_read_back_as_it_was_written(lay, shelf, files):
    tree = shelf.tree(files)
    place = lay(tree)
    status(place, shelf, tree)

    entries = list(index.decode((place / "index").read_bytes()))

    assert [entry.path.decode() for entry in entries] == sorted(files)
    assert [entry.size for entry in entries] == [len(files[entry.path.decode()]) for entry in entries]


def test_an_index_that_was_cut_short_is_not_read(lay):
    data = (lay(MIXED) / "index").read_bytes()

    for cut in (0, 10, 100, len(data) - 1):
        with pytest.raises(ValueError, match="not whole"):
            list(index.decode(data[:cut]))


def test_an_empty_directory_in_a_tree_does_no_harm(lay, shelf):
    empty = shelf.raw_tree([])
    tree = shelf.raw_tree([("40000", b"nothing", empty), ("100644", b"some", shelf.put("blob", b"x"))])

    status(lay(tree), shelf, tree)


def test_modes_of_old_histories_are_taken_as_git_takes_them(lay, shelf):
    blob = shelf.put("blob", b"x")
    tree = shelf.raw_tree([("100664", b"a", blob), ("100775", b"b", blob)])
    place = lay(tree)

    status(place, shelf, tree)

    assert [os.stat(place / "files/repo" / name).st_mode & 0o777 for name in "ab"] == [0o644, 0o755]


# ---- files of an earlier tree --------------------------------------------------------------------------------


def test_what_did_not_change_is_the_same_file_as_in_an_earlier_tree(lay, shelf):
    earlier = lay(MIXED)
    changed = {**MIXED, "a/deep/two": b"changed\n", "moved": MIXED["big"]}
    del changed["big"]
    tree = shelf.tree(changed)

    place = lay(tree, earlier)

    status(place, shelf, tree)
    shared = [os.path.samefile(earlier / "files/repo" / a, place / "files/repo" / b) for a, b in
              (("a/run.sh", "a/run.sh"), ("big", "moved"), ("a/deep/two", "a/deep/two"))]  # fmt: skip
    assert shared == [True, True, False]
    assert (earlier / "files/repo/a/deep/two").read_bytes() == b"\n" * 300


def test_no_two_files_of_a_tree_are_one(lay, shelf):
    """What a run sees of its files must not depend on what was laid out before."""
    earlier = lay({"a": b"same", "b": b"same"})

    place = lay({"a": b"same", "b": b"same", "c": b"same", "d": b"same"}, earlier)

    files = [(place / "files/repo" / name) for name in "abcd"]
    assert {file.read_bytes() for file in files} == {b"same"}
    assert len({file.stat().st_ino for file in files}) == 4


@pytest.mark.parametrize("harm", ["time", "size", "mode", "gone", "link", "index", "everything"])
def test_files_that_somebody_has_touched_are_written_anew(lay, shelf, harm):
    earlier = lay({"file": b"content", "other": b"other"})
    file = earlier / "files/repo/file"
    match harm:
        case "time":
            file.write_bytes(b"CONTENT")
        case "size":
            before = file.stat().st_mtime_ns
            file.write_bytes(b"longer content")
            os.utime(file, ns=(before, before))
        case "mode":
            file.chmod(0o755)
        case "gone":
            file.unlink()
        case "link":
            file.unlink()
            file.symlink_to("/etc/passwd")
        case "index":
            (earlier / "index").write_bytes(b"DIRC nonsense")
        case "everything":
            os.rename(earlier, earlier.with_name("gone"))
    tree = shelf.tree({"file": b"content", "new": b"new"})

    place = lay(tree, earlier)

    status(place, shelf, tree)
    assert (place / "files/repo/file").read_bytes() == b"content"
    assert (place / "files/repo/file").stat().st_mode & 0o111 == 0


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [b"", b"/etc/passwd", b"../x", b"a/../../x", b"a/./b", b"a//b", b"a/", b".git/config", b".GIT/hooks/x",
     b"a/.Git/x", b"a\0b", b"x" * 256, b"d/" * 2100 + b"x", b"d/" * 256 + b"x"],
)  # fmt: skip
def test_a_path_that_leads_out_or_that_cannot_be_is_refused(path):
    with pytest.raises(TreeRefusedError):
        checked_parts(path)


def test_a_hostile_tree_is_refused_and_leaves_nothing_outside(lay, shelf, tmp_path):
    blob, way = shelf.put("blob", b"x"), shelf.put("blob", os.fsencode(tmp_path))
    below = shelf.raw_tree([("100644", b"escape", blob)])
    hostile = [
        [("40000", b"..", below)],
        [("40000", b".git", below)],
        [("40000", b".GIT", below)],
        [("100644", b"../escape", blob)],
        [("120000", b"way", way), ("40000", b"way", below)],
        [("40000", b"way", below), ("120000", b"way", way)],
        [("120000", b"way", way), ("100644", b"way", blob)],
        [("100644", b"twice", blob), ("100644", b"twice", blob)],
        [("100644", b"a", blob), ("40000", b"a", below)],
        [("120000", b"empty", shelf.put("blob", b""))],
        [("120000", b"long", shelf.put("blob", b"x" * 5000))],
        [("120000", b"nul", shelf.put("blob", b"a\0b"))],
    ]

    for entries in hostile:
        with pytest.raises(TreeRefusedError):
            lay(shelf.raw_tree(entries))
    assert not list(tmp_path.glob("escape"))


def test_devices_and_pipes_are_nothing_but_empty_directories(lay, shelf):
    """Git itself takes a mode that it does not know for a submodule's."""
    blob = shelf.put("blob", b"x")
    tree = shelf.raw_tree([("60000", b"device", blob), ("10000", b"pipe", blob)])

    place = lay(tree)

    assert [os.listdir(place / "files/repo" / name) for name in ("device", "pipe")] == [[], []]


def test_objects_that_are_not_there_are_told_from_hostile_ones(lay, shelf):
    for entries in (
        [("100644", b"gone", "1" * 40)],
        [("40000", b"gone", "1" * 40)],
        [("100644", b"tree", shelf.raw_tree([]))],
    ):
        with pytest.raises(StoreDamagedError):
            lay(shelf.raw_tree(entries))
    with pytest.raises(StoreDamagedError):
        lay("2" * 40)


def test_a_tree_without_end_is_refused(lay, shelf, monkeypatch):
    """Forty trees of two entries each name 2^40 files."""
    monkeypatch.setattr(git, "LISTING_BYTES_MAX", 1 << 20)
    tree = shelf.tree({"a": b"x"})
    for _ in range(40):
        tree = shelf.raw_tree([("40000", b"a", tree), ("40000", b"b", tree)])

    with pytest.raises(TreeRefusedError, match="more files"):
        lay(tree)


def test_layout_that_is_not_wanted_any_more_ends(lay):
    abort = Abort()
    abort.set()

    with pytest.raises(AbortedError):
        lay(MIXED, abort=abort)


def test_nothing_that_the_code_says_is_done(lay, shelf, tmp_path):
    """Filters, hooks and settings of the code are files like others."""
    files = {
        ".gitattributes": b"* filter=evil text eol=crlf ident export-subst\n",
        ".gitconfig": b'[filter "evil"]\n\tsmudge = touch %b/done\n' % os.fsencode(tmp_path),
        ".lfsconfig": b"[lfs]\n\turl = http://127.0.0.1:9/\n",
        ".gitmodules": b'[submodule "x"]\n\tpath = x\n\turl = ./x\n',
        "hooks/post-checkout": ("100755", b"#!/bin/sh\ntouch %b/done\n" % os.fsencode(tmp_path)),
        "text": b"one\n$Id$ $Format:%H$\n",
    }  # fmt: skip
    root = lay(files) / "files/repo"

    assert (root / "text").read_bytes() == files["text"]
    assert not (tmp_path / "done").exists()
