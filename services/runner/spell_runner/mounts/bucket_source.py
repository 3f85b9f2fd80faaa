"""What a bucket holds, as storage lists and reads it: the content of a mount is what was listed when the run began (shell)."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from pydantic import TypeAdapter

from spell_proto.buckets import ObjectEntry
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.state import Reason
from spell_runner.errors import AttemptError
from spell_runner.mounts.content import FILE, Item, Look, key_of
from spell_runner.notes import Notes

_ENTRY: TypeAdapter[ObjectEntry] = TypeAdapter(ObjectEntry)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MODE = 0o644
#: A bucket that does not answer is asked again for so long, from when it last did.
PATIENCE_SECONDS = 300.0
#: How often the log says how long a listing is by now.
PROGRESS_SECONDS = 2.0


class BucketSource:
    """The object at a URL, or all objects below it."""

    def __init__(
        self, storage: Caller, url: str, notes: Notes, progress_seconds: float = PROGRESS_SECONDS
    ) -> None:
        self._storage = storage
        self._url = url
        self._notes = notes
        self._progress_seconds = progress_seconds
        self._items: list[Item] = []
        self._objects: dict[str, ObjectEntry] = {}
        self._silent_since: float | None = None

    @property
    def away(self) -> str:
        return f"{root_of(self._url)} does not answer; waiting for it"

    async def look(self) -> Look:
        found = await self._listed()
        alone = is_alone(self._url, found)
        hidden = below_files(found)
        for key in sorted(hidden):
            self._notes.line(f"Not mounted: {key}: there is a directory of that name")
        found = [entry for entry in found if entry.key not in hidden]
        if not found:
            raise AttemptError(Reason.MOUNT_FAILED, "there is nothing in it")
        items = [(item_of(self._url, entry, alone=alone), entry) for entry in found]
        self._objects = {item.path: entry for item, entry in items}
        self._items = [item for item, _ in items]
        key = key_of("bucket", alone, *(f"{item.path}\n{item.name}" for item in self._items))
        return Look(key, alone)

    async def content(self) -> list[Item]:
        assert self._items, "it was looked at"
        return self._items

    @asynccontextmanager
    async def read(self, item: Item, start: int) -> AsyncIterator[AsyncIterator[bytes]]:
        entry = self._objects[item.path]
        headers = {"Range": f"bytes={start}-"} if start else None
        params = {"url": f"{root_of(self._url)}/{entry.key}", "etag": entry.etag}
        async with self._asked("/buckets/object", params, headers) as answer:
            yield answer.content.iter_any()

    def goes_together(self, item: Item) -> bool:  # noqa: ARG002 -- as its Protocol says
        return False

    def together(self, digests: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        raise AssertionError(f"objects of buckets are read one by one, not {len(digests)} together")

    async def _listed(self) -> list[ObjectEntry]:
        found: list[ObjectEntry] = []
        told = time.monotonic()
        async with self._asked("/buckets/list", {"url": self._url, "recursive": 1}) as answer:
            async for line in answer.content:
                if time.monotonic() - told >= self._progress_seconds:
                    told = time.monotonic()
                    self._notes.line(f"Listing {self._url}: {len(found):,} objects so far")
                if line.startswith(b'{"end":'):
                    return found
                if line.strip():
                    found.append(_ENTRY.validate_json(line))
        raise UnavailableError("unavailable", "the listing broke off")

    @asynccontextmanager
    async def _asked(
        self, path: str, params: dict[str, Any], headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer about the bucket. That the bucket itself does not answer may pass, but it is not waited for for ever."""
        try:
            async with self._storage.open("GET", path, params=params, headers=headers, stream=True) as answer:
                self._silent_since = None
                yield answer
        except RefusedError as error:
            if error.code != "bucket_unreachable":
                raise
            self._silent_since = self._silent_since or time.monotonic()
            if time.monotonic() - self._silent_since > PATIENCE_SECONDS:
                raise
            raise UnavailableError(error.code, error.message) from error


def root_of(url: str) -> str:
    """The bucket of a URL. Pure."""
    return "/".join(url.split("/", 3)[:3])


def key_in(url: str) -> str:
    """What stands behind the bucket in a URL. Pure."""
    return url[len(root_of(url)) + 1 :]


def is_alone(url: str, found: Sequence[ObjectEntry]) -> bool:
    """Whether a URL names one object. Pure."""
    return len(found) == 1 and found[0].key == key_in(url)


def below_files(found: Sequence[ObjectEntry]) -> set[str]:
    """Keys that name a file where others need a directory: a bucket lets both be. Pure."""
    keys = {entry.key for entry in found}
    return keys & {key[:at] for key in keys for at, character in enumerate(key) if character == "/"}


def item_of(url: str, entry: ObjectEntry, *, alone: bool) -> Item:
    """An object as a file. The ETag, the key and the size say which bytes it has; where a cloud gives no ETag, its time
    does. Pure.
    """
    prefix = key_in(url)
    path = FILE if alone else entry.key.removeprefix(f"{prefix}/" if prefix else "")
    at = entry.modified_at or _EPOCH
    identity = key_of(root_of(url), entry.key, entry.etag or at.isoformat(), entry.size)
    since = (at - _EPOCH) // timedelta(microseconds=1)
    return Item(path, entry.size or 0, _MODE, since * 1000, identity)
