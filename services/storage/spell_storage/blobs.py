"""Content-addressed blobs and the manifests over them, per owner (shell).

The bytes of a blob are stored once, whoever sent them; a row per owner says who may see them. Nobody gets such
a row without having sent the bytes.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC

import asyncpg
from pydantic import TypeAdapter

from spell_proto import database
from spell_proto.errors import InvalidError, NotFoundError, shown
from spell_proto.spec import canonical_json
from spell_proto.views import Manifest, ManifestStored
from spell_storage.objects import Objects

_SQL = database.queries("spell_storage", "blobs.sql")
#: Bodies up to this are held in memory and written in one go.
SMALL_BYTES_MAX = 1 << 20
MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


class Blobs:
    """The tables `blobs` and `manifests`, and the objects they name."""

    def __init__(self, pool: asyncpg.Pool, objects: Objects) -> None:
        self._pool = pool
        self._objects = objects

    async def missing(self, owner_id: int, digests: Sequence[str]) -> list[str]:
        """Which of `digests` this owner would have to send."""
        rows = await self._pool.fetch(_SQL["known_blobs"], owner_id, list(digests))
        known = {row["sha256"]: row["size"] for row in rows}
        if self._objects.local:
            # After a power cut a row may be there without its file; a stat each is cheap on a local disk.
            for digest, size in list(known.items()):
                if await self._objects.size(_key(digest)) != size:
                    del known[digest]
        return [digest for digest in dict.fromkeys(digests) if digest not in known]

    async def put(self, owner_id: int, digest: str, data: bytes) -> None:
        """Store a small blob.

        Raises:
            InvalidError: digest_mismatch.
        """
        _check(digest, hashlib.sha256(data).hexdigest())
        await self._objects.put(_key(digest), data)
        await self._pool.execute(_SQL["add_blob"], owner_id, digest, len(data))

    async def put_stream(self, owner_id: int, digest: str, pieces: AsyncIterator[bytes]) -> None:
        """Store a blob of any size; nothing is kept when it is not what `digest` says.

        Raises:
            InvalidError: digest_mismatch.
        """
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for piece in checked(digest, pieces):
                size += len(piece)
                yield piece

        await self._objects.put_stream(_key(digest), counted())
        await self._pool.execute(_SQL["add_blob"], owner_id, digest, size)

    async def size(self, owner_id: int, digest: str) -> int:
        """How long a blob is.

        Raises:
            NotFoundError: this owner has no such blob.
        """
        size: int | None = await self._pool.fetchval(_SQL["blob_size"], owner_id, digest)
        if size is None:
            raise NotFoundError("blob_unknown", f"no blob {digest}")
        return size

    def stream(self, digest: str, first: int, length: int) -> AsyncGenerator[bytes, None]:
        """Bytes of a blob whose owner has been checked with `size`."""
        return self._objects.stream(_key(digest), first, length)

    async def put_manifest(self, owner_id: int, manifest: Manifest) -> ManifestStored:
        """Store a manifest in its canonical form; everything it names is durable when this returns.

        Raises:
            InvalidError: blob_missing, or manifest_invalid for paths no directory could hold.
        """
        manifest = await asyncio.to_thread(_canonical, manifest)
        files = [entry for entry in manifest.entries if entry.link is None]
        missing = await self.missing(owner_id, [entry.sha256 for entry in files])
        if missing:
            raise InvalidError(
                "blob_missing",
                f"entries: {len(missing)} of {len(files)} blobs are not here, the first is {missing[0]}",
                field="entries",
            )
        data = await asyncio.to_thread(canonical_json, manifest.model_dump())
        stored = ManifestStored(
            digest=hashlib.sha256(data).hexdigest(),
            files=len(files),
            bytes=sum(entry.size for entry in files),
        )
        await self._objects.put(_key(stored.digest), data)
        await self._objects.settle()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_SQL["add_manifest_blob"], owner_id, stored.digest, len(data))
            await connection.execute(
                _SQL["add_manifest"], owner_id, stored.digest, stored.files, stored.bytes
            )
        return stored

    async def manifest(self, owner_id: int, digest: str) -> bytes:
        """The canonical JSON of a manifest.

        Raises:
            NotFoundError: this owner has no such manifest.
        """
        if not await self._pool.fetchval(_SQL["has_manifest"], owner_id, digest):
            raise NotFoundError("manifest_unknown", f"no manifest {digest}")
        return await self._objects.get(_key(digest))


async def checked(digest: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces as they come.

    Raises:
        InvalidError: digest_mismatch, at their end. Raised before that is seen, it keeps an object from coming into being.
    """
    hashing = hashlib.sha256()
    async for piece in pieces:
        hashing.update(piece)
        yield piece
    _check(digest, hashing.hexdigest())


def _key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _check(wanted: str, found: str) -> None:
    if wanted != found:
        raise InvalidError("digest_mismatch", f"body: its SHA-256 is {found}, not {wanted}", field="sha256")


def _canonical(manifest: Manifest) -> Manifest:
    """The manifest sorted by path, times in UTC: equal content, equal digest."""
    entries = sorted(
        (
            entry.model_copy(update={"modified_at": entry.modified_at.astimezone(UTC)})
            for entry in manifest.entries
        ),
        key=lambda entry: entry.path,
    )
    deleted = sorted(set(manifest.deleted))
    before = None
    for path in [entry.path for entry in entries]:
        if path == before:
            raise _invalid(f"the path {shown(path)} is there twice")
        before = path
    for path in (*(entry.path for entry in entries), *deleted):
        if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
            raise _invalid(f"{shown(path)} is not a path below a resource")
    return manifest.model_copy(update={"entries": tuple(entries), "deleted": tuple(deleted)})


def _invalid(what: str) -> InvalidError:
    return InvalidError("manifest_invalid", f"entries: {what}", field="entries")
