"""Paths of saved files: what is refused, what is listed, where links lead."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_gateway.resources import Tree, digest_of, digest_of_snapshot, disposition
from spell_proto import resources
from spell_proto.errors import ConflictError, InvalidError, NotFoundError
from spell_proto.state import Intent, RunState
from spell_proto.views import Manifest, ManifestEntry, RunView, SnapshotView
from support.specs import a_run

AT = datetime(2026, 1, 2, tzinfo=UTC)


def entry(path, link=None):
    return ManifestEntry(path=path, size=3, sha256="0" * 64, mode=0o644, modified_at=AT, link=link)


def tree(*paths, **links):
    entries = [*(entry(path) for path in paths), *(entry(path, link) for path, link in links.items())]
    return Tree(Manifest(entries=tuple(entries)))


def run(state, manifest=None):
    return RunView(
        id=12,
        owner_id=1,
        creator="ada",
        state=state,
        intent=Intent.RUN,
        reason=None,
        message=None,
        version=1,
        attempt=1,
        machine_id=None,
        machine_reachable=False,
        spec=a_run(),
        labels=(),
        exit_code=None,
        created_at=AT,
        started_at=None,
        ended_at=None,
        run_seconds=None,
        manifest=manifest,
        saved_files=None,
        saved_bytes=None,
        log=None,
    )


@pytest.mark.parametrize(
    "path",
    [
        "runs/7/..",
        "runs/../7",
        "runs//7",
        "/runs/7",
        "runs/./7",
        "runs/7/a\0b",
        "runs/7/" + "x" * 4096,
        "runs/7/\ud800",
    ],
)
def test_a_path_that_goes_elsewhere_is_refused(path):
    with pytest.raises(InvalidError) as refused:
        resources.parse(path)

    assert refused.value.code == "path_invalid"
    assert refused.value.field == "path"


def test_a_name_may_hold_a_backslash():
    assert resources.parse("runs/7/a\\b") == resources.RunFiles(7, None, "a\\b")


@given(st.text())
def test_no_path_is_too_strange_to_be_judged(path):
    with contextlib.suppress(InvalidError):
        resources.parse(path)


def test_directories_are_implied_by_the_files_below_them():
    files = tree("a-b", "a/x", "a/y/z", "a0", "b")

    top = files.listing("", recursive=False)
    below = files.listing("a", recursive=True)

    assert [(item.path, item.size) for item in top] == [("a", None), ("a-b", 3), ("a0", 3), ("b", 3)]
    assert [item.path for item in below] == ["x", "y/z"]
    assert [item.path for item in files.listing("a/y/z", recursive=False)] == ["z"]
    assert files.listing("a/", recursive=False) is None
    assert files.listing("nothing", recursive=False) is None


def test_links_are_no_files_wherever_files_are_counted():
    files = tree("a", "d/b", link="a")

    assert [(item.path, item.files, item.bytes) for item in files.usage("")] == [
        ("a", 1, 3),
        ("d", 1, 3),
        ("link", 0, 0),
    ]
    assert [(item.path, item.files, item.bytes) for item in files.usage("link")] == [("link", 0, 0)]


def test_a_link_leads_to_a_file_inside_or_nowhere():
    files = tree(
        "d/a", **{"d/b": "a", "d/c": "../d/b", "out": "/etc/shadow", "up": "../../x", "loop": "loop"}
    )

    assert files.file("d/c").path == "d/a"
    assert [files.file(path) for path in ("out", "up", "loop")] == [None, None, None]


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (RunState.RUNNING, ConflictError, "run 12 is running"),
        (RunState.SAVING, ConflictError, "run 12 is saving"),
        (RunState.KILLED, NotFoundError, "run 12 was killed; no outputs"),
        (RunState.FAILED, NotFoundError, "run 12 failed; no outputs"),
        (RunState.INTERRUPTED, NotFoundError, "run 12 was interrupted; no outputs"),
    ],
)
def test_a_run_without_files_says_why(state, error, text):
    with pytest.raises(error, match=text):
        digest_of(run(state))


def test_a_listing_marks_what_was_written_to_while_it_was_saved():
    flagged = entry("big").model_copy(update={"changed": True})

    found = Tree(Manifest(entries=(flagged, entry("calm")))).listing("", recursive=False)

    assert [(one.path, one.changed) for one in found] == [("big", True), ("calm", False)]


def test_a_run_that_saved_nothing_has_an_empty_listing_and_a_failed_one_may_have_files():
    assert digest_of(run(RunState.COMPLETE)) is None
    assert digest_of(run(RunState.FAILED, "ab")) == "ab"


def test_an_interrupted_run_has_what_it_could_save_however_little_that_was():
    assert digest_of(run(RunState.INTERRUPTED, "ab")) == "ab"
    assert digest_of(run(RunState.INTERRUPTED).model_copy(update={"saved_files": 0})) is None


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_no_file_name_breaks_out_of_its_header(name):
    header = disposition(name)

    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    assert header.count(";") == 2


def test_a_snapshot_is_there_whatever_became_of_its_run():
    taken = SnapshotView(number=2, asked=1, manifest="b" * 64, files=1, bytes=1, at=AT)
    for state in RunState:
        kept = run(state).model_copy(update={"snapshots": (taken,)})

        assert digest_of_snapshot(kept, 2) == "b" * 64
        with pytest.raises(NotFoundError, match="runs/12@1"):
            digest_of_snapshot(kept, 1)


def test_where_there_are_no_files_one_is_told_of_snapshots():
    taken = tuple(
        SnapshotView(number=number, asked=1, manifest="b" * 64, files=1, bytes=1, at=AT) for number in (1, 2)
    )
    with pytest.raises(ConflictError) as running:
        digest_of(run(RunState.RUNNING))
    with pytest.raises(NotFoundError) as killed:
        digest_of(run(RunState.KILLED).model_copy(update={"snapshots": taken}))

    assert running.value.hint == "`spell save 12` saves what it has made so far, as runs/12@1"
    assert killed.value.hint == "its last snapshot is runs/12@2"


def test_a_snapshot_of_an_archived_run_is_gone():
    taken = SnapshotView(number=1, asked=1, manifest="b" * 64, files=1, bytes=1, at=AT)
    archived = run(RunState.KILLED).model_copy(update={"snapshots": (taken,), "archived_at": AT})

    with pytest.raises(NotFoundError, match="run 12 was archived"):
        digest_of_snapshot(archived, 1)
