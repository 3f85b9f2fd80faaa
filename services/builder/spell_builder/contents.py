"""What an environment consists of, as a list with a digest: what its key must stand for, for ever (I17).

One line for each file and link, in order of path, with what matters to a run: the path, whether it may be executed,
where a link leads, and the digest of the content. Left out or told otherwise is what may differ between two right
builds of one key:

- byte code: it carries the time its source was installed at, and follows from the source;
- what rattler writes for itself in `conda-meta`: it tells paths of its cache;
- what uv writes for itself: `pyvenv.cfg` and the `activate` scripts tell uv's release and absolute paths, `.lock` is
  its lock, `uv_cache.json` tells when a package reached its cache;
- `RECORD`: tells digests of files that have their own line here, and of byte code;
- the lines of a program in `bin/` that find its interpreter: they may hold absolute paths;
- permissions other than to execute: they follow from the umask of the builder, and all writing is forbidden later;
- of system packages all but `usr` and `opt`: the rest is what dpkg notes, and what scripts make on their machine. It
  is no more the same in each build than byte code, but must not change later: see `state`;
- directories: an empty one means nothing to Python that its absence would not.

Everything else is there, also names that are no text, and links wherever they lead; links are not followed.
"""

import hashlib
import json
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass

#: Where system packages over this machine are in an environment. This file also runs alone, in containers of builds.
LAYER = ".spell-system"

_OURS = ".spell-"
_BYTE_CODE = "__pycache__"
#: Of system packages: what their scripts and dpkg write down about themselves.
_OF_THE_MACHINE = frozenset({f"{LAYER}/etc", f"{LAYER}/var"})
_OF_UV_AT_THE_TOP = frozenset({".gitignore", ".lock", "CACHEDIR.TAG", "pyvenv.cfg"})
_OF_UV_IN_BIN = ("activate", "deactivate", "pydoc.bat")
_OF_UV_IN_PACKAGES = frozenset({"_virtualenv.pth", "_virtualenv.py"})
_OF_INSTALLERS = frozenset({"RECORD", "uv_build.json", "uv_cache.json"})
#: uv begins a program that can be moved with a shell line that is a Python string; it ends with this line.
_STRING_ENDS = b"' '''\n"
_HEAD_BYTES_MAX = 4096
_READ_BYTES = 1 << 20

_LINK, _FILE, _PROGRAM = "link", "file", "program"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a link. `content` is the digest of the content, or where the link leads."""

    path: str
    kind: str
    size: int
    content: str

    def line(self) -> str:
        return json.dumps([self.path, self.kind, self.size, self.content], separators=(",", ":")) + "\n"


def contents(root: str) -> bytes:
    """The list of an environment: reads every byte of it, so call it on a thread."""
    return "".join(_read(root, path).line() for path in sorted(_paths(root))).encode()


def digest(listed: bytes) -> str:
    """What the content is known by."""
    return hashlib.sha256(listed).hexdigest()


def state(root: str) -> str:
    """The digest of what the list leaves out of system packages; empty where the environment has none of its own."""
    found = hashlib.sha256()
    if os.path.islink(f"{root}/{LAYER}"):  # noqa: PTH114
        return ""
    parts = [f"{root}/{part}" for part in sorted(_OF_THE_MACHINE) if os.path.isdir(f"{root}/{part}")]  # noqa: PTH112
    for part in parts:
        found.update(contents(part))
    return found.hexdigest() if parts else ""


def differences(root: str, listed: bytes, bytes_max: int) -> tuple[list[str], int]:
    """In what an environment differs from its list, and how many bytes of it were read for that.

    Which files are there, their kind and size are always looked at. Of their content as much as `bytes_max` allows,
    other files each time, so that who asks often has everything read in the end.
    """
    entries = {entry.path: entry for entry in _parsed(listed)}
    there = set(_paths(root))
    problems = [f"{path} is gone" for path in sorted(entries.keys() - there)]
    problems += [f"{path} was added" for path in sorted(there - entries.keys())]
    spent = 0
    left = [entries[path] for path in there & entries.keys()]
    random.shuffle(left)
    for entry in left:
        if spent + entry.size <= bytes_max:
            found = _read(root, entry.path)
            spent += entry.size
        else:
            found = _looked_at(root, entry)
        if found != entry:
            problems.append(f"{entry.path} has changed")
    return problems, spent


def _parsed(listed: bytes) -> Iterator[Entry]:
    for line in listed.splitlines():
        yield Entry(*json.loads(line))


def _paths(root: str) -> Iterator[str]:
    """The paths, relative to the environment, of everything that belongs into the list."""
    for folder, names, files in os.walk(root):
        below = "" if folder == root else folder.removeprefix(root).lstrip("/") + "/"
        # A link to a directory is among the directories, and none of them is entered.
        files += [name for name in names if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
        names[:] = [name for name in names if name != _BYTE_CODE and below + name not in _OF_THE_MACHINE]
        yield from (below + name for name in files if not _left_out(below, name))


def _left_out(below: str, name: str) -> bool:
    if not below:
        return name in _OF_UV_AT_THE_TOP or name.startswith(_OURS)
    if below == "conda-meta/":
        return name == "history" or name.endswith(".json")
    if below == "bin/":
        return name.startswith(_OF_UV_IN_BIN)
    if below.endswith(".dist-info/"):
        return name in _OF_INSTALLERS
    return below.endswith("/site-packages/") and name in _OF_UV_IN_PACKAGES


def _read(root: str, path: str) -> Entry:
    full = f"{root}/{path}"
    shape = os.lstat(full)
    if stat.S_ISLNK(shape.st_mode):
        return _link(full, path)
    kind = _kind(shape)
    if kind not in {_FILE, _PROGRAM}:
        # A pipe or a device in a package: there is nothing to read, and reading would wait for ever.
        return Entry(path, kind, 0, "")
    hashing, size = hashlib.sha256(), shape.st_size
    with open(full, "rb") as file:  # noqa: PTH123 -- tens of thousands of files
        if path.startswith("bin/"):
            head = file.read(_HEAD_BYTES_MAX)
            rest = _without_interpreter(head)
            size -= len(head) - len(rest)
            hashing.update(rest)
        while data := file.read(_READ_BYTES):
            hashing.update(data)
    return Entry(path, kind, size, hashing.hexdigest())


def _looked_at(root: str, entry: Entry) -> Entry:
    """What can be told of a file without reading it; the size of a program in `bin/` cannot."""
    full = f"{root}/{entry.path}"
    shape = os.lstat(full)
    if stat.S_ISLNK(shape.st_mode):
        return _link(full, entry.path)
    size = entry.size if entry.path.startswith("bin/") else shape.st_size
    return Entry(entry.path, _kind(shape), size, entry.content)


def _link(full: str, path: str) -> Entry:
    return Entry(path, _LINK, 0, os.readlink(full))  # noqa: PTH115


def _kind(shape: os.stat_result) -> str:
    if not stat.S_ISREG(shape.st_mode):
        return f"{stat.S_IFMT(shape.st_mode):o}"
    return _PROGRAM if shape.st_mode & stat.S_IXUSR else _FILE


def _without_interpreter(head: bytes) -> bytes:
    if not head.startswith(b"#!"):
        return head
    first, _, rest = head.partition(b"\n")
    if first == b"#!/bin/sh" and rest.startswith(b"'''exec'"):
        return rest.partition(_STRING_ENDS)[2]
    return rest
