"""Whether the disk of an attempt is used up: asked by the runner meanwhile, by the shim when the command has ended (shell).

Standard library only: this is loaded once by the fork server and then only forked.
"""

import os
from dataclasses import dataclass

from spell_runner.shim import memory

#: A disk with less room than this is full: the kernel may refuse a write whole that could be made in part, and takes up
#: to 2 MiB at once. It has as much beyond what a run may write, so a run that writes all it may has not filled it.
FULL_BYTES = (2 << 20) + (64 << 10)


@dataclass(frozen=True, slots=True)
class Disk:
    """What a run writes lies at `path`, on a file system of its own. It may write `bytes_max` bytes and make `files_max`
    files, 0 is as many as there is room for; `files_before` there were at its start.
    """

    path: str
    bytes_max: int
    files_max: int
    files_before: int


def used_up(disk: Disk, *, frozen: bool = False) -> str | None:
    """A sentence about how the run has used up its disk; None where it has not. While something is `frozen` there, the
    number of files says nothing: directories of ours are among them.
    """
    try:
        about = os.statvfs(disk.path)
    except OSError:
        # Somebody has taken it away: its command hears of that.
        return None
    if about.f_bavail * about.f_frsize < FULL_BYTES:
        return f"its disk is full: it may write {memory.text(disk.bytes_max)}"
    made = about.f_files - about.f_ffree - disk.files_before
    if frozen or not (about.f_ffree == 0 or 0 < disk.files_max < made):
        return None
    may = f", and may make {disk.files_max:,}" if disk.files_max else "; its disk holds no more"
    return f"it has made {made:,} files and directories{may}"
