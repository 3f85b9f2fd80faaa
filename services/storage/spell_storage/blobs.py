"""Content-addressed blobs and the manifests over them, per owner (shell).

The bytes of a blob are stored once, whoever sent them, as an object; a row per owner says who may see them. Nobody gets
such a row without having sent the bytes.

Theory of operation
-------------------
A key of the object store is used for one put, ever. It is on record as *loose* before anything lies under it, and until
the one statement that makes it the object's: killed at any line, a put leaves a key that `garbage` finds and removes,
and removing it can take nothing from another put of the same bytes. What is written before its digest is known lies beside a
loose key of its own until it is renamed to that of its digest. What was used lately is never removed, so whoever
was told that a blob is here has time to name it. A manifest names only what is on the disk: an object of more than
`SMALL_BYTES_MAX` is flushed before it has a row, a small one together with others before the first manifest that needs
it, and what puts a damaged one right at once. An object whose bytes turn out damaged or lost loses its key
(`contents`): it is missing for everybody, and the next who sends it puts it right for all.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from io import FileIO
from typing import TypeVar

import asyncpg

from spell_proto import blob_packs, database
from spell_proto.errors import InvalidError, NotFoundError, UnavailableError
from spell_proto.views import Manifest, ManifestStored
from spell_storage import copying, manifests
from spell_storage.contents import AGAIN_SECONDS, Blob, Contents, damaged
from spell_storage.manifests import Canonical
from spell_storage.objects import Objects
from spell_storage.quotas import QuotaError, Quotas
from spell_storage.sentinel import Sentinel
from spell_storage.sums import Digesting

T = TypeVar("T")

_SQL = database.queries("spell_storage", "blobs.sql")
#: Bodies up to this are held in memory and written in one go.
SMALL_BYTES_MAX = 1 << 20
#: How long what nothing names is kept: time enough to name it.
KEPT_SECONDS = 24 * 3600.0
#: A put that lasts says so often that its key is not taken for abandoned.
_GOES_ON_SECONDS = 60.0
_ASKED_AT_ONCE = 10_000
#: The store is looked for so often while blobs are put.
_SEEN_SECONDS = 5.0


class Blobs:
    """The tables `objects`, `loose`, `blobs` and `manifests`, and the bytes they are about."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        objects: Objects,
        kept_seconds: float = KEPT_SECONDS,
        quotas: Quotas | None = None,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._pool = pool
        self._objects = objects
        self.sentinel = Sentinel(pool, objects)
        self.contents = Contents(pool, objects, self.sentinel, again_seconds)
        self.quotas = quotas or Quotas(pool, 0, 0, None)
        #: What was used within this time is not marked again: half of the time that is left is enough for anybody.
        self._fresh = timedelta(seconds=kept_seconds / 2)

    async def missing(self, owner_id: int, digests: Sequence[str]) -> list[str]:
        """Which of `digests` this owner would have to send. The others are safe from being removed for a while."""
        fresh = datetime.now(UTC) - self._fresh
        asked, lacking = list(dict.fromkeys(digests)), list[str]()
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            some = asked[start : start + _ASKED_AT_ONCE]
            rows = await self._pool.fetch(_SQL["known_blobs"], owner_id, some, fresh)
            known = {row["sha256"] for row in rows} - await self.contents.lost(rows)
            lacking += [digest for digest in some if digest not in known]
        return lacking

    async def put(self, owner_id: int, digest: str, data: bytes) -> None:
        """Store a small blob.

        Raises:
            InvalidError: digest_mismatch.
        """
        await self.put_all(owner_id, {digest: data})

    async def put_all(self, owner_id: int, contents: Mapping[str, bytes]) -> None:
        """Store small blobs together: all of them, or it is tried again.

        Raises:
            InvalidError: digest_mismatch; then none is stored.
        """
        taken = await asyncio.to_thread(_digests, contents) if len(contents) > 1 else _digests(contents)
        keys = await self._begin(list(contents))
        await self._objects.put_all([(key, contents[digest]) for digest, key in keys.items()])
        await self._end(owner_id, taken, keys)

    async def put_stream(self, owner_id: int, digest: str, pieces: AsyncIterator[bytes]) -> None:
        """Store a blob of any size; nothing is kept when it is not what `digest` says.

        Raises:
            InvalidError: digest_mismatch.
        """
        digesting = Digesting()
        keys = await self._begin([digest])
        told = _digested(digest, digesting, pieces)
        if digest in keys:
            await self._objects.put_stream(keys[digest], self._going_on(keys[digest], told))
        else:
            async for _ in told:
                pass
        await self._end(owner_id, {digest: digesting}, keys)

    async def put_file(self, owner_id: int, digest: str, file: FileIO, size: int) -> None:
        """Store a blob that is a file of this machine: its first `size` bytes, as they are read now. Its bytes pass through
        one thread, which sees to the digest of what it writes.

        Raises:
            InvalidError: digest_mismatch.
        """
        if not self._objects.local:
            await self.put_stream(owner_id, digest, copying.pieces(file, size))
            return
        digesting = Digesting()
        keys = await self._begin([digest])
        if digest in keys:
            async with self._objects.writing(keys[digest]) as number:
                steps = copying.steps(file, size, digesting, number)
                async for _ in self._going_on(keys[digest], steps):
                    pass
                _check(digest, digesting.sha256)
        else:
            async for _ in copying.steps(file, size, digesting, None):
                pass
            _check(digest, digesting.sha256)
        await self._end(owner_id, {digest: digesting}, keys)

    async def certainly_new(self, owner_id: int, looks: Sequence[tuple[int, bytes]]) -> list[bool]:
        """Which large files, by their size and the checksums of some of it, this owner cannot have, so that they are best
        read where they are without a look at their digest. What others have is not told.
        """
        if not self._objects.local:
            return [False] * len(looks)
        places = [blob_packs.looked_at(size) for size, _ in looks]
        columns = [[size for size, _ in looks], *([at[i] for at in places] for i in (1, 2))]
        rows = await self._pool.fetch(_SQL["known_looks"], owner_id, *columns, [sums for _, sums in looks])
        known = {row["number"] - 1 for row in rows}
        return [
            number not in known and size >= blob_packs.LOOKED_AT_BYTES_MIN
            for number, (size, _) in enumerate(looks)
        ]

    async def take_file(self, owner_id: int, file: FileIO, version: str) -> str:
        """Store a blob that is a file of this machine, whatever it holds; its digest. Where its bytes are here already, they
        are read and written in vain.

        Raises:
            InvalidError: file_changed, where it is not this `version` from the first byte to the last.
        """
        if not self._objects.local:
            raise InvalidError(
                blob_packs.FILE_UNREACHABLE, "file: it is sent elsewhere, under its digest", field="file"
            )
        size = copying.check_version(file, version)
        await self.sentinel.check(within_seconds=_SEEN_SECONDS)
        token = secrets.token_hex(16)
        unnamed = f"blobs/{token[:2]}/{token}"
        digesting = Digesting()
        await self._pool.execute(_SQL["begin_unnamed"], unnamed)
        async with self._objects.unnamed(unnamed) as (number, name):
            async for _ in self._going_on(unnamed, copying.steps(file, size, digesting, number)):
                pass
            copying.check_version(file, version)
            keys = await self._begin([digesting.sha256])
            for key in keys.values():
                await name(key)
        await self._end(owner_id, {digesting.sha256: digesting}, keys)
        await self._pool.execute(_SQL["end_unnamed"], unnamed)
        return digesting.sha256

    async def find(self, owner_id: int, digest: str) -> Blob:
        """A blob to read from.

        Raises:
            NotFoundError: this owner has no such blob.
            GoneError: its bytes are damaged or lost.
        """
        row = await self._pool.fetchrow(_SQL["find_blob"], owner_id, digest)
        if row is None:
            raise NotFoundError("blob_unknown", f"no blob {digest}")
        if row["key"] is None:
            raise damaged(digest)
        return Blob(digest, row["size"], row["key"], row["sums"])

    def stream(self, blob: Blob, first: int, length: int) -> AsyncGenerator[bytes, None]:
        """Bytes of a blob, each piece checked before any of it is given out. Raises as `Contents.stream` does."""
        return self.contents.stream(blob, first, length)

    async def read(self, owner_id: int, digest: str) -> bytes:
        """All of a small blob. Raises as `find` and `stream` do."""
        blob = await self.find(owner_id, digest)
        return b"".join([piece async for piece in self.stream(blob, 0, blob.size)])

    async def together(self, owner_id: int, digests: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """Those of some small blobs that are here and look whole, as a pack. What is left out is to be asked for by itself,
        which says why, and does about it what is to be done.
        """
        rows = await self._pool.fetch(_SQL["find_blobs"], owner_id, list(digests), blob_packs.BLOB_BYTES_MAX)
        blobs = [Blob(row["sha256"], row["size"], row["key"], row["sums"]) for row in rows]
        async for some in self.contents.small(blobs):
            yield blob_packs.pack(some)

    async def put_manifest(
        self, owner_id: int, manifest: Manifest, *, beyond: bool = False
    ) -> ManifestStored:
        """Store a manifest in its canonical form; everything it names is durable when this returns. `beyond`: also where its
        owner has more than he may then.

        Raises:
            InvalidError: blob_missing, or manifest_invalid for paths no directory could hold and sizes that blobs do not have.
            UnavailableError: blobs were removed, or found damaged, meanwhile.
            QuotaError: its owner would have more than he may.
        """
        canonical = await asyncio.to_thread(manifests.of, manifest)
        return await self.put_canonical(owner_id, canonical, beyond=beyond)

    async def put_canonical(
        self, owner_id: int, manifest: Canonical, *, beyond: bool = False
    ) -> ManifestStored:
        """Store a manifest that is in its canonical form already. Raises as `put_manifest` does."""
        wanted = list(manifest.sizes)
        _check_complete(len(wanted), await self.missing(owner_id, wanted))
        digest = (await asyncio.to_thread(hashlib.sha256, manifest.data)).hexdigest()
        stored = ManifestStored(digest=digest, files=manifest.files, bytes=manifest.bytes)
        await self.put(owner_id, stored.digest, manifest.data)
        await self._flush([stored.digest, *wanted])
        try:
            problem = await self._name_blobs(owner_id, stored, manifest, beyond=beyond)
        except QuotaError:
            if not await self.quotas.look_again(owner_id):
                raise
            problem = await self._name_blobs(owner_id, stored, manifest, beyond=beyond)
        return stored.model_copy(update={"full": problem})

    async def manifest(self, owner_id: int, digest: str) -> bytes:
        """The canonical JSON of a manifest.

        Raises:
            NotFoundError: this owner has no such manifest.
            GoneError: its bytes are damaged or lost.
        """
        if not await self._pool.fetchval(_SQL["has_manifest"], owner_id, digest):
            raise NotFoundError("manifest_unknown", f"no manifest {digest}")
        return await self.read(owner_id, digest)

    async def _begin(self, digests: Sequence[str]) -> dict[str, str]:
        """Keys to put objects under, without those that are here already."""
        keys = {digest: f"blobs/{digest[:2]}/{digest}.{secrets.token_hex(8)}" for digest in digests}
        await self.sentinel.check(within_seconds=_SEEN_SECONDS)
        here = await self._pool.fetch(_SQL["begin_puts"], list(keys), list(keys.values()))
        lost = {digest: keys[digest] for digest in await self.contents.lost(here)}
        there = {row["sha256"] for row in here} - set(lost)
        if lost:
            # Somebody else may have put them right in the meantime.
            again = await self._pool.fetch(_SQL["begin_puts"], list(lost), list(lost.values()))
            there |= {row["sha256"] for row in again}
        return {digest: key for digest, key in keys.items() if digest not in there}

    async def _end(self, owner_id: int, taken: Mapping[str, Digesting], keys: Mapping[str, str]) -> None:
        """What lies under `keys` become objects; all in `taken` become blobs of the owner."""
        granted: set[str] = set()
        if keys:
            told = [taken[digest] for digest in keys]
            columns = [
                list(keys),
                list(keys.values()),
                [one.size for one in told],
                [one.sums for one in told],
            ]
            rows = await self._pool.fetch(_SQL["end_puts"], *columns, owner_id)
            chosen = {row["sha256"]: row["key"] for row in rows}
            # What is right again may be needed by manifests that trust it to be on the disk.
            righted = [row["key"] for row in rows if row["known"] and row["key"] in keys.values()]
            if righted:
                await self._objects.flush(righted)
            granted |= set(chosen)
            for digest, key in keys.items():
                if chosen.get(digest) != key:
                    # Somebody was faster, or this took so long that the key was given up.
                    await self._pool.execute(_SQL["give_up"], key)
                    await self._objects.remove(key)
        there = [digest for digest in taken if digest not in keys]
        if there:
            rows = await self._pool.fetch(_SQL["grant_blobs"], owner_id, there)
            granted |= {row["sha256"] for row in rows}
        if len(granted) < len(taken):
            raise UnavailableError("unavailable", "blobs were removed while they were sent; send them again")

    async def _flush(self, digests: Sequence[str]) -> None:
        """These objects survive a power cut. Large ones do from the first, and so does what a manifest needs already."""
        asked = list(digests)
        keys: list[str] = []
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            some = asked[start : start + _ASKED_AT_ONCE]
            keys += [row["key"] for row in await self._pool.fetch(_SQL["unsettled"], some, SMALL_BYTES_MAX)]
        await self._objects.flush(keys)

    async def _going_on(self, key: str, pieces: AsyncIterator[T]) -> AsyncIterator[T]:
        said_at = time.monotonic()
        async for piece in pieces:
            if time.monotonic() - said_at >= _GOES_ON_SECONDS:
                if await self._pool.fetchval(_SQL["go_on_putting"], key) is None:
                    raise UnavailableError("unavailable", "the blob took too long; send it again")
                said_at = time.monotonic()
            yield piece

    async def _name_blobs(
        self, owner_id: int, stored: ManifestStored, manifest: Canonical, *, beyond: bool
    ) -> str | None:
        """The commit that makes a manifest: from here on nothing it needs is removed. A sentence where its owner has as much
        as he may from here on.
        """
        digests = {stored.digest, *manifest.sizes}
        async with (
            self.quotas.turn(owner_id),
            self._pool.acquire() as connection,
            connection.transaction(),
        ):
            await self.quotas.lock(connection, owner_id)
            before = await self.quotas.before(connection, owner_id, stored.digest)
            rows = await connection.fetch(_SQL["hold_blobs"], owner_id, list(digests))
            if len(rows) < len(digests) or not all(row["here"] for row in rows):
                raise UnavailableError("unavailable", "blobs were removed or lost meanwhile; send them again")
            manifests.check_sizes(manifest, {row["sha256"]: row["size"] for row in rows})
            values = (owner_id, stored.digest, stored.files, stored.bytes)
            manifest_id = await connection.fetchval(_SQL["add_manifest"], *values)
            await connection.execute(_SQL["list_objects"], manifest_id, [row["id"] for row in rows])
            return await self.quotas.add(connection, owner_id, manifest_id, before, beyond=beyond)


async def checked(digest: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces as they come.

    Raises:
        InvalidError: digest_mismatch, at their end. Raised before that is seen, it keeps an object from coming into being.
    """
    async for piece in _digested(digest, Digesting(), pieces):
        yield piece


async def _digested(digest: str, digesting: Digesting, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        # In a thread, while what follows arrives.
        await asyncio.to_thread(digesting.add, piece)
        yield piece
    _check(digest, digesting.sha256)


def _digests(contents: Mapping[str, bytes]) -> dict[str, Digesting]:
    taken: dict[str, Digesting] = {}
    for digest, data in contents.items():
        taken[digest] = Digesting()
        taken[digest].add(data)
        _check(digest, taken[digest].sha256)
    return taken


def _check(wanted: str, found: str) -> None:
    if wanted != found:
        raise InvalidError("digest_mismatch", f"body: its SHA-256 is {found}, not {wanted}", field="sha256")


def _check_complete(wanted: int, missing: Sequence[str]) -> None:
    if missing:
        raise InvalidError(
            "blob_missing",
            f"entries: {len(missing)} of {wanted} blobs are not here, the first is {missing[0]}",
            field="entries",
        )
