"""The system calls that Python has no name for: namespaces, mounts, capabilities and prctl (shell).

Standard library only: this is loaded once by the fork server and then only forked.
"""

import contextlib
import ctypes
import errno
import os
import platform
from collections.abc import Iterator

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_SLAVE = 1 << 19
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_FALLOC_FL_KEEP_SIZE = 1
_IN_MODIFY = 2
#: What says that a disk, or a quota on it, is full.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CAPABILITIES_MAX = 64
_CAPABILITY_VERSION_3 = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def set_aside(fd: int, offset: int, length: int) -> None:
    """Keep room on the disk for `length` bytes of a file from `offset` on; the file gets no longer by it.

    Nobody else can take that room. Where the file system cannot do this, nothing is kept and nothing is said.

    Raises:
        OSError: the disk has no such room.
    """
    if _libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        if number in FULL:
            raise OSError(number, os.strerror(number))


def watch_writes(path: str) -> int:
    """A descriptor that becomes readable when the kernel, or anybody, has written to a file."""
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0 or _libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(_IN_MODIFY)) < 0:
        number = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(number, f"inotify: {os.strerror(number)}")
    return fd


@contextlib.contextmanager
def in_group(group: int) -> Iterator[None]:
    """What this thread does with files it does as one of a group; no other thread does."""
    before = _libc.setfsgid(ctypes.c_uint32(group))
    try:
        yield
    finally:
        _libc.setfsgid(ctypes.c_uint32(before))


def prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def set_name(name: str) -> None:
    """What `ps` shows as the command's name: at most 15 bytes."""
    _libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    result = _libc.mount(_text(source), _text(target), _text(kind), ctypes.c_ulong(flags), _text(options))
    _checked(result, f"mount {kind or source or ''} on {target}")


def unmount(target: str) -> None:
    """Take away what is mounted there last, also where somebody still uses it."""
    _checked(_libc.umount2(_text(target), MNT_DETACH), f"umount {target}")


def pivot_root_here() -> None:
    """Make the current directory the root, and let go of the old one."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"pivot_root has no known number on {platform.machine()}")
    _checked(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def unshare_user(flags: int) -> None:
    """A new user namespace, and what else `flags` name, in which this process's user and group are themselves."""
    # Inside, before the maps are written, both would read as nobody.
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def drop_capabilities() -> None:
    """Nothing that is started from here on can have a capability, not even as user 0."""
    for number in range(_CAPABILITIES_MAX):
        if _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
