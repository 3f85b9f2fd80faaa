"""What git says about the directory the user stands in. The repository is only ever read."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from spell_cli.errors import CliError, RepositoryError

#: Notebooks change whenever they are looked at, and the Finder leaves its own file everywhere.
_NEVER_DIRTY = ".ipynb"
_NEVER_UNTRACKED = ".DS_Store"


class Repository(NamedTuple):
    """The repository at the moment of the run, HEAD's commit above all."""

    toplevel: str
    commit: str
    message: str
    cwd: str
    changed: tuple[str, ...]
    untracked: tuple[str, ...]
    has_submodules: bool

    @property
    def name(self) -> str:
        return Path(self.toplevel).name or "root"


class Inspection:
    """Three git processes side by side; what they say is collected by `result`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._place = _git(directory, "rev-parse", "--is-bare-repository", "--show-toplevel")
        self._head = _git(
            directory, "rev-list", "--max-count=1", "--encoding=UTF-8", "--format=%B", "HEAD", "--"
        )
        self._status = _git(
            directory,
            "--no-optional-locks",
            "status",
            "--porcelain=v1",
            "-z",
            "--untracked-files=normal",
            "--ignore-submodules=all",
        )

    def result(self) -> Repository | None:
        """The repository, or None where there is none.

        Raises:
            RepositoryError: there is one, but nothing in it can be run, or git refuses to read it.
        """
        place, complaint = self._place.communicate()
        head, _ = self._head.communicate()
        status, status_complaint = self._status.communicate()
        if b"not a git repository" in complaint:
            return None
        bare, _, toplevel_raw = place.partition(b"\n")
        if bare == b"true":
            raise RepositoryError(f"The repository {self._directory} is bare: there are no files to run.")
        if self._place.returncode != 0:
            raise RepositoryError("git cannot read this repository.", detail=_words(complaint))
        toplevel = os.fsdecode(toplevel_raw.removesuffix(b"\n"))
        if self._head.returncode != 0:
            raise RepositoryError(
                f"The repository {toplevel} has no commits! "
                "Please commit all files necessary to run this project before continuing."
            )
        if self._status.returncode != 0:
            raise RepositoryError("git cannot tell what has changed.", detail=_words(status_complaint))
        first, _, message = head.partition(b"\n")
        changed, untracked = parse_status(status)
        return Repository(
            toplevel=toplevel,
            commit=first.removeprefix(b"commit ").decode(),
            message=message.decode(errors="replace").strip(),
            cwd=_below(toplevel, self._directory),
            changed=changed,
            untracked=untracked,
            has_submodules=Path(toplevel, ".gitmodules").exists(),
        )


def parse_status(raw: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Changed and untracked paths in the output of `git status --porcelain=v1 -z`."""
    changed: list[str] = []
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
        if not path.endswith(_NEVER_DIRTY):
            changed.append(path)
    return tuple(changed), tuple(untracked)


def root_commit(toplevel: str) -> str:
    """The first commit of HEAD's history: what a repository is known by, wherever it is cloned to."""
    process = _git(toplevel, "rev-list", "--max-parents=0", "HEAD", "--")
    output, complaint = process.communicate()
    if process.returncode != 0 or not output.split():
        raise RepositoryError("git cannot read the history of this repository.", detail=_words(complaint))
    return output.split()[-1].decode()


def plain_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, with git's words in English and no question asked on the terminal."""
    return {**environ, "LC_ALL": "C", "LANGUAGE": "C", "GIT_TERMINAL_PROMPT": "0"}


def _git(directory: str, *arguments: str) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            ["git", *arguments],
            cwd=directory,
            env=plain_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise CliError("Unable to find git, for installation instructions see https://git-scm.com/") from None


def _below(toplevel: str, directory: str) -> str:
    path = os.path.relpath(os.path.realpath(directory), os.path.realpath(toplevel))
    return "." if path.startswith("..") else path


def _words(raw: bytes) -> str:
    return raw.decode(errors="replace").strip()
