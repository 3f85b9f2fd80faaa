"""Where the content of a mount comes from. The cache asks nothing else of it, whatever it is (shell)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

import orjson
from pydantic import TypeAdapter

from spell_proto import blob_packs
from spell_proto.errors import NotFoundError, RefusedError
from spell_proto.http import Caller
from spell_proto.mounts import Mount
from spell_proto.state import Reason
from spell_proto.views import Manifest, ManifestEntry
from spell_runner.errors import AttemptError
from spell_runner.mounts.content import FILE, Item, Look, key_of

_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
#: A manifest of hundreds of thousands of files.
MANIFEST_SECONDS_MAX = 120.0
#: Storage has found out that the bytes of a file are not what they were.
BLOB_DAMAGED = "blob_damaged"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Source(Protocol):
    """A resource somewhere else. Everything may be asked again: what is away for a while is said by the errors that
    `spell_runner.asking` waits for. `AttemptError` says that it will never be there; its message is a sentence without
    the name of the resource.
    """

    @property
    def away(self) -> str:
        """What the log of a run says while it waits for it."""
        ...

    async def look(self) -> Look:
        """What it is now. Quick where that is known beforehand; else it is listed, and `content` is of that moment."""
        ...

    async def content(self) -> list[Item]:
        """Its files, with paths relative to it. A single file is called `FILE`."""
        ...

    def read(self, item: Item, start: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of one of its files from `start` on."""
        ...

    def goes_together(self, item: Item) -> bool:
        """Whether one of its files may be read together with others."""
        ...

    def together(self, digests: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A pack with such files, by their SHA-256. What cannot be had together is left out."""
        ...


class ManifestSource:
    """What a manifest of storage holds at or below a path."""

    def __init__(self, storage: Caller, mount: Mount) -> None:
        assert mount.manifest is not None
        self._storage = storage
        self._manifest = mount.manifest
        self._owner = {"owner_id": mount.owner_id}
        self._path = mount.path
        self._is_file = mount.is_file

    @property
    def away(self) -> str:
        return "Storage does not answer; waiting for it"

    async def look(self) -> Look:
        return Look(key_of("manifest", self._manifest, self._path, self._is_file), self._is_file)

    async def content(self) -> list[Item]:
        path = f"/manifests/{self._manifest}"
        try:
            async with self._storage.open(
                "GET", path, params=self._owner, seconds=MANIFEST_SECONDS_MAX
            ) as answer:
                data = await answer.read()
        except NotFoundError as error:
            raise AttemptError(Reason.MOUNT_FAILED, "it is not in storage any more") from error
        items = await asyncio.to_thread(self._items, data)
        if not items:
            raise AttemptError(Reason.MOUNT_FAILED, f"there is no {self._path or 'file'} in it")
        return items

    def _items(self, data: bytes) -> list[Item]:
        entries = _MANIFEST.validate_json(data).entries
        if self._is_file:
            return [_item(entry, FILE) for entry in entries if entry.path == self._path]
        prefix = f"{self._path}/" if self._path else ""
        return [
            _item(entry, entry.path.removeprefix(prefix))
            for entry in entries
            if entry.path.startswith(prefix)
        ]

    @asynccontextmanager
    async def read(self, item: Item, start: int) -> AsyncIterator[AsyncIterator[bytes]]:
        headers = {"Range": f"bytes={start}-"} if start else None
        try:
            async with self._storage.open(
                "GET", f"/blobs/{item.sha256}", params=self._owner, headers=headers, stream=True
            ) as answer:
                yield answer.content.iter_any()
        except NotFoundError as error:
            raise AttemptError(
                Reason.MOUNT_FAILED, f"its file {self._name(item)!r} is not in storage any more"
            ) from error
        except RefusedError as error:
            if error.code != BLOB_DAMAGED:
                raise
            # Storage knows it by its digest alone.
            message = f"its file {self._name(item)!r} is damaged where it is kept"
            raise AttemptError(Reason.MOUNT_FAILED, message) from error

    def _name(self, item: Item) -> str:
        """What a file is called in its resource."""
        above = f"{self._path}/" if self._path else ""
        return self._path if self._is_file else f"{above}{item.path}"

    def goes_together(self, item: Item) -> bool:
        return item.size <= blob_packs.BLOB_BYTES_MAX

    @asynccontextmanager
    async def together(self, digests: Sequence[str]) -> AsyncIterator[AsyncIterator[bytes]]:
        body, headers = orjson.dumps({"digests": digests}), {"Content-Type": "application/json"}
        async with self._storage.open(
            "POST", "/blobs/unpack", params=self._owner, data=body, headers=headers, stream=True
        ) as answer:
            yield answer.content.iter_any()


def _item(entry: ManifestEntry, path: str) -> Item:
    # Whole microseconds, as the manifest has them: a float would make other nanoseconds of them.
    since = (entry.modified_at - _EPOCH) // timedelta(microseconds=1)
    return Item(path, entry.size, entry.mode, since * 1000, entry.sha256, entry.sha256, entry.link)
