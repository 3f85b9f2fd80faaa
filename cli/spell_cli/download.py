"""Fetches files of a resource: several at once, each whole or not at all, none outside the target directory."""

import contextlib
import hashlib
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from spell_cli.answers import Entry
from spell_cli.client import LOST, Client, chunks, pauses
from spell_cli.errors import CliError, UnreachableError
from spell_cli.partial import Partial, partial
from spell_cli.progress import OnBytes
from spell_cli.times import moment
from spell_cli.together import Together
from spell_proto.blob_packs import BLOB_BYTES_MAX, portions
from spell_proto.errors import RefusedError, SpellError, UnavailableError

PARALLEL = 4
_GIVE_UP_AFTER_SECONDS = 60.0
#: File systems keep times as exactly as they can.
_SAME_SECONDS = 1.0


class Clash(Enum):
    """What becomes of a file that is there already."""

    OVERWRITE = "overwrite"
    KEEP = "keep"


class Fetch(NamedTuple):
    """One file to be fetched: where it is on the server, and where it goes."""

    source: str
    target: Path
    entry: Entry


class Problem(NamedTuple):
    """An entry that is not fetched, and why."""

    path: str
    why: str


def plan(resource: str, entries: Sequence[Entry], target: Path) -> tuple[list[Fetch], list[Problem]]:
    """What to fetch, and what cannot be without leaving `target`. Pure but for looking at the target's links."""
    fetches: list[Fetch] = []
    problems: list[Problem] = []
    root = Path(os.path.realpath(target))
    for entry in entries:
        if entry["size"] is None and entry["link"] is None:
            continue
        parts = entry["path"].split("/")
        if any(part in {"", ".", ".."} or "\0" in part for part in parts):
            problems.append(Problem(entry["path"], "its name would lead out of the target directory"))
            continue
        place = root.joinpath(*parts)
        # A link in the target, made by an earlier file or by anybody else, must not lead the bytes elsewhere.
        if Path(os.path.realpath(place.parent)) != place.parent:
            problems.append(Problem(entry["path"], "a link in the target directory leads elsewhere"))
            continue
        if entry["link"] is not None and _escapes(root, place, entry["link"]):
            problems.append(
                Problem(entry["path"], f"it is a link to {entry['link']}, outside the target directory")
            )
            continue
        fetches.append(Fetch(f"{resource}/{entry['path']}", place, entry))
    return fetches, problems


def _escapes(root: Path, place: Path, link: str) -> bool:
    if Path(link).is_absolute():
        return True
    reached = Path(os.path.normpath(place.parent / link))
    return reached != root and root not in reached.parents


def clashes(fetches: Sequence[Fetch]) -> list[Fetch]:
    """Those whose target exists as a file or link."""
    return [fetch for fetch in fetches if os.path.lexists(fetch.target) and not _is_directory(fetch.target)]


def is_there(fetch: Fetch) -> bool:
    """Whether the target has the very content of a file already, as far as that is known, or is the very link."""
    try:
        status = fetch.target.lstat()
        if fetch.entry["link"] is not None:
            return stat.S_ISLNK(status.st_mode) and str(fetch.target.readlink()) == fetch.entry["link"]
        if not stat.S_ISREG(status.st_mode) or status.st_size != fetch.entry["size"]:
            return False
        if fetch.entry["sha256"] is None:
            return _same_time(status.st_mtime, fetch.entry["modified_at"])
        with _readable(fetch.target, stat.S_IMODE(status.st_mode)), fetch.target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == fetch.entry["sha256"]
    except OSError:
        return False


def _same_time(mtime: float, modified_at: str | None) -> bool:
    """Whether a file of the right size has the time of an object, of which nothing else is known: a copy gave it that."""
    return modified_at is not None and abs(mtime - moment(modified_at).timestamp()) < _SAME_SECONDS


@contextlib.contextmanager
def _readable(path: Path, mode: int) -> Iterator[None]:
    """A file of ours that an earlier copy gave a mode nobody can read it with, as it was saved: it can be meanwhile."""
    if mode & stat.S_IRUSR:
        yield
        return
    path.chmod(mode | stat.S_IRUSR)
    try:
        yield
    finally:
        path.chmod(mode)


def blocked(fetches: Sequence[Fetch]) -> list[Fetch]:
    """Those whose target is a directory."""
    return [fetch for fetch in fetches if _is_directory(fetch.target)]


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def fetch_all(
    make_client: Callable[[], Client], fetches: Sequence[Fetch], on_bytes: OnBytes
) -> list[Problem]:
    """Fetch files over a few connections; links last, so that no file is written through one.

    Returns those that the server refuses; the others are fetched all the same.

    Raises:
        the first other error of any of them; files that are whole by then stay.
    """
    files = [fetch for fetch in fetches if fetch.entry["link"] is None]
    waiting: queue.SimpleQueue[list[Fetch]] = queue.SimpleQueue()
    portions = _portions(files)
    for portion in portions:
        waiting.put(portion)
    failed: list[Exception] = []
    refused: list[Problem] = []
    stop = threading.Event()

    def work() -> None:
        client = make_client()
        together = Together(client)
        try:
            while not stop.is_set():
                left, ask = waiting.get_nowait(), True
                while left and not stop.is_set():
                    if ask and len(left) > 1 and not together.refused:
                        left = _fetch_together(together, left, on_bytes, stop)
                        ask = together.broke_off
                    # By itself it is waited for, or it is said why it cannot be had.
                    if left and not stop.is_set():
                        refused.extend(_fetch_alone(client, left.pop(0), on_bytes, stop))
        except queue.Empty:
            pass
        except (SpellError, OSError) as error:
            failed.append(error)
            stop.set()
        finally:
            client.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(PARALLEL, len(portions)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stop.set()
        for thread in threads:
            # Not all may have been started; one that starts only now begins nothing.
            if thread.is_alive():
                thread.join()
        raise
    if failed:
        raise failed[0]
    for fetch in fetches:
        if fetch.entry["link"] is not None:
            _link(fetch)
    return sorted(refused)


def _link(fetch: Fetch) -> None:
    fetch.target.parent.mkdir(parents=True, exist_ok=True)
    assert fetch.entry["link"] is not None
    with contextlib.suppress(FileNotFoundError):
        fetch.target.unlink()
    fetch.target.symlink_to(fetch.entry["link"])


def _portions(files: Sequence[Fetch]) -> list[list[Fetch]]:
    """Large files by themselves, then small ones together: those with the same content in one portion. Pure."""
    small: dict[str, list[Fetch]] = {}
    alone: list[list[Fetch]] = []
    for fetch in files:
        digest, size = fetch.entry["sha256"], fetch.entry["size"] or 0
        if digest is None or size > BLOB_BYTES_MAX:
            alone.append([fetch])
        else:
            small.setdefault(digest, []).append(fetch)
    packs = portions((same, same[0].entry["size"] or 0) for same in small.values())
    return alone + [[fetch for same in pack for fetch in same] for pack in packs]


def _fetch_together(
    together: Together, fetches: list[Fetch], on_bytes: OnBytes, stop: threading.Event
) -> list[Fetch]:
    """Fetch what comes in one go; what is left."""
    by_digest: dict[str, list[Fetch]] = {}
    for fetch in fetches:
        by_digest.setdefault(fetch.entry["sha256"] or "", []).append(fetch)
    entry, source = fetches[0].entry, fetches[0].source
    base = source.removesuffix(f"/{entry['path']}")
    with contextlib.closing(together.files(base, list(by_digest), stop)) as files:
        for digest, data in files:
            for fetch in by_digest.pop(digest):
                _keep(fetch, data, on_bytes)
    return [fetch for same in by_digest.values() for fetch in same]


def _keep(fetch: Fetch, data: bytes, on_bytes: OnBytes) -> None:
    # Asked first: of thousands of files, few are the first in their directory.
    if not fetch.target.parent.is_dir():
        fetch.target.parent.mkdir(parents=True, exist_ok=True)
    with partial(fetch.target, fetch.entry, on_bytes) as arrived:
        arrived.add(data)
        _finish(fetch, arrived)


def _fetch_alone(client: Client, fetch: Fetch, on_bytes: OnBytes, stop: threading.Event) -> list[Problem]:
    """Why a file cannot be had, where that is so."""
    try:
        _fetch(client, fetch, on_bytes, stop)
    except UnavailableError:
        raise
    except RefusedError as error:
        return [Problem(fetch.entry["path"], error.message.rstrip("."))]
    return []


def _fetch(client: Client, fetch: Fetch, on_bytes: OnBytes, stop: threading.Event) -> None:
    """One file: into a file of another name beside its target, verified, then renamed."""
    fetch.target.parent.mkdir(parents=True, exist_ok=True)
    with partial(fetch.target, fetch.entry, on_bytes) as arrived:
        _receive(client, fetch, arrived, stop)
        if stop.is_set():
            return
        _finish(fetch, arrived)


def _finish(fetch: Fetch, arrived: Partial) -> None:
    """What has come takes its place, if it is what it should be."""
    arrived.finish()
    _check(fetch, arrived)
    mode = fetch.entry["mode"]
    arrived.path.chmod(0o644 if mode is None else mode & 0o777)
    if fetch.entry["modified_at"] is not None:
        seconds = moment(fetch.entry["modified_at"]).timestamp()
        # A time that no file here can have is not worth a failure.
        with contextlib.suppress(OSError, OverflowError):
            os.utime(arrived.path, (seconds, seconds))
    arrived.path.replace(fetch.target)
    arrived.keep = False


def _receive(client: Client, fetch: Fetch, arrived: Partial, stop: threading.Event) -> None:
    """All bytes of a file, over as many connections as it takes."""
    attempts, last = pauses(), time.monotonic()
    while arrived.size < (fetch.entry["size"] or 0) or not arrived.size:
        before = arrived.size
        try:
            for data in chunks(client.file(fetch.source, arrived.size)):
                arrived.add(data)
                if stop.is_set():
                    return
            problem: Exception = ConnectionError("the connection ended too early")
        except LOST as error:
            problem = error
        if arrived.size >= (fetch.entry["size"] or 0):
            return
        client.forget()
        if arrived.size > before:
            attempts, last = pauses(), time.monotonic()
        if time.monotonic() - last > _GIVE_UP_AFTER_SECONDS:
            raise UnreachableError(f"Can't reach {client.server.describe()}: {problem}.")
        time.sleep(next(attempts))


def _check(fetch: Fetch, arrived: Partial) -> None:
    wanted = fetch.entry["sha256"]
    if arrived.size != fetch.entry["size"] or wanted not in {None, arrived.digest.hexdigest()}:
        arrived.keep = False
        raise CliError(
            f"{fetch.source} did not arrive as it was saved ({arrived.size} bytes). Nothing was kept of it."
        )
