"""The objects of repositories on this machine: one store for each, filled with packs from storage (shell).

A store is a bare repository of ours, made in one rename. A commit it has whole is a file `refs/commits/<commit>`, which
is written after everything the commit needs, so whoever is killed on the way leaves a store that is as good as
before. Nothing is synced: after a reboot all stores are made anew, as the trees are.

    HEAD, config            what makes it a repository; never read for more
    objects                 packs only; bound into runs, read-only
    refs/commits/<commit>   that it is here, with all of its history down to `shallow`
    shallow                 commits at which the history is cut off
    tags                    a line `<object> <name>` for each annotated tag
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp
import orjson
from pydantic import TypeAdapter

from spell_proto import logs
from spell_proto.errors import UnavailableError
from spell_proto.git import environment
from spell_proto.http import Caller
from spell_proto.spec import CodeLocation
from spell_proto.views import PackAsked, PackHead
from spell_runner import git, workspace
from spell_runner.errors import StoreDamagedError, TreeRefusedError

log = logs.get()

#: Storage is told about this many commits that are here, the youngest: others follow from them.
HAVE_MAX = 64
#: Every object is looked for in every pack: with more than this, they are made fewer.
PACKS_MAX = 24
HEAD_BYTES_MAX = 16 << 20
SILENCE_SECONDS_MAX = 120.0
#: What a process that died has left half written.
LEFT_SECONDS = 3600.0
_HEAD: TypeAdapter[PackHead] = TypeAdapter(PackHead)
_REPOSITORY_CONFIG = "[core]\n\trepositoryformatversion = {}\n\tbare = true\n{}"
_SHA256 = "[extensions]\n\tobjectformat = sha256\n"


def formatted(text: str, commit: str) -> str:
    """The beginning of a repository's configuration, which says how its objects are named."""
    return text.format(1, _SHA256) if len(commit) == 64 else text.format(0, "")


class Store:
    """The objects of one repository of one owner."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = asyncio.Lock()
        self._packing: subprocess.Popen[bytes] | None = None

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    def ref(self, commit: str) -> Path:
        return self.path / "refs/commits" / commit

    def tags(self) -> dict[str, str]:
        """Name -> object."""
        lines = _lines(self.path / "tags")
        return {name: tag for tag, _, name in (line.partition(" ") for line in lines)}

    def shallow(self) -> set[str]:
        return set(_lines(self.path / "shallow"))

    def youngest(self) -> tuple[str, ...]:
        """Commits that are here, those that came last first."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path / "refs/commits") as found:
            # A leading dot has what somebody who was killed did not finish writing.
            by_age = [(entry.stat().st_mtime_ns, entry.name) for entry in found if entry.name[0] != "."]
            return tuple(name for _, name in sorted(by_age, reverse=True)[:HAVE_MAX])
        return ()

    def make(self, commit: str) -> None:
        """Make it, all at once, if it is not there."""
        if self.path.exists():
            return
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=self.path.parent))
        (new / "objects/pack").mkdir(parents=True)
        (new / "refs/commits").mkdir(parents=True)
        (new / "HEAD").write_text("ref: refs/heads/none\n")
        (new / "config").write_text(formatted(_REPOSITORY_CONFIG, commit))
        new.rename(self.path)

    def took(self, commits: list[str], head: PackHead) -> None:
        """Write down what has come with a pack; that the commits are here last of all."""
        tags = self.tags() | dict(head.tags)
        _write(self.path / "tags", "".join(f"{tag} {name}\n" for name, tag in sorted(tags.items())))
        shallow = self.shallow() | set(head.shallow)
        if shallow:
            _write(self.path / "shallow", "".join(f"{commit}\n" for commit in sorted(shallow)))
        for commit in commits:
            _write(self.ref(commit), f"{commit}\n")

    def forget_commits(self) -> None:
        """Have everything come again. Objects stay: a run may be reading them."""
        for ref in (self.path / "refs/commits").glob("*"):
            ref.unlink()

    def pack(self) -> None:
        """Make many packs few, meanwhile. Whoever reads finds each object in the old ones or in the new one."""
        if self._packing is not None and self._packing.poll() is None:
            return
        self._packing = None
        if len(list((self.objects / "pack").glob("*.idx"))) <= PACKS_MAX:
            return
        # Nobody waits for it: it goes on when we end, and what it has half done does no harm.
        self._packing = subprocess.Popen(
            git.command(self.path, *git.REPACK),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )

    def drop_half_packs(self) -> None:
        """Remove what git leaves of a pack that did not come whole. Should it be one that is being made of many, those
        many stay.
        """
        for path in (self.objects / "pack").glob("tmp_*"):
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a process that was killed has left: it is old, and no pack that git knows."""
        for path in (*self.path.glob("shallow-*"), *self.path.glob("refs/commits/.new-*")):
            path.unlink(missing_ok=True)
        for path in (self.objects / "pack").glob("*"):
            known = path.suffix == ".idx" or path.with_suffix(".idx").exists()
            if not known and time.time() - path.stat().st_mtime > LEFT_SECONDS:
                path.unlink(missing_ok=True)


class Stores:
    """The stores below `directory`, which are called `<owner>-<repository>`. One for the machine."""

    def __init__(self, directory: Path, storage: Caller) -> None:
        self._directory = directory
        self._storage = storage
        self._stores: dict[str, Store] = {}

    def sweep(self) -> None:
        """Remove what an earlier runner has left half done."""
        for path in self._directory.iterdir():
            if path.name.startswith("."):
                workspace.remove(path)
            else:
                Store(path).sweep()

    def get(self, owner_id: int, repository_id: int) -> Store:
        """The store of a repository, which need not be there yet."""
        name = f"{owner_id}-{repository_id}"
        if name not in self._stores:
            self._stores[name] = Store(self._directory / name)
        return self._stores[name]

    async def fill(self, store: Store, owner_id: int, code: CodeLocation) -> None:
        """See to it that the commit of `code` and its snapshot are there, with all they need.

        Raises:
            UnavailableError: storage does not answer, or broke off.
            RefusedError: it has no such commit.
            TreeRefusedError: what came is broken, or nothing that a repository may hold.
            OSError: the disk is full.
        """
        async with store.lock:
            commits = [code.commit] if code.snapshot is None else [code.commit, code.snapshot]
            missing = [commit for commit in commits if not store.ref(commit).exists()]
            if missing:
                store.make(code.commit)
            # Old as it may be, it is not evicted now.
            os.utime(store.path)
            if not missing:
                return
            began = time.monotonic()
            asked = PackAsked(want=tuple(missing), have=store.youngest())
            async with self._storage.open(
                "POST",
                f"/code/{owner_id}/{code.repository_id}/pack",
                data=orjson.dumps(asked.model_dump()),
                headers={"Content-Type": "application/json"},
                stream=True,
            ) as response:
                head = await _take(store, response.content)
            store.took(missing, head)
            seconds = round(time.monotonic() - began, 3)
            log.info("code came", store=store.path.name, commits=len(missing), seconds=seconds)
            # What was young when we began may be old by now.
            store.sweep()
            store.pack()


async def _take(store: Store, stream: aiohttp.StreamReader) -> PackHead:
    """Have git index the pack that follows the first line."""
    head = b""
    while b"\n" not in head:
        data = await _some(stream)
        if not data or len(head) > HEAD_BYTES_MAX:
            raise UnavailableError("unavailable", "storage broke off before a pack")
        head += data
    line, _, rest = head.partition(b"\n")
    try:
        told = _HEAD.validate_json(line)
    except ValueError as error:
        raise TreeRefusedError(f"a pack without a head: {error}") from error
    with (
        tempfile.NamedTemporaryFile(prefix="shallow-", dir=store.path) as shallow,
        # No pipe: an old history has thousands of small faults, and nobody reads of them meanwhile.
        tempfile.TemporaryFile(prefix="spell-complaints-") as complaints,
    ):
        shallow.write("".join(f"{commit}\n" for commit in store.shallow() | set(told.shallow)).encode())
        shallow.flush()
        # Commits that are taken to have no parents.
        cut_off = {"GIT_SHALLOW_FILE": shallow.name} if os.fstat(shallow.fileno()).st_size else {}
        process = await asyncio.create_subprocess_exec(
            *git.command(store.path, *git.INDEX_PACK),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=complaints,
            env=environment() | cut_off,
            start_new_session=True,
        )
        try:
            await _feed(process, rest, stream)
            _judge(await process.wait(), git.end_of(complaints))
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if process.returncode != 0:
                store.drop_half_packs()
    return told


async def _feed(process: asyncio.subprocess.Process, data: bytes, stream: aiohttp.StreamReader) -> None:
    assert process.stdin is not None
    # It may give up at any moment; why, it says itself. What uvloop raises then is no error of a connection.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        while not process.stdin.is_closing():
            process.stdin.write(data)
            await process.stdin.drain()
            data = await _some(stream)
            if not data:
                break
    with contextlib.suppress(RuntimeError):
        process.stdin.close()


def _judge(status: int, complaint: str) -> None:
    """What came of a pack."""
    if status == 0:
        return
    if status < 0 or "early EOF" in complaint:
        # Killed, for want of memory perhaps, or short of what it was promised.
        raise UnavailableError("unavailable", f"a pack came halfway only: {complaint}")
    if "did not receive expected object" in complaint or "unresolved delta" in complaint:
        raise StoreDamagedError(complaint)
    raise TreeRefusedError(complaint)


async def _some(stream: aiohttp.StreamReader) -> bytes:
    async with asyncio.timeout(SILENCE_SECONDS_MAX):
        return await stream.readany()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".new-{path.name}")
    new.write_text(text)
    new.rename(path)
