"""Sends the files of an upload: several at once, only those that the server lacks, each from where it was left."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, BinaryIO, TypeVar

from spell_cli.client import LOST, pauses
from spell_cli.errors import CliError, UnreachableError
from spell_cli.gathering import Local, opened
from spell_cli.progress import OnBytes
from spell_cli.terminal import safe_path
from spell_cli.upload_client import UploadClient
from spell_proto import blob_packs
from spell_proto.errors import ConflictError, InvalidError, RefusedError, UnavailableError

AT_ONCE = 10
PACKS_AT_ONCE = 4
HASHED_AT_ONCE = 4
#: A file up to this goes along with its first request, a larger one in parts.
SMALL_BYTES_MAX = 1 << 20
PART_BYTES = 4 << 20
_GIVE_UP_AFTER_SECONDS = 60.0
_T = TypeVar("_T")


class Sender:
    """Sends into one upload. `stop` ends it between two parts."""

    def __init__(self, make_client: Callable[[], UploadClient], upload_id: int, on_bytes: OnBytes) -> None:
        self._make_client = make_client
        self._upload_id = upload_id
        self._on_bytes = on_bytes
        self._local = threading.local()
        self.stop = threading.Event()
        #: What was found of each path.
        self.by_path: dict[str, str] = {}

    def digests(self, files: Sequence[Local]) -> dict[str, Local]:
        """The files by their SHA-256, and so each content once.

        Raises:
            CliError: a file cannot be read, or changes meanwhile.
        """
        hashed = self._each(HASHED_AT_ONCE, self._digest, files)
        self.by_path = {local.path: digest for local, digest in hashed}
        return {digest: local for local, digest in hashed}

    def missing(self, by_digest: Mapping[str, Local]) -> dict[str, Local]:
        """Those that the server lacks."""
        wanted = self._client().missing(self._upload_id, list(by_digest))
        known = sum(local.size for digest, local in by_digest.items() if digest not in wanted)
        self._on_bytes(known, known=True)
        return {digest: local for digest, local in by_digest.items() if digest in wanted}

    def send_missing(self, missing: Mapping[str, Local]) -> None:
        """Send these files.

        Raises:
            CliError: a file cannot be read, or changes meanwhile.
        """
        small = [pair for pair in missing.items() if pair[1].size <= blob_packs.BLOB_BYTES_MAX]
        large = [pair for pair in missing.items() if pair[1].size > blob_packs.BLOB_BYTES_MAX]
        packs = blob_packs.portions((pair, pair[1].size) for pair in small)
        self._each(PACKS_AT_ONCE, self._send_together, packs)
        self._each(AT_ONCE, lambda pair: self._send(*pair), large)

    def entries(self, found: Sequence[Local]) -> list[dict[str, Any]]:
        """What the manifest says of files and links, once `digests` knows the files."""
        return [_entry(local, self.by_path.get(local.path)) for local in found]

    def send_one(self, name: str, source: BinaryIO, size: int, digest: str) -> None:
        """Send one file from where it was left, under a name of its own."""
        client = self._client()
        if size <= SMALL_BYTES_MAX:
            client.create(self._upload_id, name, digest, size, source.read())
            self._on_bytes(size)
            return
        place, offset = client.create(self._upload_id, name, digest, size)
        self._on_bytes(offset, known=True)
        since, waiting = time.monotonic(), pauses()
        while offset < size and not self.stop.is_set():
            source.seek(offset)
            reached, problem = self._send_part(client, place, offset, source.read(PART_BYTES))
            self._on_bytes(reached - offset)
            if reached > offset:
                since, waiting = time.monotonic(), pauses()
            elif time.monotonic() - since > _GIVE_UP_AFTER_SECONDS:
                raise UnreachableError(f"Can't reach {client.server.describe()}: {problem}.")
            else:
                time.sleep(next(waiting))
            offset = reached

    @staticmethod
    def _send_part(
        client: UploadClient, place: str, offset: int, data: bytes
    ) -> tuple[int, Exception | None]:
        """How far the file is there now, whatever became of this part."""
        problem: Exception
        try:
            return client.send(place, offset, data), None
        except LOST as error:
            client.forget()
            problem = error
        except RefusedError as error:
            if error.code not in {"offset_conflict", "upload_locked"}:
                raise
            problem = error
        return client.offset(place), problem

    def _digest(self, local: Local) -> str:
        with opened(local) as file:
            digest = digest_of(file)
            if os.fstat(file.fileno()).st_size != local.size:
                raise _changed(local)
        return digest

    def _send_together(self, pack: Sequence[tuple[str, Local]]) -> None:
        """Send small files in one go. Where they are refused, each by itself shows which one is."""
        data = blob_packs.pack((digest, _content(local)) for digest, local in pack)
        try:
            self._client().send_pack(self._upload_id, data)
        except UnavailableError:
            raise
        except RefusedError:
            for pair in pack:
                if not self.stop.is_set():
                    self._send(*pair)
        else:
            self._on_bytes(sum(local.size for _, local in pack))

    def _send(self, digest: str, local: Local) -> None:
        try:
            with opened(local) as file:
                self.send_one(digest, file, local.size, digest)
        except (ConflictError, InvalidError) as error:
            if error.code in {"upload_file_changed", "upload_too_long"}:
                raise _changed(local) from None
            raise

    def _each(self, at_once: int, work: Callable[[Any], _T], items: Sequence[Any]) -> list[tuple[Any, _T]]:
        """What `work` gives for each; the first error ends all of it."""

        def step(item: Any) -> _T | None:
            return None if self.stop.is_set() else work(item)

        pool = ThreadPoolExecutor(max(1, min(at_once, len(items))))
        doing = [pool.submit(step, item) for item in items]
        try:
            for each in wait(doing, return_when=FIRST_EXCEPTION).done:
                each.result()
        except BaseException as error:
            self.stop.set()
            # Who has pressed ^C does not wait for a line that is dead.
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()
        results: Iterable[Any] = (each.result() for each in doing)
        return list(zip(items, results, strict=True))

    def _client(self) -> UploadClient:
        """One connection per thread."""
        client: UploadClient | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._make_client()
        return client


def _content(local: Local) -> bytes:
    with opened(local) as file:
        data = file.read(local.size + 1)
    if len(data) != local.size:
        raise _changed(local)
    return data


def _entry(local: Local, digest: str | None) -> dict[str, Any]:
    # Size and SHA-256 of a link are those of what it says.
    said = os.fsencode(local.link or "")
    return {
        "path": local.path,
        "size": local.size if local.link is None else len(said),
        "sha256": digest or hashlib.sha256(said).hexdigest(),
        "mode": local.mode,
        "modified_at": local.modified_at,
        "link": local.link,
    }


def _changed(local: Local) -> CliError:
    return CliError(
        f"'{safe_path(local.path)}' changed while it was uploaded.",
        hint="Run the same command again to go on.",
    )


def digest_of(file: BinaryIO) -> str:
    """The SHA-256 of a file, which is left at its beginning."""
    hashing = hashlib.sha256()
    file.seek(0)
    while data := file.read(1 << 20):
        hashing.update(data)
    file.seek(0)
    return hashing.hexdigest()
