"""Lays a tree out from the objects of a store; no entry can reach out of its directory, and nothing is run (shell).

Theory of operation
-------------------
A place holds `files`, the lower layer of a run's workspace, and `index`, which tells git that nothing in it has
changed. Below `files` stand the repository's directory and an empty `.git`, over which the repository itself is
bound. Files are written as the objects are: no filter, attribute, hook or setting has a say.

Where another tree of the same repository is laid out already, a file of the same content and mode becomes a hard
link to that one. This is safe because no layer is ever written to after it was laid: a run writes to the layer above
it, or has a copy. Somebody who gets around that (a run without any isolation is the same user as we are) changes the
size or the time of a file, and what is not as its index says is not linked to. A link keeps the time of its file, so
it fits the index as well as a fresh one.
"""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

from spell_runner import git, index
from spell_runner.errors import TreeRefusedError
from spell_runner.workspace import Abort

FILES, INDEX, REPOSITORY = "files", "index", ".git"
LINK_BYTES_MAX = 4095
PATH_BYTES_MAX = 4096
NAME_BYTES_MAX = 255
#: Each level is a descriptor while a tree is laid out.
PARTS_MAX = 256
#: Files are this much older than their layer, and their index is younger than all of them: git takes what was changed
#: in the second in which it looked for unknown, and reads it again each time.
AGE_SECONDS = 2
_BAD = frozenset({b"", b".", b".."})
# What of a file's mode must be as git has it, whatever umask it was made with.
_TOLD = 0o170500
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: Path, size and time of a file that is laid out already.
_Known = tuple[bytes, int, int]
#: Object and mode -> the files that are laid out already. Each is linked to once, so that no two files of one layer
#: are the same.
_Laid = dict[tuple[bytes, int], list[_Known]]


def lay(
    store: Path, tree: str, place: Path, root_directory: str, earlier: tuple[Path, str] | None, abort: Abort
) -> None:
    """Fill the empty directory `place`. `earlier` is a place and root directory of the same repository.

    Raises:
        TreeRefusedError: an entry is nothing that a tree may hold.
        StoreDamagedError: an object is not there.
        AbortedError: it is not wanted any more.
    """
    root = place / FILES / root_directory
    root.mkdir(parents=True, mode=0o755)
    (place / FILES / REPOSITORY).mkdir(mode=0o755)
    listed = git.listing(store, tree)
    entries = [entry for entry in listed if entry.kind != "tree"]
    laid: _Laid = {}
    from_root = b""
    if earlier is not None:
        from_root = os.fsencode(earlier[0] / FILES / earlier[1]) + b"/"
        laid = _laid(earlier[0] / INDEX)
    with closing(_Lower(root, int(time.time()) - AGE_SECONDS)) as lower:
        found = lower.fill(store, entries, laid, from_root, abort)
    directories = [(entry.path, bytes.fromhex(entry.name)) for entry in listed if entry.kind == "tree"]
    path = place / INDEX
    path.write_bytes(index.encode(found, directories, bytes.fromhex(tree)))
    newest = max([time.time(), *(entry.mtime + AGE_SECONDS for entry in found)])
    os.utime(path, (newest, newest))


def _laid(path: Path) -> _Laid:
    laid: _Laid = {}
    # It may just have been evicted: then everything is written anew.
    with suppress(OSError, ValueError):
        for entry in index.decode(path.read_bytes()):
            if entry.mode in {index.FILE, index.EXECUTABLE}:
                known = (entry.path, entry.size, entry.mtime)
                laid.setdefault((entry.name, entry.mode), []).append(known)
    return laid


class _Lower:
    """The files of a layer under way."""

    def __init__(self, root: Path, mtime: int) -> None:
        self._writer = TreeWriter(root, mtime)
        self._mtime = mtime

    def close(self) -> None:
        self._writer.close()

    def fill(
        self, store: Path, entries: Sequence[git.Entry], laid: _Laid, from_root: bytes, abort: Abort
    ) -> list[index.Entry]:
        """Write all entries; the ones of the index."""
        found: dict[bytes, index.Entry] = {}
        missing: list[tuple[git.Entry, int]] = []
        for entry in entries:
            abort.check()
            mode, name = canonical_mode(entry.mode, entry.kind), bytes.fromhex(entry.name)
            known = laid.get((name, mode))
            if mode == index.SUBMODULE:
                self._writer.directory(entry.path)
                found[entry.path] = index.Entry(entry.path, mode, name, 0, 0)
            elif known and self._writer.hard_link(entry.path, from_root, known[-1], mode):
                found[entry.path] = index.Entry(entry.path, mode, name, *known.pop()[1:])
            else:
                missing.append((entry, mode))
        if missing:
            for entry, mode, size in self._written(store, missing, abort):
                name = bytes.fromhex(entry.name)
                found[entry.path] = index.Entry(entry.path, mode, name, size, self._mtime)
        return [found[entry.path] for entry in entries]

    def _written(
        self, store: Path, entries: Sequence[tuple[git.Entry, int]], abort: Abort
    ) -> Iterator[tuple[git.Entry, int, int]]:
        with git.contents(store, [entry.name for entry, _ in entries]) as contents:
            for entry, mode in entries:
                abort.check()
                size = contents.next(entry.name)
                if mode == index.LINK:
                    if not 0 < size <= LINK_BYTES_MAX:
                        raise TreeRefusedError(f"a link to {size} bytes: {entry.path[:200]!r}")
                    self._writer.link(entry.path, b"".join(iter(contents.read, b"")))
                else:
                    chunks = _until(abort, contents)
                    self._writer.file(entry.path, chunks, executable=mode == index.EXECUTABLE)
                yield entry, mode, size


def _until(abort: Abort, contents: git.Contents) -> Iterator[bytes]:
    while data := contents.read():
        abort.check()
        yield data


@cache
def canonical_mode(mode: str, kind: str) -> int:
    """What git makes of a mode; old histories hold others than it writes now.

    Raises:
        TreeRefusedError: it is that of no file, link or submodule.
    """
    bits = int(mode, 8)
    if stat.S_IFMT(bits) == stat.S_IFREG and kind == "blob":
        return index.EXECUTABLE if bits & 0o100 else index.FILE
    if (bits, kind) in {(index.LINK, "blob"), (index.SUBMODULE, "commit")}:
        return bits
    raise TreeRefusedError(f"a {kind} of mode {mode}")


class TreeWriter:
    """Writes entries below `root`, through descriptors of directories it has made itself."""

    def __init__(self, root: Path, mtime: int) -> None:
        self._parts: list[bytes] = []
        self._prefix = b""
        self._directories = [os.open(root, _DIRECTORY)]
        self._times = (mtime * 10**9, mtime * 10**9)

    def close(self) -> None:
        for fd in self._directories:
            os.close(fd)
        self._directories = []

    def file(self, path: bytes, chunks: Iterator[bytes], *, executable: bool) -> None:
        """A new file with the content of `chunks`."""
        directory, name = self._enter(path)
        try:
            fd = os.open(name, _NEW_FILE, 0o755 if executable else 0o644, dir_fd=directory)
        except FileExistsError:
            raise _twice(path) from None
        try:
            for chunk in chunks:
                left = memoryview(chunk)
                while left:
                    left = left[os.write(fd, left) :]
            os.utime(fd, ns=self._times)
        finally:
            os.close(fd)

    def link(self, path: bytes, target: bytes) -> None:
        """A new symbolic link, wherever it leads."""
        if b"\0" in target:
            raise TreeRefusedError(f"a link to a path that cannot be: {path[:200]!r}")
        directory, name = self._enter(path)
        try:
            os.symlink(target, name, dir_fd=directory)
        except FileExistsError:
            raise _twice(path) from None
        os.utime(name, ns=self._times, dir_fd=directory, follow_symlinks=False)

    def directory(self, path: bytes) -> None:
        """An empty directory, as a submodule leaves it that is not checked out."""
        directory, name = self._enter(path)
        try:
            os.mkdir(name, 0o755, dir_fd=directory)
        except FileExistsError:
            raise _twice(path) from None

    def hard_link(self, path: bytes, from_root: bytes, known: _Known, mode: int) -> bool:
        """A file below another root once more; False where it is not any more what it was."""
        source, size, mtime = known
        directory, name = self._enter(path)
        try:
            os.link(from_root + source, name, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            raise _twice(path) from None
        except OSError:
            # It is gone, or has as many links as can be.
            return False
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        whole = status.st_mtime_ns == mtime * 10**9 and status.st_size == size
        wanted = stat.S_IFREG | 0o500 if mode == index.EXECUTABLE else stat.S_IFREG | 0o400
        if whole and status.st_mode & _TOLD == wanted:
            return True
        os.unlink(name, dir_fd=directory)
        return False

    def _enter(self, path: bytes) -> tuple[int, bytes]:
        """The directory of the next entry, made where it is missing. Entries come sorted, so most steps are short."""
        name = path[len(self._prefix) :]
        if path.startswith(self._prefix) and b"/" not in name:
            return self._directories[-1], _checked_part(name, path)
        *parents, name = checked_parts(path)
        common = 0
        while common < min(len(parents), len(self._parts)) and parents[common] == self._parts[common]:
            common += 1
        for fd in self._directories[common + 1 :]:
            os.close(fd)
        del self._directories[common + 1 :]
        del self._parts[common:]
        for part in parents[common:]:
            above = self._directories[-1]
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=above)
            try:
                self._directories.append(os.open(part, _DIRECTORY, dir_fd=above))
            except NotADirectoryError:
                raise TreeRefusedError(f"a file and a directory with one path: {path[:200]!r}") from None
            self._parts.append(part)
        self._prefix = b"".join(part + b"/" for part in parents)
        return self._directories[-1], name


def _twice(path: bytes) -> TreeRefusedError:
    return TreeRefusedError(f"two entries with one path: {path[:200]!r}")


def checked_parts(path: bytes) -> list[bytes]:
    """The parts of a path in a tree.

    Raises:
        TreeRefusedError: it is absolute, or leads out, or into what git keeps for itself.
    """
    parts = path.split(b"/")
    if len(parts) > PARTS_MAX:
        raise TreeRefusedError(f"a path of more than {PARTS_MAX} parts: {path[:200]!r}")
    return [_checked_part(part, path) for part in parts]


def _checked_part(part: bytes, path: bytes) -> bytes:
    if part in _BAD or part.lower() == b".git" or b"\0" in part or len(path) > PATH_BYTES_MAX:
        raise TreeRefusedError(f"a path that no tree may hold: {path[:200]!r}")
    if len(part) > NAME_BYTES_MAX:
        raise TreeRefusedError(f"a name that is too long: {path[:200]!r}")
    return part
