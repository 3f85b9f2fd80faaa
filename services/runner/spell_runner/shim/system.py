# ruff: noqa: PTH102, PTH112, PTH114, PTH115, PTH208, PTH211 -- this runs in the few milliseconds of a start, where plain system calls are the point
"""Puts a layer of system packages over this machine's own directories, for one command (shell).

Standard library only: this is loaded once by the fork server and then only forked.
"""

import os
import stat
from contextlib import suppress

from spell_runner.shim import linux

#: Where the layer stands in an environment.
LAYER = ".spell-system"
_FLAGS = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV


def put_over(layer: str) -> None:
    """Show the layer over this machine, in the mount namespace of this process."""
    mounts = _mounts()
    for name in sorted(os.listdir(layer)):
        if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}"):
            _put(f"{layer}/{name}", f"/{name}", mounts)


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123
        return [os.fsdecode(line.split()[4]).encode().decode("unicode_escape") for line in file]


def _put(layer: str, target: str, mounts: list[str]) -> None:
    upper, lower = os.open(layer, os.O_PATH | os.O_CLOEXEC), os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        if any(mount.startswith(f"{target}/") for mount in mounts):
            _compose(_fd(upper), _fd(lower), target, mounts)
        else:
            # By descriptor: no path needs escaping.
            options = f"lowerdir={_fd(upper)}:{_fd(lower)},userxattr"
            linux.mount("overlay", target, "overlay", _FLAGS, options)
    finally:
        os.close(upper)
        os.close(lower)


def _compose(upper: str, lower: str, target: str, mounts: list[str]) -> None:
    """A directory with something mounted below it: no overlay may cover that, so each entry is shown by itself."""
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
    for name in sorted({*os.listdir(upper), *os.listdir(lower)}):
        # What this user may not even look at is left out.
        with suppress(PermissionError):
            _show(f"{upper}/{name}", f"{lower}/{name}", f"{target}/{name}", mounts)
    linux.mount(None, target, None, linux.MS_BIND | linux.MS_REMOUNT | _FLAGS)


def _show(upper: str, lower: str, target: str, mounts: list[str]) -> None:
    ours, theirs = _mode(upper), _mode(lower)
    if stat.S_ISCHR(ours):
        return  # what packages have removed
    source, mode = (
        (upper, ours) if ours and not (stat.S_ISDIR(ours) and stat.S_ISDIR(theirs)) else (lower, theirs)
    )
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    if source is lower and ours:
        _put(upper, target, mounts)


def _mode(path: str) -> int:
    with suppress(FileNotFoundError):
        return os.lstat(path).st_mode
    return 0


def _fd(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
