"""Lays code trees out, once per machine, from storage's stream; no entry can reach out of its directory (shell)."""

import asyncio
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import orjson

from spell_proto import logs
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.spec import CodeLocation
from spell_proto.state import Reason
from spell_runner.errors import AttemptError, TreeRefusedError

log = logs.get()

RETRY_SECONDS_MAX = 5.0
#: More trees than this, or a fuller disk, and the ones that were not used for longest go.
TREES_MAX = 200
DISK_FREE_SHARE_MIN = 0.1
#: A tree that was used this recently may be about to be used by an attempt that has not said so yet.
FRESH_SECONDS = 3600.0
SILENCE_SECONDS_MAX = 120.0
#: Enough bytes to be worth a trip to another thread.
BATCH_BYTES = 1 << 20
HEADER_BYTES_MAX = 32 * 1024
LINK_BYTES_MAX = 4096
PATH_BYTES_MAX = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Trees:
    """The trees below `directory`, each complete where its name stands. One for the machine."""

    def __init__(self, directory: Path, storage: Caller, in_use: Callable[[], set[str]]) -> None:
        self._directory = directory
        self._storage = storage
        self._in_use = in_use
        self._being_laid: dict[str, asyncio.Future[None]] = {}

    def forget(self) -> None:
        """Remove all trees: after a power cut, a file may have its name but not its bytes."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700)

    async def get(self, owner_id: int, code: CodeLocation, waits: Callable[[], None]) -> Path:
        """A directory that holds `code.root_directory` with the files of the commit; never to be written to.

        `waits` is called once when storage keeps us waiting.

        Raises:
            AttemptError: storage has no such commit, or it holds what no tree may hold.
        """
        name = hashlib.sha256(os.fsencode(code.root_directory)).hexdigest()[:16]
        place = self._directory / f"{code.tree}-{name}"
        while not place.exists():
            laid = self._being_laid.get(place.name)
            if laid is not None:
                await asyncio.wait({laid})
                continue
            self._being_laid[place.name] = laid = asyncio.get_running_loop().create_future()
            try:
                await self._lay(owner_id, code, place, waits)
            finally:
                del self._being_laid[place.name]
                laid.set_result(None)
            await asyncio.to_thread(self._evict)
        os.utime(place)
        return place

    def _evict(self) -> None:
        """Remove what was not used for longest, where there is too much, and no attempt stands on it."""
        by_age = sorted((path.stat().st_mtime, path) for path in self._directory.iterdir())
        in_use = self._in_use()
        surplus = len(by_age) - TREES_MAX
        for used, path in by_age:
            disk = shutil.disk_usage(self._directory)
            if surplus <= 0 and disk.free >= DISK_FREE_SHARE_MIN * disk.total:
                return
            if str(path) in in_use or path.name.startswith(".") or time.time() - used < FRESH_SECONDS:
                continue
            log.info("a code tree makes room", tree=path.name)
            gone = path.with_name(f".gone-{path.name}")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            surplus -= 1

    async def _lay(self, owner_id: int, code: CodeLocation, place: Path, waits: Callable[[], None]) -> None:
        pause = 0.1
        while True:
            new = place.with_name(f".{place.name}")
            await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
            (new / code.root_directory).mkdir(parents=True, mode=0o755)
            try:
                await self._fetch(owner_id, code, new / code.root_directory)
            except (UnavailableError, aiohttp.ClientError, TimeoutError) as error:
                log.info("storage does not answer", problem=repr(error))
                if pause > RETRY_SECONDS_MAX / 4:
                    waits()
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            except (RefusedError, TreeRefusedError, OSError) as error:
                message = f"the code of commit {code.commit[:12]} could not be fetched: {error}"
                raise AttemptError(Reason.CODE_FETCH, message) from error
            else:
                new.rename(place)
                return

    async def _fetch(self, owner_id: int, code: CodeLocation, root: Path) -> None:
        path = f"/code/{owner_id}/{code.repository_id}/trees/{code.commit}"
        writer = TreeWriter(root)
        try:
            async with self._storage.open("GET", path, stream=True) as response:
                batch: list[bytes] = []
                size = 0
                while True:
                    async with asyncio.timeout(SILENCE_SECONDS_MAX):
                        data = await response.content.readany()
                    batch.append(data)
                    size += len(data)
                    if size >= BATCH_BYTES or not data:
                        await _in_thread(writer.feed, b"".join(batch))
                        batch, size = [], 0
                    if not data:
                        break
        finally:
            writer.close()
        if not writer.complete:
            raise UnavailableError("unavailable", "storage broke off in the middle of a tree")


async def _in_thread(work: Callable[[bytes], None], data: bytes) -> None:
    """Run in a thread, and let it finish even when we are cancelled: what it writes to is removed only then."""
    task = asyncio.ensure_future(asyncio.to_thread(work, data))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class TreeWriter:
    """Writes the entries of a tree stream below `root`, through descriptors of directories it has made itself."""

    def __init__(self, root: Path) -> None:
        self._parts: list[bytes] = []
        self._directories = [os.open(root, _DIRECTORY)]
        self._rest = b""
        self._file: int | None = None
        self._link: tuple[int, bytes] | None = None
        self._missing = 0
        self._count = 0
        self.complete = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream, cut anywhere.

        Raises:
            TreeRefusedError: an entry is no plain file or link of a tree.
        """
        view = self._rest + data
        position = 0
        while position < len(view) or (self._missing == 0 and self._open()):
            if self._open():
                before = position
                position = self._content(view, position)
                if self._open() and position == before:
                    break
                continue
            end = view.find(b"\n", position)
            if end < 0:
                break
            self._header(view[position:end])
            position = end + 1
        self._rest = view[position:]
        if not self._open() and len(self._rest) > HEADER_BYTES_MAX:
            raise TreeRefusedError("an entry without end")

    def close(self) -> None:
        for fd in self._directories:
            os.close(fd)
        self._directories = []
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> bool:
        return self._file is not None or self._link is not None

    def _content(self, view: bytes, position: int) -> int:
        if self._link is not None:
            fd, name = self._link
            if len(view) - position < self._missing:
                return position
            os.symlink(view[position : position + self._missing], name, dir_fd=fd)
            position, self._missing, self._link = position + self._missing, 0, None
            return position
        assert self._file is not None
        taken = os.write(self._file, memoryview(view)[position : position + self._missing])
        self._missing -= taken
        if self._missing == 0:
            os.close(self._file)
            self._file = None
        return position + taken

    def _header(self, line: bytes) -> None:
        if self.complete:
            raise TreeRefusedError("something follows the end")
        try:
            members = orjson.loads(line)
            if "end" in members:
                self._end(int(members["end"]))
                return
            mode, size, path = members["mode"], int(members["size"]), bytes.fromhex(members["path_hex"])
        except (ValueError, KeyError, TypeError) as error:
            raise TreeRefusedError(f"an entry that cannot be read: {error!r}") from error
        *parents, name = checked_parts(path)
        directory = self._enter(parents)
        self._count += 1
        self._missing = size
        try:
            if mode == "120000" and 0 < size <= LINK_BYTES_MAX:
                self._link = (directory, name)
            elif mode in {"100644", "100755"} and size >= 0:
                bits = 0o755 if mode == "100755" else 0o644
                self._file = os.open(name, _NEW_FILE, bits, dir_fd=directory)
            else:
                raise TreeRefusedError(f"an entry of mode {mode} and {size} bytes")
        except FileExistsError:
            raise TreeRefusedError(f"two entries with one path: {path!r}") from None

    def _end(self, count: int) -> None:
        if count != self._count:
            raise TreeRefusedError(f"{self._count} entries, {count} were announced")
        self.complete = True

    def _enter(self, parents: list[bytes]) -> int:
        """The directory of the next entry, made where it is missing. Entries come sorted, so most steps are short."""
        common = 0
        while common < min(len(parents), len(self._parts)) and parents[common] == self._parts[common]:
            common += 1
        for fd in self._directories[common + 1 :]:
            os.close(fd)
        del self._directories[common + 1 :]
        del self._parts[common:]
        for part in parents[common:]:
            above = self._directories[-1]
            try:
                os.mkdir(part, 0o755, dir_fd=above)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(part, dir_fd=above).st_mode):
                    raise TreeRefusedError(f"a file and a directory with one path: {part!r}") from None
            self._directories.append(os.open(part, _DIRECTORY, dir_fd=above))
            self._parts.append(part)
        return self._directories[-1]


def checked_parts(path: bytes) -> list[bytes]:
    """The parts of a path in a tree.

    Raises:
        TreeRefusedError: it is absolute, or leads out, or into what git keeps for itself.
    """
    parts = path.split(b"/")
    bad = {b"", b".", b"..", b".git"}
    if b"\0" in path or len(path) > PATH_BYTES_MAX or any(part.lower() in bad for part in parts):
        raise TreeRefusedError(f"a path that no tree may hold: {path[:200]!r}")
    if any(len(part) > 255 for part in parts):
        raise TreeRefusedError(f"a name that is too long: {path[:200]!r}")
    return parts
