"""An attempt's directory survives a death at any line: it is read back as far as it is whole."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from spell_proto.events import CommandStarted, OutputsSaved
from spell_proto.journal import RecordKind, encode, encode_json
from spell_proto.state import Reason
from spell_runner.directory import STEPS, Directory
from spell_runner.notes import Notes
from spell_runner.phases import KILLED, failed
from spell_runner.shim import launch, processes
from support.full_disk import file_size_limit
from support.specs import an_attempt

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = an_attempt(env={"SECRET": "x"})


@pytest.fixture
def directory(tmp_path):
    return Directory.take_on(tmp_path, SPEC, SPEC.model_dump_json().encode(), "boot")


def test_the_intent_record_is_read_back_and_for_our_eyes_only(directory):
    taken = directory.taken()

    assert taken.spec == SPEC
    assert taken.boot_id == "boot"
    assert Path(directory / "intent.json").stat().st_mode & 0o777 == 0o600


def test_an_attempt_is_taken_on_once(directory):
    with pytest.raises(OSError, match="not empty"):
        Directory.take_on(directory.path.parent, SPEC, b"{}", "boot")


def test_a_torn_step_is_dropped_and_the_next_one_follows_the_last_whole_one(directory):
    first, second = CommandStarted(at=NOW), OutputsSaved(at=NOW, manifest=None, files=0, bytes=0)
    directory.note((first,))
    with Path(directory / STEPS).open("ab") as file:
        file.write(b'{"at": "2026-01')

    assert directory.steps() == [first]
    directory.note((second,))
    assert directory.steps() == [first, second]


@pytest.mark.parametrize("verdict", [KILLED, failed(Reason.BUILD_FAILED, "no such package: nunpy")])
def test_a_verdict_is_read_back(directory, verdict):
    assert directory.verdict() is None

    directory.conclude(verdict)

    assert directory.verdict() == verdict


def test_a_verdict_is_no_step_and_one_that_is_torn_is_none(directory):
    first, last = CommandStarted(at=NOW), OutputsSaved(at=NOW, manifest=None, files=0, bytes=0)
    directory.note((first,))
    directory.conclude(KILLED)
    whole = Path(directory / STEPS).read_bytes()
    Path(directory / STEPS).write_bytes(whole[:-1])

    assert directory.verdict() is None
    directory.conclude(KILLED)
    directory.note((last,))
    assert directory.verdict() == KILLED
    assert directory.steps() == [first, last]


def test_a_torn_record_is_cut_off_and_what_is_left_is_counted(directory):
    whole = encode_json(RecordKind.PHASE, 1, phase="running", text="x") + encode(RecordKind.STDOUT, 2, b"abc")
    torn = encode(RecordKind.STDERR, 3, b"defgh")
    for cut in range(1, len(torn)):
        Path(directory / launch.JOURNAL).write_bytes(whole + torn[:cut])

        totals, ended = directory.mend()

        assert Path(directory / launch.JOURNAL).read_bytes() == whole
        assert (totals.stdout_bytes, totals.stderr_bytes, ended) == (3, 0, False)


def test_zeros_that_a_power_cut_leaves_are_cut_off_the_journal(directory):
    whole = encode(RecordKind.STDOUT, 1, b"abc")
    Path(directory / launch.JOURNAL).write_bytes(whole + bytes(3 << 20))

    totals, ended = directory.mend()

    assert Path(directory / launch.JOURNAL).read_bytes() == whole
    assert (totals.stdout_bytes, ended) == (3, False)


@pytest.mark.parametrize("left", [b"", bytes(40), bytes(40) + b"\n"])
def test_a_claim_that_a_power_cut_has_emptied_is_of_a_process_that_is_gone(directory, left):
    Path(directory / launch.CLAIM).write_bytes(left)

    claim = launch.read(directory.path)

    assert (claim.pid, claim.ending) == (-1, None)
    assert not processes.alive(claim.pid, claim.ticks)


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_full_disk_tears_neither_journal_nor_steps(directory, room):
    step, record = CommandStarted(at=NOW), encode(RecordKind.STDOUT, 1, b"x" * 100)
    directory.note((step,))
    directory.append(record)
    sizes = [Path(directory / name).stat().st_size for name in (STEPS, launch.JOURNAL)]

    with file_size_limit(sizes[0] + room), pytest.raises(OSError, match=r"space|large"):
        directory.note((step,))
    with file_size_limit(sizes[1] + room), pytest.raises(OSError, match=r"space|large"):
        directory.append(record)

    assert [Path(directory / name).stat().st_size for name in (STEPS, launch.JOURNAL)] == sizes
    directory.note((step,))
    assert directory.steps() == [step, step]


def test_nothing_is_written_after_the_end_marker(directory):
    rings = []
    notes = Notes(directory, lambda: rings.append(1))
    notes.line("before")
    notes.end(directory.mend()[0])
    size = directory.journal_size()

    notes.line("after")

    assert directory.journal_size() == size
    assert directory.mend()[1] is True
    assert len(rings) == 2


def test_a_claim_is_taken_once(directory):
    assert launch.take(directory.path, 0, 0) is True
    assert launch.take(directory.path, 42, 1) is False
    assert launch.read(directory.path).pid == 0
