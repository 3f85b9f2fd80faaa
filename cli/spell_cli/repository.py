"""What git says about the directory the user stands in. The repository is only ever read."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from spell_cli.errors import CliError, CommitError, RepositoryError
from spell_proto.errors import shown

#: Notebooks change whenever they are looked at, and the Finder leaves its own file everywhere.
_NEVER_DIRTY = ".ipynb"
_NEVER_UNTRACKED = ".DS_Store"
_UNMERGED = frozenset({b"DD", b"AU", b"UD", b"UA", b"DU", b"AA", b"UU"})
#: What stands between two paths that git prints: the answer to --is-bare-repository, which is always the same here.
_BETWEEN = b"\nfalse\n"

#: Settings under which git leaves everything as it is: no hook, no daemon, and no filter that keeps files of its own.
UNTOUCHED = (
    "-c", "core.fsmonitor=false",
    "-c", "core.hooksPath=/dev/null",
    "-c", "status.renames=false",
    "-c", "filter.lfs.clean=",
    "-c", "filter.lfs.process=",
    "-c", "filter.lfs.required=false",
)  # fmt: skip


class Repository(NamedTuple):
    """The repository at the moment of the run, and the commit that is meant. `changed` holds `unmerged` too."""

    directory: str
    toplevel: str
    index_file: Path
    objects: Path
    commit: str
    tree: str
    committed_at: int
    message: str
    cwd: str
    changed: tuple[str, ...]
    unmerged: tuple[str, ...]
    untracked: tuple[str, ...]

    @property
    def name(self) -> str:
        return Path(self.toplevel).name or "root"

    @property
    def dirty(self) -> tuple[str, ...]:
        """The changes that somebody who wants none would want to know of."""
        return tuple(path for path in self.changed if not path.endswith(_NEVER_DIRTY))


class Snapshot(NamedTuple):
    """A commit of the uncommitted changes, and the object directory that holds it for as long as it is needed."""

    commit: str
    objects: Path


class Inspection:
    """Three git processes side by side; what they say is collected by `result`. `ref`: another commit than HEAD."""

    def __init__(self, directory: str, ref: str | None = None) -> None:
        self._directory = directory
        self.ref = ref
        paths = ("--show-toplevel", "--git-path", "index", "--git-path", "objects")
        bare = "--is-bare-repository"
        words = (bare, paths[0], bare, *paths[1:3], bare, *paths[3:5], bare)
        self._place = start(directory, "rev-parse", *words)
        self._head = start(directory, *(_show("HEAD") if ref is None else _resolve(ref)))
        self._status = start(
            directory,
            *UNTOUCHED,
            "--no-optional-locks",
            "status",
            "--porcelain=v1",
            "-z",
            "--untracked-files=normal" if ref is None else "--untracked-files=no",
            "--ignore-submodules=all",
        )

    def result(self) -> Repository | None:
        """The repository, or None where there is none.

        Raises:
            RepositoryError: there is one, but nothing in it can be run, or git refuses to read it.
            CommitError: there is no such commit.
        """
        place, complaint = self._place.communicate()
        head, _ = self._head.communicate()
        status, status_complaint = self._status.communicate()
        if b"not a git repository" in complaint:
            if self.ref is not None:
                raise RepositoryError(
                    "Could not find a git repository: --commit-ref names a commit of the one you stand in."
                )
            return None
        if place.partition(b"\n")[0] == b"true":
            raise RepositoryError(f"The repository {self._directory} is bare: there are no files to run.")
        if self._place.returncode != 0:
            raise RepositoryError("git cannot read this repository.", detail=_words(complaint))
        toplevel, index, objects = (
            os.fsdecode(path)
            for path in place.removeprefix(_BETWEEN[1:]).removesuffix(_BETWEEN).split(_BETWEEN)
        )
        if self._head.returncode != 0 or head.startswith(b"^"):
            self._no_commit(toplevel)
        if self._status.returncode != 0:
            raise RepositoryError("git cannot tell what has changed.", detail=_words(status_complaint))
        if self.ref is not None:
            head = output(self._directory, *_show(head.decode().strip()))
        first, tree, committed_at, message = head.split(b"\n", 3)
        changed, unmerged, untracked = parse_status(status)
        return Repository(
            directory=self._directory,
            toplevel=toplevel,
            index_file=Path(self._directory, index),
            objects=Path(self._directory, objects),
            commit=first.removeprefix(b"commit ").decode(),
            tree=tree.decode(),
            committed_at=int(committed_at),
            message=message.decode(errors="replace").strip(),
            cwd=_below(toplevel, self._directory),
            changed=changed,
            unmerged=unmerged,
            untracked=untracked,
        )

    def _no_commit(self, toplevel: str) -> None:
        if self.ref is None or not output(self._directory, *_resolve("HEAD"), fails=True):
            raise RepositoryError(
                f"The repository {toplevel} has no commits! "
                "Please commit all files necessary to run this project before continuing."
            )
        name = shown(self.ref)[1:-1].replace("\\'", "'")
        raise CommitError(f'Could not resolve commit "{name}" for repo {toplevel}')


def parse_status(raw: bytes) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Changed, unmerged and untracked paths in the output of `git status --porcelain=v1 -z`."""
    changed: list[str] = []
    unmerged: list[str] = []
    untracked: list[str] = []
    entries = iter(raw.split(b"\0"))
    for entry in entries:
        if len(entry) < 4:
            continue
        code, path = entry[:2], os.fsdecode(entry[3:])
        if code == b"??":
            if Path(path).name != _NEVER_UNTRACKED:
                untracked.append(path)
            continue
        if b"R" in code or b"C" in code:
            next(entries, None)  # the name it had before
        changed.append(path)
        if code in _UNMERGED:
            unmerged.append(path)
    return tuple(changed), tuple(unmerged), tuple(untracked)


def root_commit(repository: Repository) -> str:
    """The first commit of a history: what a repository is known by, wherever it is cloned to."""
    found = output(repository.directory, "rev-list", "--max-parents=0", repository.commit, "--").split()
    if not found:
        raise RepositoryError("git cannot read the history of this repository.")
    return found[-1].decode()


def submodules(repository: Repository) -> tuple[str, ...] | None:
    """Where submodules lie, as .gitmodules has it; None where there is no such file."""
    file = Path(repository.toplevel, ".gitmodules")
    if not file.exists():
        return None
    words = ("config", "-z", "--file", str(file), "--get-regexp", r"^submodule\..*\.path$")
    found = output(repository.directory, *words, fails=True).split(b"\0")
    return tuple(os.fsdecode(entry.partition(b"\n")[2]) for entry in found if entry)


def lfs_pointers(repository: Repository) -> tuple[str, ...]:
    """Files that git-lfs keeps elsewhere; git is only asked where the repository uses it."""
    if not _uses_lfs(repository):
        return ()
    words = ("ls-files", "-z", "--full-name", "--", ":(top,attr:filter=lfs)")
    found = output(repository.directory, *words, fails=True).split(b"\0")
    # A changed one travels as it lies there.
    kept = {os.fsdecode(path) for path in found if path} - set(repository.changed)
    return tuple(sorted(kept))


def _uses_lfs(repository: Repository) -> bool:
    common = repository.objects.parent
    if (common / "lfs").is_dir():
        return True
    for file in (Path(repository.toplevel, ".gitattributes"), common / "info" / "attributes"):
        try:
            with file.open("rb") as attributes:
                if b"filter=lfs" in attributes.read(1 << 20):
                    return True
        except OSError:
            continue
    return False


def plain_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, with git's words in English and no question asked on the terminal.

    A commit is read as it is stored, for that is what travels; and nothing is written that need not be.
    """
    return {
        **environ,
        "LC_ALL": "C",
        "LANGUAGE": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }


def start(directory: str, *arguments: str, **environ: str) -> "subprocess.Popen[bytes]":
    """A git process whose output is read by whoever asked."""
    try:
        return subprocess.Popen(
            ["git", *arguments],
            cwd=directory,
            env=plain_environment(os.environ) | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise CliError("Unable to find git, for installation instructions see https://git-scm.com/") from None


def output(directory: str, *arguments: str, fails: bool = False) -> bytes:
    """What git prints. `fails`: it may, and then has nothing to say."""
    process = start(directory, *arguments)
    said, complaint = process.communicate()
    if process.returncode == 0:
        return said
    if fails:
        return b""
    raise RepositoryError("git cannot read this repository.", detail=_words(complaint))


def _show(commit: str) -> tuple[str, ...]:
    form = "--format=%T%n%ct%n%B"
    return ("rev-list", "--max-count=1", "--encoding=UTF-8", form, commit, "--")


def _resolve(ref: str) -> tuple[str, ...]:
    return ("rev-parse", "--verify", "--quiet", "--end-of-options", ref + "^{commit}")


def _below(toplevel: str, directory: str) -> str:
    path = os.path.relpath(os.path.realpath(directory), os.path.realpath(toplevel))
    return "." if path.startswith("..") else path


def _words(raw: bytes) -> str:
    return raw.decode(errors="replace").strip()
