"""What the supervisor does about a disk that is full: the bus is started again once there is room, logs give way."""

import shutil

import pytest

from spell_standalone import supervisor
from spell_standalone.bus_disk import BusDisk
from support.full_disk import file_size_limit

COMPLAINT = b"[ERR] JetStream failed to store a msg: write /d/1.blk: no space left on device\n"


@pytest.fixture
def log(tmp_path):
    made = tmp_path / "logs" / "nats.log"
    made.parent.mkdir()
    made.write_bytes(b"[INF] Server is ready\n")
    return made


def add(log, data):
    with log.open("ab") as file:
        file.write(data)


def test_a_bus_that_has_met_a_full_disk_is_named_once_when_there_is_room(log):
    disk = BusDisk(log)
    before = disk.hurt_and_free()
    add(log, COMPLAINT * 3)

    assert before is False
    assert [disk.hurt_and_free() for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    "line", [b"[INF] no space left on device\n", b"[ERR] JetStream failed to store a msg\n"]
)
def test_what_else_the_bus_says_is_no_full_disk(log, line):
    disk = BusDisk(log)
    add(log, line)

    assert disk.hurt_and_free() is False


def test_a_log_that_was_removed_with_its_directory_is_no_full_disk(log):
    disk = BusDisk(log)
    shutil.rmtree(log.parent)

    assert disk.hurt_and_free() is False


def test_a_large_log_is_dropped_where_the_disk_has_no_room_for_a_copy(log, monkeypatch):
    monkeypatch.setattr(supervisor, "LOG_BYTES_MAX", 1000)
    add(log, b"x" * 5000)

    with file_size_limit(2000):
        supervisor._keep_small(log)

    assert [path.stat().st_size for path in sorted(log.parent.iterdir())] == [0, 0]


def test_a_large_log_is_moved_aside(log, monkeypatch):
    monkeypatch.setattr(supervisor, "LOG_BYTES_MAX", 1000)
    add(log, b"x" * 5000)
    size = log.stat().st_size

    supervisor._keep_small(log)

    assert [path.stat().st_size for path in sorted(log.parent.iterdir())] == [0, size]
