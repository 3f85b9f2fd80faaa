"""Directories of this machine with a layer over them, and a system that is made of these: words for a shell. Pure.

The layer of an environment holds what was changed below each of the machine's own directories, as overlayfs writes it.
Paths are given to mount relative to a directory: in its options, a colon or a comma in a path would mean something.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from spell_builder import contents
from spell_proto.apt import DIRECTORIES

#: Where the layer stands in an environment.
LAYER = contents.LAYER
#: What nobody needs afterwards. That of the machine may have files that only root may lock.
SCRATCH = ("var/cache/apt", "var/cache/ldconfig", "var/log", "var/tmp")
#: These are not the machine's in a system that packages are installed in.
_OWN = frozenset({"dev", "proc", "run", "tmp"})
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the root directory of the machine. `link` is where a symbolic link leads."""

    name: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The root directory, the directories that get a layer, and what is mounted below these.

    `places` are the directories over which an overlay is mounted: all parts, or, for one who may not look behind what is
    mounted below a part, the largest directories in it without such mounts.
    """

    entries: tuple[Entry, ...]
    parts: tuple[str, ...]
    places: tuple[str, ...]
    mounts: tuple[str, ...]
    bubblewrap: str
    #: Words that give a mount namespace of one's own in which overlays can be mounted.
    namespace: tuple[str, ...]


def parts_of(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The directories that packages change."""
    return tuple(entry.name for entry in entries if entry.name in DIRECTORIES and not entry.link)


def mounts_below(parts: Sequence[str], mountinfo: str) -> tuple[str, ...]:
    """What is mounted below some directories, outer ones first: an overlay does not show it."""
    found = {
        line.split()[4].encode().decode("unicode_escape") for line in mountinfo.splitlines() if line.strip()
    }
    below = [path for path in found if any(path.startswith(f"/{part}/") for part in parts)]
    return tuple(sorted(below, key=lambda path: (path.count("/"), path)))


def stands_below(parts: Sequence[str], path: str) -> str | None:
    """The directory among them that a path is below: a layer there could not be put over it."""
    top = PurePosixPath(path).parts[1:2]
    return f"/{top[0]}" if top and top[0] in parts else None


#: The script comes on stdin, whole: it may be longer than an argument, and what it starts may not read of it.
_SCRIPT = 'script=$(cat); exec </dev/null; eval "$script"'


def changing(
    machine: Machine, room: str, *, readable: Sequence[str] = (), writable: Sequence[str] = ()
) -> list[str]:
    """The command that runs the script on its stdin as root of this machine with what it changes kept in `room`: in its
    directory `upper`, with `work` and `mounted` beside it; what is below `SCRATCH` in `scratch`. Else only `writable`
    paths can be written. `readable` are seen even where they are below /tmp.
    """
    # Volatile: to unmount would otherwise write out the whole disk. What is kept is written out when it is whole.
    mounts = [
        f"mount -t overlay -o {shlex.quote(f'lowerdir=/{place},upperdir=upper/{place},workdir=work/{place}')},userxattr,volatile "
        f"overlay {shlex.quote(f'mounted/{place}')}"
        for place in machine.places
    ]
    words = [machine.bubblewrap, "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--cap-add", "ALL"]
    for entry in machine.entries:
        path = f"/{entry.name}"
        if entry.name in machine.parts:
            words += ["--bind", f"{room}/upper/{entry.name}", path]
        elif entry.link:
            words += ["--symlink", entry.link, path]
        elif entry.name not in _OWN:
            words += ["--ro-bind", path, path]
    for place in machine.places:
        words += ["--bind", f"{room}/mounted/{place}", f"/{place}"]
    words += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run"]  # noqa: S108 -- its own
    for path in machine.mounts:
        words += ["--ro-bind-try", path, path]
    for place in SCRATCH:
        words += ["--bind", f"{room}/scratch/{place}", f"/{place}"]
    # Where names are looked up is often told by a file below /run.
    words += ["--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve"]
    for path in readable:
        words += ["--ro-bind", path, path]
    for path in writable:
        words += ["--bind", path, path]
    words += ["--clearenv", "--setenv", "PATH", _PATH, "--setenv", "HOME", "/tmp", "--chdir", "/"]  # noqa: S108
    return _entered(machine, room, mounts, [*words, "--", "/bin/sh", "-c", _SCRIPT])


def showing(machine: Machine, layer: str, room: str, command: Sequence[str]) -> list[str]:
    """The command that runs another one, which sees the machine with a layer over it; `room` has `mounted`. Only what
    is in one of the machine's places is seen.
    """
    mounts = [
        f"mount -t overlay -o ro,{shlex.quote(f'lowerdir={place}:/{place}')},userxattr "
        f"overlay {shlex.quote(f'{room}/mounted/{place}')}"
        for place in machine.places
    ]
    words = [machine.bubblewrap, "--die-with-parent", "--cap-add", "ALL"]
    for entry in machine.entries:
        path = f"/{entry.name}"
        if entry.link:
            words += ["--symlink", entry.link, path]
        else:
            words += ["--dev-bind", path, path]
    for place in machine.places:
        words += ["--ro-bind", f"{room}/mounted/{place}", f"/{place}"]
    for path in machine.mounts:
        words += ["--dev-bind-try", path, path]
    return _entered(machine, layer, mounts, [*words, "--chdir", "/", "--", *command])


def _entered(machine: Machine, where: str, mounts: Sequence[str], command: Sequence[str]) -> list[str]:
    script = "".join(f"{line}\n" for line in ("set -e", *mounts, f"exec {shlex.join(command)}"))
    return [*machine.namespace, "/bin/sh", "-c", f"cd {shlex.quote(where)}\n{script}"]
