"""Saved files without a service around them, for tests of their whole life: tables, a directory, and crashes on demand."""

import contextlib
import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

from obstore.store import GCSStore, S3Store

from spell_proto import database
from spell_proto.views import Manifest, ManifestEntry
from spell_storage.blobs import Blobs
from spell_storage.garbage import Garbage
from spell_storage.objects import Objects
from support import buckets

DAY = 24 * 3600.0


class CrashError(Exception):
    """The process is gone from this line on: it neither does anything more nor hears what came of it."""


class Fuse:
    """Lets something happen at one of the moments at which what this process does is seen outside of it."""

    def __init__(self):
        self._moments = itertools.count()
        self._at = None
        self._event = None

    def set(self, at, event):
        """At the moment of this number, counted from now on, `event` is called, once."""
        self._moments = itertools.count()
        self._at, self._event = at, event

    async def moment(self):
        if self._event is not None and next(self._moments) == self._at:
            event, self._event = self._event, None
            await event()


class Statements:
    """A pool, or a connection of it, whose statements are such moments."""

    def __init__(self, real, fuse):
        self._real = real
        self._fuse = fuse

    def __getattr__(self, name):
        call = getattr(self._real, name)
        if name not in {"fetch", "fetchrow", "fetchval", "execute"}:
            return call

        async def made(*arguments):
            await self._fuse.moment()
            done = await call(*arguments)
            await self._fuse.moment()
            return done

        return made

    @contextlib.asynccontextmanager
    async def acquire(self):
        async with self._real.acquire() as connection:
            yield Statements(connection, self._fuse)


class FusedObjects(Objects):
    """A store whose writes and removals are such moments, and that may be away: it looks empty then."""

    fuse: Fuse
    away = False

    async def get(self, key):
        self._look(key)
        return await super().get(key)

    async def size(self, key):
        return None if self.away else await super().size(key)

    async def stream(self, key, start, length):
        self._look(key)
        async with contextlib.aclosing(super().stream(key, start, length)) as pieces:
            async for piece in pieces:
                yield piece

    async def listed(self, prefix):
        async with contextlib.aclosing(super().listed(prefix)) as pages:
            async for page in pages:
                yield [] if self.away else page

    def _look(self, key):
        if self.away:
            raise FileNotFoundError(key)

    async def put(self, key, data, *, synced=False):
        await self.fuse.moment()
        await super().put(key, data, synced=synced)
        await self.fuse.moment()

    async def put_all(self, objects):
        for one in objects:
            await self.fuse.moment()
            await super().put_all([one])
        await self.fuse.moment()

    @contextlib.asynccontextmanager
    async def writing(self, key):
        await self.fuse.moment()
        async with super().writing(key) as number:
            yield number
            await self.fuse.moment()
        await self.fuse.moment()

    async def remove(self, key):
        await self.fuse.moment()
        await super().remove(key)
        await self.fuse.moment()


@dataclass
class FilesRoom:
    """Storage of saved files; `named` are the manifests that runs have, as the scheduler would know them."""

    pool: object
    objects: FusedObjects
    fuse: Fuse = field(default_factory=Fuse)
    named: set = field(default_factory=set)

    def __post_init__(self):
        self.objects.fuse = self.fuse
        fused = Statements(self.pool, self.fuse)
        self.blobs = Blobs(fused, self.objects, DAY, again_seconds=0.0)
        self.garbage = Garbage(fused, self.objects, self.blobs, self._in_use, DAY)

    async def _in_use(self, owner_id, digests):
        await self.fuse.moment()
        return {digest for digest in digests if (owner_id, digest) in self.named}

    async def save(self, owner_id, files):
        """What a runner does: ask, send what is missing, store the manifest, and report it."""
        held = {sha256(data): data for data in files.values()}
        for digest in await self.blobs.missing(owner_id, sorted(held)):
            await self.blobs.put(owner_id, digest, held[digest])
        stored = await self.blobs.put_manifest(owner_id, manifest_of(files))
        self.named.add((owner_id, stored.digest))
        return stored.digest

    async def read(self, owner_id, digest):
        """All files of a manifest."""
        manifest = Manifest.model_validate_json(await self.blobs.manifest(owner_id, digest))
        return {entry.path: await self.blobs.read(owner_id, entry.sha256) for entry in manifest.entries}

    async def pass_once(self):
        return await self.garbage.run_once(datetime.now(UTC))

    async def age(self, seconds=2 * DAY):
        """So much time passes for everything."""
        for table, column in (
            ("blobs", "used_at"),
            ("objects", "used_at"),
            ("manifests", "unnamed_since"),
            ("manifests", "stored_at"),
            ("loose", "at"),
        ):
            await self.pool.execute(
                f"UPDATE {table} SET {column} = {column} - make_interval(secs => $1)", seconds
            )

    async def clear(self):
        """Time enough passes, and passes enough, for all that is not needed to go."""
        for _ in range(3):
            await self.age()
            await self.pass_once()

    async def keys(self):
        """Where bytes of people lie."""
        found = {key async for page in self.objects.listed("") for key, _ in page}
        return {key for key in found if not key.startswith("store/")}

    async def rot(self, data):
        """The bytes that were stored become others, as many."""
        key = (await self.objects_by_digest())[sha256(data)]
        await Objects.put(self.objects, key, data[:-1] + bytes([data[-1] ^ 1]))

    async def lose(self, data):
        await Objects.remove(self.objects, (await self.objects_by_digest())[sha256(data)])

    async def objects_by_digest(self):
        rows = await self.pool.fetch("SELECT sha256, key FROM objects")
        return {row["sha256"]: row["key"] for row in rows}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def manifest_of(files):
    entries = tuple(
        ManifestEntry(
            path=path,
            size=len(data),
            sha256=sha256(data),
            mode=0o644,
            modified_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for path, data in sorted(files.items())
    )
    return Manifest(entries=entries)


@contextlib.asynccontextmanager
async def a_files_room(url, objects):
    async with database.pool(url, "storage") as pool:
        await database.migrate(pool, "storage", "spell_storage")
        await pool.execute(
            "TRUNCATE store, scrub, owner_use, objects, loose, blobs, manifests, manifest_objects, uploads CASCADE"
        )
        async for page in objects.listed(""):
            for key, _ in page:
                await Objects.remove(objects, key)
        yield FilesRoom(pool, objects)


def in_directory(directory):
    return FusedObjects.open("", directory)


def in_bucket(kind, clouds):
    """In a bucket of S3's or Google's that is empty."""
    clouds.bucket("savedfiles", public=False)
    options = {"client_options": {"allow_http": True}}
    if kind == "s3":
        key = {"access_key_id": "a", "secret_access_key": "b", "region": buckets.REGION}
        return FusedObjects(S3Store("savedfiles", endpoint=clouds.amazon.url, **key, **options), None)
    # What Google's client sends as a token is read by the server as the scope of a signature.
    token = "k/20200101/us-east-1/s3/aws4_request"
    return FusedObjects(
        GCSStore("savedfiles", base_url=clouds.amazon.url, bearer_token=token, **options), None
    )
