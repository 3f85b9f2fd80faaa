"""Bare repositories on disk and the git processes over them, none of which trusts what was pushed (shell)."""

import asyncio
import contextlib
import mmap
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spell_proto import logs
from spell_proto.errors import SpellError
from spell_proto.git import environment
from spell_storage.locks import Locks

log = logs.get()

#: Bounds every git process but a push.
GIT_SECONDS_MAX = 60.0
GIT_PROCESSES_MAX = 4
#: How many of the refs that are known to be whole a walk is told to stop at.
_KNOWN_WHOLE_MAX = 256

#: Refs a client may create, and where older ones move so that a push need not be told about all of them.
PUSHED = "refs/heads"
TAGS = "refs/tags"
KEPT = "refs/kept"
#: A push is told about this many commits at most.
ADVERTISED_REFS_MAX = 256
PUSH_BYTES_MAX = 2 << 30

# No setting of the machine, of its user or of pushed content has a say.
OPTIONS = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "safe.bareRepository=explicit",
    "-c", "submodule.recurse=false",
    "-c", "transfer.bundleURI=false",
    "-c", "core.attributesFile=/dev/null",
    # Repositories are packed by housekeeping alone, under its locks.
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
    "-c", "receive.autogc=false",
    "-c", "pack.threads=2",
    # Blobs above this are streamed instead of held in memory.
    "-c", "core.bigFileThreshold=16m",
    # What was answered survives a power cut.
    "-c", "core.fsync=committed,loose-object,reference",
    "-c", "core.fsyncMethod=batch",
)  # fmt: skip
#: What old but honest histories hold. Odd modes of files (100664) are none of git's errors anyway; what is no file at all
#: is refused where a tree is laid out.
FSCK_IGNORED = ("zeroPaddedFilemode", "badTimezone", "missingSpaceBeforeDate")
_RECEIVE_OPTIONS = (
    # Packs stay packs: directories of loose objects vanish under a push while a repository is packed anew.
    "-c", "receive.unpackLimit=1",
    "-c", "receive.fsckObjects=true",
    "-c", "transfer.fsckObjects=true",
    *(word for kind in FSCK_IGNORED for word in ("-c", f"receive.fsck.{kind}=ignore")),
    "-c", "receive.shallowUpdate=true",
    "-c", "receive.denyDeletes=true",
    "-c", "receive.denyNonFastForwards=true",
    "-c", f"transfer.hideRefs={KEPT}",
)  # fmt: skip

# Both read "old new ref" lines. Hooks stand in a directory of ours; a repository's own are never looked at. One git
# process judges all tags: of each it is asked what it is, and what it is a tag of.
_PRE_RECEIVE = f"""#!/bin/sh
asked() {{
    while read -r old new ref; do
        case "$ref" in
        "{PUSHED}/br_$new") ;;
        {TAGS}/?*) printf '%s\\n%s^{{commit}}\\n' "$new" "$new" ;;
        *)
            echo "$ref: only {PUSHED}/br_<commit>, for that very commit, and annotated tags can be pushed" >&2
            echo refused
            ;;
        esac
    done
}}
names=$(asked)
if [ -z "$names" ]; then exit 0; fi
kinds=$(printf '%s\\n' "$names" | git cat-file --batch-check='%(objecttype)') || exit 1
wanted=tag
for kind in $kinds; do
    if [ "$kind" != "$wanted" ]; then
        echo "only annotated tags of commits can be pushed as tags" >&2
        exit 1
    fi
    if [ "$wanted" = tag ]; then wanted=commit; else wanted=tag; fi
done
"""
_POST_RECEIVE = """#!/bin/sh
while read -r old new ref; do
    echo "$new" >> "$SPELL_PUSHED"
done
"""


class GitError(SpellError):
    """A git process failed, or took too long."""


def command(repository: Path, *arguments: str) -> list[str]:
    """The words of a git call on a repository of ours."""
    return ["git", f"--git-dir={repository}", *OPTIONS, *arguments]


class Repositories:
    """The bare repositories below one directory: `<owner_id>/<repository_id>.git`."""

    def __init__(self, data: Path, *, push_bytes_max: int = PUSH_BYTES_MAX) -> None:
        self._directory = data / "git"
        self._hooks = data / "git-hooks"
        self._push_bytes_max = push_bytes_max
        self.locks = Locks(data)
        self._processes = asyncio.Semaphore(GIT_PROCESSES_MAX)

    def prepare(self) -> None:
        """Make the directories and the hooks."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hooks.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.locks.prepare()
        for name, text in (("pre-receive", _PRE_RECEIVE), ("post-receive", _POST_RECEIVE)):
            made = self._hooks / f".{name}.{os.getpid()}"
            made.write_text(text)
            made.chmod(0o700)
            made.replace(self._hooks / name)

    def put_aside(self, path: Path) -> None:
        """Take a repository away in one step; what is left of it goes with the next `clear_abandoned`."""
        with contextlib.suppress(FileNotFoundError):
            path.rename(self._directory / f".gone-{path.parent.name}-{path.stem}-{time.time_ns()}")

    def clear_abandoned(self, before: float) -> None:
        """Remove what was put aside, and what crashes have left before then."""
        for gone in self._directory.glob(".gone-*"):
            shutil.rmtree(gone, ignore_errors=True)
        for left in (
            *self._directory.glob(".new-*"),
            *self._hooks.glob("pushed-*"),
            *self._hooks.glob(".p*"),
        ):
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < before:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

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
        limit = ("-c", f"receive.maxInputSize={self._push_bytes_max}")
        return ["git", *OPTIONS, *_RECEIVE_OPTIONS, *hooks, *limit, "receive-pack", str(repository)]

    async def run(
        self,
        repository: Path,
        *arguments: str,
        given: bytes = b"",
        seconds: float = GIT_SECONDS_MAX,
        held: Sequence[int] = (),
    ) -> bytes:
        """What a short git call prints. It inherits the locks in `held`.

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
                    pass_fds=held,
                )
            try:
                async with asyncio.timeout(seconds):
                    printed, complaint = await process.communicate()
            except TimeoutError:
                raise GitError(f"git {arguments[0]} took more than {seconds} s") from None
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

    async def has_tree(self, repository: Path, commit: str) -> bool:
        """Whether a commit, its tree and everything in that are there."""
        return await self._walks(repository, "--no-walk", commit)

    async def is_whole(self, repository: Path, commit: str) -> bool:
        """Whether everything a commit needs is there, its history included, which may be cut off (a shallow one).

        What refs need was checked when they were made.
        """
        return await self.has_tree(repository, commit) and await self._walks(
            repository, commit, "--not", "--all"
        )

    async def _walks(self, repository: Path, *where: str) -> bool:
        try:
            await self.run(repository, "rev-list", "--objects", "--quiet", *where)
        except GitError:
            return False
        return True

    async def drop_broken_refs(self, repository: Path, held: Sequence[int]) -> None:
        """Remove the refs that need what is not there, so that a push sends it again."""
        printed = await self.run(repository, "for-each-ref", "--format=%(objectname) %(refname)")
        whole: list[str] = []
        for line in printed.decode(errors="surrogateescape").splitlines():
            name, ref = line.split(" ", 1)
            if await self._walks(repository, name, *(f"^{other}" for other in whole[-_KNOWN_WHOLE_MAX:])):
                whole.append(name)
            else:
                given = os.fsencode(f"delete {ref}\n")
                await self.run(repository, "update-ref", "--no-deref", "--stdin", given=given, held=held)

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


def count_refs(repository: Path) -> int:
    """How many refs a repository has, told from its files."""
    try:
        packed = (repository / "packed-refs").read_bytes().count(b"\n")
    except FileNotFoundError:
        packed = 0
    return packed + sum(len(files) for _, _, files in os.walk(repository / "refs"))


def has_tags(repository: Path) -> bool:
    """Whether a repository has any tags, told from its files."""
    try:
        packed = b" refs/tags/" in (repository / "packed-refs").read_bytes()
    except FileNotFoundError:
        packed = False
    return packed or any(files for _, _, files in os.walk(repository / "refs" / "tags"))


def size_of(directory: Path) -> int:
    """How many bytes lie below a directory that changes in the meantime."""
    size = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 -- called often
    return size


def has_object(repository: Path, name: str) -> bool:
    """Whether a repository holds an object, told from its files: asking git would cost a process per repository."""
    objects = repository / "objects"
    if (objects / name[:2] / name[2:]).is_file():
        return True
    wanted = bytes.fromhex(name)
    return any(in_index(index, wanted) for index in (objects / "pack").glob("*.idx"))


def in_index(path: Path, wanted: bytes) -> bool:
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


def incoming(repository: Path) -> list[Path]:
    """Where pushes lie before they are accepted. git leaves what a push has brought when the client goes away."""
    return list((repository / "objects").glob("tmp_objdir-incoming-*"))


def has_abandoned(repository: Path, before: float) -> bool:
    """Whether something was left half written before then."""
    for left in _temporary(repository):
        with contextlib.suppress(FileNotFoundError):
            if left.lstat().st_mtime < before:
                return True
    return False


def clear_temporary(repository: Path) -> None:
    """Remove what killed processes have left half written. Only while nobody writes."""
    for left in _temporary(repository):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _temporary(repository: Path) -> Iterator[Path]:
    objects = repository / "objects"
    for pattern in ("tmp_*", "pack/tmp_*", "??/tmp_obj_*"):
        yield from objects.glob(pattern)
