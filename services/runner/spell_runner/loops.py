"""Makes a file a file system and mounts it: ext4 in a sparse image, by a loop device that goes when it is unmounted (shell)."""

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from spell_runner.shim import linux

PROGRAM = "mkfs.ext4"
MAKING_SECONDS_MAX = 120.0
BLOCK_BYTES, INODE_BYTES, GROUP_BLOCKS = 4096, 256, 32768
#: What the kernel keeps of every such file system for itself, at most: a fiftieth of it.
_KEPT_BYTES_MAX, _KEPT_SHARE = 16 << 20, 50
_SLACK_BYTES = 1 << 20
_COPIED_BYTES = 1 << 20

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR = 4
# struct loop_config: descriptor, size of blocks, struct loop_info64 of which only the flags are set, reserved.
_CONFIG = struct.Struct("=II52xI176x64x")
_LOOP_MAJOR = 7
_TRIES = 100
#: Whose group this is gets at what is kept for us, and no command is in it, nor is it this user. (Not all root may: in a
#: container it often has no CAP_SYS_RESOURCE.)
KEEPERS = 0xFFFFFFFE
_OPTIONS = f"noinit_itable,resuid={KEEPERS},resgid={KEEPERS}"


def size_for(bytes_max: int, files: int, kept_bytes: int) -> tuple[int, float]:
    """How large an image must be in which so much can be written, and the percentage of it that makes up `kept_bytes`, for
    ourselves alone. Pure.
    """
    wanted = bytes_max + kept_bytes + files * INODE_BYTES
    wanted += min(_KEPT_BYTES_MAX, wanted // _KEPT_SHARE + BLOCK_BYTES) + _SLACK_BYTES
    groups = wanted // (GROUP_BLOCKS * BLOCK_BYTES) + 2
    # Two bitmaps for each group, and its descriptor, with a few copies of all of those.
    wanted += groups * (2 * BLOCK_BYTES + 64 * 16)
    blocks = -(-wanted // BLOCK_BYTES)
    return blocks * BLOCK_BYTES, min(50.0, 100 * kept_bytes / (blocks * BLOCK_BYTES))


def make(image: str, bytes_max: int, files: int, kept_bytes: int) -> None:
    """Make the file `image` an empty file system, whatever it was; it takes nearly no room on its disk.

    Raises:
        OSError: it cannot be made.
    """
    size, percent = size_for(bytes_max, files, kept_bytes)
    fd = os.open(image, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    argv = [PROGRAM, "-q", "-F", "-b", str(BLOCK_BYTES), "-I", str(INODE_BYTES), "-N", str(files)]
    argv += ["-m", f"{percent:.4f}", "-O", "^has_journal,^resize_inode"]
    argv += ["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", image]
    environ = {"LC_ALL": "C", "PATH": f"/usr/sbin:/sbin:{os.defpath}"}
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environ,
            timeout=MAKING_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"{PROGRAM} did not end") from error
    except FileNotFoundError as error:
        raise OSError(errno.ENOENT, f"{PROGRAM} is not installed (e2fsprogs)") from error
    if done.returncode:
        raise OSError(errno.EIO, f"{PROGRAM} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")


def copy(image: str, to: str) -> None:
    """One more empty file system, in a fraction of the time: of an image only what is no hole is read."""
    source = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(source).st_size
            os.ftruncate(target, size)
            at = 0
            while at < size and (at := _next_data(source, at, size)) < size:
                hole = os.lseek(source, at, os.SEEK_HOLE)
                while at < hole:
                    at += os.pwrite(target, os.pread(source, min(hole - at, _COPIED_BYTES), at), at)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _next_data(fd: int, at: int, size: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def mount(image: str, at: str) -> None:
    """Mount an image on a directory.

    Raises:
        OSError: there is no loop device for it, or it cannot be mounted.
    """
    fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        device, path = _attached(fd)
        try:
            # It is held until it is mounted: whoever lets go of it last frees it, also where we are killed here.
            linux.mount(path, at, "ext4", linux.MS_NOSUID | linux.MS_NODEV, _OPTIONS)
        finally:
            os.close(device)
    finally:
        os.close(fd)


def _attached(fd: int) -> tuple[int, str]:
    """A loop device that shows a file: a descriptor, and its path."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, _CONFIG.pack(fd, BLOCK_BYTES, _AUTOCLEAR))
            except OSError as error:
                os.close(device)
                # Somebody else was quicker.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free")


def shown_at(at: str) -> str | None:
    """The image that is mounted on a directory, as the kernel calls it now; None where none is."""
    with contextlib.suppress(FileNotFoundError):
        number = os.stat(at).st_dev  # noqa: PTH116 -- plain strings
        if os.major(number) == _LOOP_MAJOR:
            told = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/loop/backing_file")
            return told.read_text(errors="surrogateescape").rstrip("\n")
    return None
