"""Disks that are full: a small one of one's own, in a mount namespace in which a directory is a file system of a
given size; and a limit to what this process may write, which is how a full disk looks to it.
"""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[list[str]]:
    """The words that, before a command, run it where `directory` is a disk of that size. Skips where that is forbidden."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("no disk of one's own here: it takes root, unshare and nsenter")
    script = f'mount -t tmpfs -o size={megabytes}m tmpfs "$0" && echo ready && exec sleep 600'
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.skip(f"no disk of one's own here: {holder.stderr.read().decode().strip()}")
        # The directory is entered in there: one that nsenter opened would be the one below the disk.
        enter = ["nsenter", f"--target={holder.pid}", "--mount", "--"]
        yield [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(directory)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        holder.communicate()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As on a disk that is full: a write beyond `size` bytes of a file is cut short, the next one is refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
