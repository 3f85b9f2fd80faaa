"""A commit of the uncommitted changes, made beside the user's repository.

git works on a copy of the index and writes into a directory of ours; the user's object store is only read. The same
work tree always gives the same commit, so the server knows it when it has had it before.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from spell_cli import object_times
from spell_cli import repository as git
from spell_cli.errors import RepositoryError
from spell_cli.repository import Repository, Snapshot

BYTES_MAX = 2 * 1000**3
_IDENTITY = "spell <spell@localhost>"
_MESSAGE = "Uncommitted changes"
_LEFT_SECONDS = 24 * 3600
_UNKNOWN_OPTION = 129

_SETTINGS = (
    *git.UNTOUCHED,
    "-c", "core.splitIndex=false",
    "-c", "core.safecrlf=false",
    # It lives for seconds.
    "-c", "core.fsync=none",
    # One pack, streamed: large files are never held in memory; and fast rather than small.
    "-c", "core.bigFileThreshold=1",
    "-c", "pack.compression=1",
)  # fmt: skip


@contextlib.contextmanager
def taken(repository: Repository, spell_dir: Path) -> Iterator[Snapshot | None]:
    """The snapshot of all changes to tracked files; None where they come to nothing.

    Raises:
        RepositoryError: there are too many, or git cannot read them.
    """
    _check_size(repository)
    with _directory(spell_dir / "snapshots") as directory:
        index = directory / "index"
        with contextlib.suppress(FileNotFoundError):
            # With its time: git decides by it which files it must read again.
            shutil.copy2(repository.index_file, index)
        index.touch() if not index.exists() else index.chmod(0o600)
        objects = _borrowing(directory, repository)
        with object_times.kept(repository.objects):
            tree = _tree(repository, index, objects)
        yield None if tree == repository.tree else Snapshot(_commit(repository, tree, objects), objects)


@contextlib.contextmanager
def borrowed(repository: Repository, spell_dir: Path) -> Iterator[Path]:
    """An object directory of ours on top of the user's, for a git that may have to fetch what a partial clone lacks."""
    with _directory(spell_dir / "snapshots") as directory:
        yield _borrowing(directory, repository)


def _borrowing(directory: Path, repository: Repository) -> Path:
    objects = directory / "objects"
    (objects / "pack").mkdir(parents=True)
    (objects / "info").mkdir()
    (objects / "info" / "alternates").write_bytes(_quoted(os.path.realpath(repository.objects)) + b"\n")
    return objects


def _check_size(repository: Repository) -> None:
    size = 0
    for path in repository.changed:
        with contextlib.suppress(OSError):
            found = Path(repository.toplevel, path).lstat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    if size > BYTES_MAX:
        raise RepositoryError(
            f"The uncommitted changes are {size / 1000**3:.1f} GB; at most 2 GB can go with a run. "
            "Keep large files out of the repository."
        )


def _tree(repository: Repository, index: Path, objects: Path) -> str:
    add = (*_SETTINGS, "add", "--update")
    # Without --sparse a file that lies outside of a sparse checkout would be left out without a word.
    code, _, complaint = _git(repository, index, objects, *add, "--sparse")
    if code == _UNKNOWN_OPTION:
        code, _, complaint = _git(repository, index, objects, *add)
    if code == 0:
        code, tree, complaint = _git(repository, index, objects, *_SETTINGS, "write-tree")
    if code != 0:
        raise RepositoryError("git cannot read the uncommitted changes.", detail=complaint)
    return tree


def _git(repository: Repository, index: Path, objects: Path, *words: str) -> tuple[int, str, str]:
    environ = {"GIT_INDEX_FILE": str(index), "GIT_OBJECT_DIRECTORY": str(objects)}
    process: subprocess.Popen[bytes] = git.start(repository.directory, *words, **environ)
    said, complaint = process.communicate()
    return process.returncode, said.decode().strip(), complaint.decode(errors="replace").strip()


def _commit(repository: Repository, tree: str, objects: Path) -> str:
    """Write the commit object, byte for byte the same wherever and whenever it is made."""
    who = f"{_IDENTITY} {repository.committed_at} +0000"
    lines = (f"tree {tree}", f"parent {repository.commit}", f"author {who}", f"committer {who}", "", _MESSAGE)
    body = "".join(line + "\n" for line in lines).encode()
    stored = b"commit %d\0" % len(body) + body
    digest = hashlib.sha256 if len(repository.commit) == 64 else hashlib.sha1
    name = digest(stored).hexdigest()
    (objects / name[:2]).mkdir(exist_ok=True)
    (objects / name[:2] / name[2:]).write_bytes(zlib.compress(stored))
    return name


@contextlib.contextmanager
def _directory(parent: Path) -> Iterator[Path]:
    """A private directory; those that a killed process left behind go after a day."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in parent.iterdir():
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    directory = parent / f"{os.getpid()}-{os.urandom(6).hex()}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _quoted(path: str) -> bytes:
    """A path as git reads it in a list of object stores, whatever it holds."""
    raw = os.fsencode(path)
    for plain, escaped in ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n")):
        raw = raw.replace(plain, escaped)
    return b'"' + raw + b'"'
