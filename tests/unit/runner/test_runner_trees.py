"""A code tree is laid out from a stream whose writer may be hostile, and never reaches out of its directory."""

import json
import os

import pytest

from spell_runner.errors import TreeRefusedError
from spell_runner.trees import TreeWriter, checked_parts


def entry(path, content=b"", mode="100644"):
    raw = path if isinstance(path, bytes) else path.encode()
    return json.dumps({"mode": mode, "size": len(content), "path_hex": raw.hex()}).encode() + b"\n" + content


def end(count):
    return json.dumps({"end": count}).encode() + b"\n"


def lay(root, stream, cut=1 << 20):
    writer = TreeWriter(root)
    try:
        for start in range(0, len(stream), cut):
            writer.feed(stream[start : start + cut])
    finally:
        writer.close()
    return writer.complete


@pytest.mark.parametrize("cut", [1, 2, 7, 64, 1 << 20])
def test_a_tree_is_the_same_however_its_stream_is_cut(tmp_path, cut):
    stream = b"".join(
        [
            entry("a/deep/er/one.txt", b"one\n"),
            entry("a/deep/two", b"\n" * 300),
            entry("a/run.sh", b"#!/bin/sh\n", "100755"),
            entry("b/empty", b""),
            entry("b/link", b"../a/run.sh", "120000"),
            entry(b"b/not-utf8-\xff", b"x"),
            entry("c", b"last"),
            end(7),
        ]
    )

    assert lay(tmp_path, stream, cut)

    assert (tmp_path / "a/deep/er/one.txt").read_bytes() == b"one\n"
    assert (tmp_path / "a/deep/two").read_bytes() == b"\n" * 300
    assert os.access(tmp_path / "a/run.sh", os.X_OK)
    assert not os.access(tmp_path / "c", os.X_OK)
    assert (tmp_path / "b/empty").stat().st_size == 0
    assert str((tmp_path / "b/link").readlink()) == "../a/run.sh"
    assert os.fsdecode(b"not-utf8-\xff") in {path.name for path in (tmp_path / "b").iterdir()}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        ".git/config",
        ".GIT/hooks/x",
        "a/.Git/x",
        "a\0b",
    ],
)
def test_a_path_that_leads_out_is_refused(tmp_path, path):
    with pytest.raises(TreeRefusedError):
        lay(tmp_path, entry(path, b"x") + end(1))

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 256, "d/" * 2100 + "x"])
def test_a_name_or_path_no_file_system_takes_is_refused(name):
    with pytest.raises(TreeRefusedError):
        checked_parts(name.encode())


def test_a_link_is_never_written_through(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    for stream in (
        entry("way", str(outside).encode(), "120000") + entry("way/in", b"x") + end(2),
        entry("way", str(outside / "file").encode(), "120000") + entry("way", b"x") + end(2),
    ):
        with pytest.raises(TreeRefusedError):
            lay(root, stream)
        (root / "way").unlink()

    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    "stream",
    [
        entry("a", b"x") + entry("a", b"y") + end(2),
        entry("a", b"x") + entry("a/b", b"y") + end(2),
        entry("a", b"x") + end(2),
        entry("a", b"x") + end(1) + entry("b", b"x"),
        entry("a", b"x", "160000") + end(1),
        entry("a", b"x", "100664") + end(1),
        entry("a", b"", "120000") + end(1),
        entry("a", b"x" * 5000, "120000") + end(1),
        b'{"mode": "100644", "size": -1, "path_hex": "61"}\n',
        b'{"mode": "100644", "size": 1}\n',
        b"[]\n",
        b"not json\n",
        b"x" * 40_000,
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(tmp_path, stream):
    with pytest.raises(TreeRefusedError):
        lay(tmp_path, stream)


def test_a_stream_that_breaks_off_is_not_complete(tmp_path):
    whole = entry("a", b"content") + entry("b", b"more") + end(2)

    assert not any(lay_fresh(tmp_path, whole[:cut]) for cut in range(len(whole)))


def lay_fresh(path, stream):
    root = path / str(len(stream))
    root.mkdir()
    return lay(root, stream)
