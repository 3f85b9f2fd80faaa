"""How large a disk is made, and what lies on it."""

from dataclasses import replace
from pathlib import Path

import pytest

from spell_runner import loops
from spell_runner.directory import DISKS, IMAGE, Directory
from spell_runner.disks import files_for, taken_by
from spell_runner.quotas import Limits
from spell_runner.shim.launch import SCRATCH, SKELETONS, Launch
from spell_runner.shim.room import Disk

TOLD = Launch(
    argv=("true",), env={}, isolation="unshare", overlay=True, lower="/l", cwd="/spell", root="", hidden=(),
    read_only=(), log_bytes_max=0,
)  # fmt: skip


@pytest.mark.parametrize("bytes_max", [4096, 20 << 20, 1 << 30, 100 << 30, 1 << 42])
def test_an_image_has_room_for_what_may_be_written_and_for_what_it_takes_itself(bytes_max):
    files, kept = files_for(Limits(bytes_max)), 4 << 20

    size, percent = loops.size_for(bytes_max, files, kept)

    assert size % loops.BLOCK_BYTES == 0
    assert bytes_max + files * loops.INODE_BYTES + kept < size < 1.15 * bytes_max + (8 << 20)
    assert size * percent / 100 == pytest.approx(kept, rel=0.01) or percent == 50


def test_there_are_a_few_more_files_than_may_be_made():
    assert files_for(Limits(1 << 30, 500)) == 500 + 64 + 32
    assert files_for(Limits(1 << 30, 80_000)) == 80_000 + 10_000 + 32
    assert files_for(Limits(1 << 30)) == (1 << 30) // 4096 + 64
    assert files_for(Limits(1 << 50)) == 1 << 31


def test_copies_take_whole_blocks(tmp_path):
    (tmp_path / "code/a").mkdir(parents=True)
    (tmp_path / "code/a/b").write_bytes(bytes(4097))
    (tmp_path / "code/link").symlink_to("/nowhere")
    (tmp_path / "single").write_bytes(b"x")

    usage = taken_by([tmp_path / "code", tmp_path / "single"])

    assert (usage.files, usage.bytes >= 4 * 4096) == (6, True)


def test_what_a_command_writes_lies_on_its_disk_and_nothing_else_does(tmp_path):
    path = tmp_path / "attempts/7-1"
    path.mkdir(parents=True)
    before = Directory(path)
    (path / IMAGE).touch()
    after = Directory(path)

    on_disk = {part for part in SCRATCH if after / part == f"{tmp_path}/{DISKS}/7-1/{part}"}

    assert all(before / part == f"{path}/{part}" for part in SCRATCH)
    assert on_disk == set(SCRATCH) - {SKELETONS}
    assert after / "mounts/0/upper" == f"{tmp_path}/{DISKS}/7-1/mounts/0/upper"
    assert after / "journal" == f"{path}/journal"
    assert Directory(Path("attempts/7-1")).disk.startswith("/")


def test_a_launch_says_where_its_disk_is():
    told = replace(TOLD, disk=Disk("/disks/7-1", 1, 2, 3))

    assert Launch.decode(told.encode()) == told
    assert (told.part("upper"), TOLD.part("upper")) == ("/disks/7-1/upper", "upper")
