"""Bare repositories on disk and the git processes over them, none of which trusts what was pushed (shell)."""

import asyncio
import mmap
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spell_proto import logs
from spell_proto.errors import SpellError

log = logs.get()

#: Bounds every git process but a push.
GIT_SECONDS_MAX = 60.0
GIT_PROCESSES_MAX = 4
PUSH_BYTES_MAX = "2g"

#: Refs a client may create, and where older ones move so that a push need not be told about all of them.
PUSHED = "refs/heads"
KEPT = "refs/kept"
#: A push is told about this many refs at most.
ADVERTISED_REFS_MAX = 256

# No setting of the machine, of its user or of pushed content has a say.
_OPTIONS = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "safe.bareRepository=explicit",
    "-c", "submodule.recurse=false",
    "-c", "transfer.bundleURI=false",
    "-c", "gc.pruneExpire=never",
    "-c", "pack.threads=2",
    # Blobs above this are streamed instead of held in memory.
    "-c", "core.bigFileThreshold=16m",
)  # fmt: skip
_RECEIVE_OPTIONS = (
    "-c", "receive.fsckObjects=true",
    "-c", "transfer.fsckObjects=true",
    # What old but honest histories hold.
    "-c", "receive.fsck.zeroPaddedFilemode=ignore",
    "-c", "receive.fsck.badTimezone=ignore",
    "-c", "receive.fsck.missingSpaceBeforeDate=ignore",
    "-c", f"receive.maxInputSize={PUSH_BYTES_MAX}",
    "-c", "receive.shallowUpdate=true",
    "-c", "receive.denyDeletes=true",
    "-c", "receive.denyNonFastForwards=true",
    "-c", f"transfer.hideRefs={KEPT}",
    # A push that was answered survives a power cut.
    "-c", "core.fsync=committed,loose-object,reference",
    "-c", "core.fsyncMethod=batch",
)  # fmt: skip

# Both read "old new ref" lines. Hooks stand in a directory of ours; a repository's own are never looked at.
_PRE_RECEIVE = f"""#!/bin/sh
while read -r old new ref; do
    if [ "$ref" != "{PUSHED}/br_$new" ]; then
        echo "$ref: only {PUSHED}/br_<commit> can be pushed, for that very commit" >&2
        exit 1
    fi
done
"""
_POST_RECEIVE = """#!/bin/sh
while read -r old new ref; do
    echo "$new" >> "$SPELL_PUSHED"
done
"""


class GitError(SpellError):
    """A git process failed, or took too long."""


def environment() -> dict[str, str]:
    """All that a git process of ours gets to know of this one."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }


def command(repository: Path, *arguments: str) -> list[str]:
    """The words of a git call on a repository of ours."""
    return ["git", f"--git-dir={repository}", *_OPTIONS, *arguments]


class Repositories:
    """The bare repositories below one directory: `<owner_id>/<repository_id>.git`."""

    def __init__(self, data: Path) -> None:
        self._directory = data / "git"
        self._hooks = data / "git-hooks"
        self._processes = asyncio.Semaphore(GIT_PROCESSES_MAX)

    def prepare(self) -> None:
        """Make the directories and the hooks; clear what a crash left half made."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hooks.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, text in (("pre-receive", _PRE_RECEIVE), ("post-receive", _POST_RECEIVE)):
            made = self._hooks / f".{name}.{os.getpid()}"
            made.write_text(text)
            made.chmod(0o700)
            made.replace(self._hooks / name)
        for left in self._directory.glob(".new-*"):
            shutil.rmtree(left, ignore_errors=True)
        for note in self._hooks.glob("pushed-*"):
            note.unlink(missing_ok=True)

    def pushed_note(self) -> "tempfile._TemporaryFileWrapper[bytes]":
        """An empty file for the hook to write the commits of one push into; gone when it is closed."""
        return tempfile.NamedTemporaryFile(prefix="pushed-", dir=self._hooks)

    def path(self, owner_id: int, repository_id: int) -> Path:
        return self._directory / str(owner_id) / f"{repository_id}.git"

    async def create(self, owner_id: int, repository_id: int, *, sha256: bool) -> Path:
        """Make sure that a repository is there, made aside and renamed so that it is never half there."""
        path = self.path(owner_id, repository_id)
        if path.is_dir():
            return path
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=self._directory))
        kind = "sha256" if sha256 else "sha1"
        await self.run(made, "init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
        path.parent.mkdir(exist_ok=True, mode=0o700)
        try:
            made.rename(path)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not path.is_dir():  # otherwise somebody else was faster
                raise
        return path

    def receive_pack(self, repository: Path) -> list[str]:
        """The words of the one call that a client may make."""
        hooks = ("-c", f"core.hooksPath={self._hooks}")
        return ["git", *_OPTIONS, *_RECEIVE_OPTIONS, *hooks, "receive-pack", str(repository)]

    async def run(self, repository: Path, *arguments: str, given: bytes = b"") -> bytes:
        """What a short git call prints.

        Raises:
            GitError: it failed or took too long.
        """
        async with self._processes:
            with stdin_of(given) as stdin:
                process = await asyncio.create_subprocess_exec(
                    *command(repository, *arguments),
                    stdin=stdin,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env=environment(),
                    start_new_session=True,
                )
            try:
                async with asyncio.timeout(GIT_SECONDS_MAX):
                    printed, complaint = await process.communicate()
            except TimeoutError:
                raise GitError(f"git {arguments[0]} took more than {GIT_SECONDS_MAX} s") from None
            finally:
                end(process)
        if process.returncode:
            text = complaint.decode(errors="replace").strip()[-500:]
            raise GitError(f"git {arguments[0]} failed with {process.returncode}: {text}")
        return printed

    async def trees(self, repository: Path, commits: Sequence[str]) -> dict[str, str]:
        """The tree of each of `commits` that is there and is a commit."""
        asked = "".join(f"{commit}\n{commit}^{{tree}}\n" for commit in commits)
        printed = await self.run(repository, "cat-file", "--batch-check", given=asked.encode())
        lines = [line.split() for line in printed.decode().splitlines()]
        return {
            commit: tree[0]
            for commit, said, tree in zip(commits, lines[::2], lines[1::2], strict=True)
            if said[:2] == [commit, "commit"] and tree[1:2] == ["tree"]
        }

    async def is_whole(self, repository: Path, commit: str) -> bool:
        """Whether the tree of a commit and everything in it are there. Its history may be cut off."""
        try:
            await self.run(repository, "rev-list", "--objects", "--no-walk", "--quiet", commit)
        except GitError:
            return False
        return True

    async def tidy(self, repository: Path) -> None:
        """Keep the list of refs short that each push begins with: older ones stay, but are not told about."""
        order = f"--format=%(objectname) %(refname:lstrip={PUSHED.count('/') + 1})"
        printed = await self.run(repository, "for-each-ref", "--sort=-creatordate", order, PUSHED)
        older = [line.split(" ", 1) for line in printed.decode().splitlines()][ADVERTISED_REFS_MAX:]
        moves = "".join(
            f"update {KEPT}/{name} {commit}\ndelete {PUSHED}/{name} {commit}\n" for commit, name in older
        )
        if moves:
            await self.run(repository, "update-ref", "--stdin", given=moves.encode())
        await self.run(repository, "pack-refs", "--all")


@contextmanager
def stdin_of(given: bytes) -> Iterator[IO[bytes]]:
    """A file to start a process with. A pipe would have to be written to, and breaks when the process ends early."""
    with tempfile.TemporaryFile(prefix="spell-stdin-") as file:
        file.write(given)
        file.seek(0)
        yield file


def end(process: asyncio.subprocess.Process) -> None:
    """Kill a process and everything it has started, if it is still there."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def has_object(repository: Path, name: str) -> bool:
    """Whether a repository holds an object, told from its files: asking git would cost a process per repository."""
    objects = repository / "objects"
    if (objects / name[:2] / name[2:]).is_file():
        return True
    wanted = bytes.fromhex(name)
    return any(_in_index(index, wanted) for index in (objects / "pack").glob("*.idx"))


def _in_index(path: Path, wanted: bytes) -> bool:
    # A version 2 index: 8 bytes of magic, 256 counts by first byte, then the sorted names.
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as index:
            if index[:8] != b"\xfftOc\x00\x00\x00\x02":
                return False

            def count(first: int) -> int:
                return int.from_bytes(index[8 + 4 * first : 12 + 4 * first], "big") if first >= 0 else 0

            low, high = count(wanted[0] - 1), count(wanted[0])
            while low < high:
                middle = (low + high) // 2
                at = 8 + 1024 + middle * len(wanted)
                found = index[at : at + len(wanted)]
                if found == wanted:
                    return True
                low, high = (middle + 1, high) if found < wanted else (low, middle)
    except (FileNotFoundError, ValueError):
        return False  # repacked in this moment, or empty
    return False
