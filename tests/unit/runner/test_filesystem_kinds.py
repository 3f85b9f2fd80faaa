"""On what kind of file system a path is, by the text that the kernel keeps of mounts."""

from pathlib import Path

import pytest

from spell_runner.engines.overlays import filesystem

MOUNTS = """overlay / overlay rw,lowerdir=/a 0 0
/dev/sda1 /data ext4 rw 0 0
proc /proc proc rw 0 0
server:/x /data/far nfs4 rw 0 0
/dev/sdb1 /with\\040space xfs rw 0 0
tmpfs /data/twice tmpfs rw 0 0
/dev/sdc1 /data/twice btrfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "overlay"),
        ("/srv/spell", "overlay"),
        ("/data", "ext4"),
        ("/database", "overlay"),
        ("/data/x/y", "ext4"),
        ("/data/far/x", "nfs4"),
        ("/with space/x", "xfs"),
        ("/data/twice/x", "btrfs"),
    ],
)
def test_the_innermost_mount_counts_and_of_several_the_last(path, kind):
    assert filesystem(Path(path), MOUNTS) == kind


def test_what_is_mounted_nowhere_is_of_no_kind():
    assert filesystem(Path("/x"), "") == ""
