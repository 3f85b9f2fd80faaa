"""The disk of an attempt is made whole or made again, wherever its runner was killed, and nothing is left of it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spell_proto.errors import SettingsError
from spell_runner import loops, workspace
from spell_runner.directory import IMAGE, Directory
from spell_runner.disks import Disks
from spell_runner.quotas import Limits
from spell_runner.shim import linux
from spell_runner.shim.room import used_up
from support import disks as support

pytestmark = pytest.mark.integration
LIMITS = Limits(8 << 20, 100)


@pytest.fixture
def data() -> Iterator[Path]:
    support.need()
    made = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp d"))
    try:
        yield made
    finally:
        support.take_down(made)
        workspace.remove(made)


@pytest.fixture
def disks(data: Path) -> Disks:
    made = Disks(data, LIMITS, "strict")
    made.open()
    return made


def attempt(data: Path, name: str = "1-1") -> Directory:
    (data / "attempts" / name).mkdir()
    return Directory(data / "attempts" / name)


def names(place: str | Path) -> list[str]:
    return [path.name for path in sorted(Path(place).iterdir())]


def nothing(directory: Directory) -> None:
    """Killed before anything was done."""


def half(directory: Directory) -> None:
    Path(directory / IMAGE).write_bytes(b"half")


def made(directory: Directory) -> None:
    loops.make(directory / IMAGE, 1 << 20, 50, 1 << 20)
    Path(directory.disk).mkdir()


def stale(directory: Directory) -> None:
    """Another attempt of this name was there before, and its disk is not taken down yet."""
    made(directory)
    loops.mount(directory / IMAGE, directory.disk)
    (Path(directory.disk) / "foreign").touch()
    Path(directory / IMAGE).unlink()


@pytest.mark.parametrize("leave", [nothing, half, made, stale])
def test_a_disk_that_was_half_made_is_made_again(data, disks, leave):
    leave(attempt(data))
    directory = Directory(data / "attempts/1-1")

    disks.give(directory)

    assert directory.has_disk
    assert (directory / "upper", directory / "steps.jsonl") == (
        f"{data}/disks/1-1/upper",
        f"{data}/attempts/1-1/steps.jsonl",
    )
    assert names(directory.disk) == ["lost+found"]
    assert support.images(data) == [directory / IMAGE]
    about = os.statvfs(directory.disk)
    assert LIMITS.bytes_max <= about.f_bavail * about.f_frsize <= LIMITS.bytes_max + (3 << 20)
    assert about.f_flag & os.ST_NOSUID
    assert about.f_flag & os.ST_NODEV
    assert Path(directory / IMAGE).stat().st_blocks * 512 < 1 << 20, (
        "it takes no room before it is written to"
    )


def test_a_disk_that_is_there_is_taken_up_with_what_is_on_it(data, disks):
    directory = attempt(data)
    disks.give(directory)
    (Path(directory.disk) / "mine").touch()

    again = Directory(data / "attempts/1-1")
    Disks(data, LIMITS).sweep()
    disks.give(again)

    assert names(again.disk) == ["lost+found", "mine"]
    assert len(support.images(data)) == 1


def test_a_disk_goes_when_its_image_has_gone(data, disks):
    directory, kept = attempt(data), attempt(data, "2-1")
    for one in (directory, kept):
        disks.give(one)
    # Somebody holds it, as a process that cannot be killed.
    with (Path(directory.disk) / "held").open("w"):
        shutil.rmtree(data / "attempts/1-1")

        Disks(data).sweep()

        assert names(data / "disks") == ["2-1"]
    assert support.images(data) == [kept / IMAGE]
    disks.close()
    assert names(data / "disks") == ["2-1"], "a run may go on"
    shutil.rmtree(data / "attempts/2-1")
    disks.close()
    assert (support.mounts(data), support.images(data), (data / "disks").exists()) == ([], [], False)


def test_a_disk_that_a_command_has_filled_has_room_for_us_alone(data, disks):
    directory = attempt(data)
    disks.give(directory)
    own = Path(directory.disk) / "own"
    own.mkdir()
    os.chown(own, 1000, 1000)
    disk = disks.of(directory, overlays=0)
    assert used_up(disk) is None
    fill = "dd if=/dev/zero of=big bs=64k; while echo x; do :; done >> more; mkdir dir"
    command = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", fill]
    done = subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=60, check=False)

    assert "cannot create directory" in done.stderr
    assert used_up(disk) == "its disk is full: it may write 8 MiB"
    with linux.in_group(loops.KEEPERS):
        for number in range(100):
            (Path(directory.disk) / f"{number}").mkdir()


def test_where_there_is_room_for_copies_the_limits_are_beside_them(data, disks, tmp_path):
    (tmp_path / "code/a").mkdir(parents=True)
    (tmp_path / "code/a/large").write_bytes(bytes(5_000_000))
    directory = attempt(data)

    disks.give(directory, [tmp_path / "code", tmp_path / "code/a/large"])

    about = os.statvfs(directory.disk)
    assert about.f_bavail * about.f_frsize >= LIMITS.bytes_max + 10_000_000


def test_what_cannot_be_is_said_in_a_sentence(data):
    for limits, problem in (
        (Limits(0, 9), "SPELL_RUN_FILES_MAX needs SPELL_RUN_BYTES_MAX"),
        (Limits(1 << 59), "File too large"),
    ):
        with pytest.raises(SettingsError, match=problem):
            Disks(data, limits, "strict").open()
    watching = Disks(data, LIMITS, "watch")
    watching.open()
    directory = attempt(data)
    watching.give(directory)
    assert not directory.has_disk
