"""What damaged files are called, in the manifests that need them: each of these is read once, however many they are."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Collection, Sequence

import asyncpg

from spell_proto import database, resources
from spell_proto.errors import RefusedError
from spell_proto.git import PLATFORM
from spell_proto.scrubbing import DamagedFile
from spell_storage import manifests
from spell_storage.blobs import Blobs

_SQL = database.queries("spell_storage", "scrub.sql")
#: Of a file that has more names than this, only so many are told; and so many of all files together.
NAMED_MAX = 100
NAMED_OF_ALL_MAX = 10_000
_PORTION = 1_000


class Naming:
    """Tells the names of objects that are damaged, lost, or among `unreadable`."""

    def __init__(self, pool: asyncpg.Pool, blobs: Blobs, unreadable: Collection[int]) -> None:
        self._pool = pool
        self._blobs = blobs
        self._unreadable = frozenset(unreadable)
        self._told: Counter[int] = Counter()
        self._left = NAMED_OF_ALL_MAX

    async def files(self, ids: Sequence[int]) -> AsyncGenerator[list[DamagedFile], None]:
        """What the objects of these ids are called, manifest by manifest."""
        portions = [ids[start : start + _PORTION] for start in range(0, len(ids), _PORTION)]
        needing: set[int] = set()
        for some in portions:
            needing.update(row["manifest_id"] for row in await self._pool.fetch(_SQL["manifests_with"], some))
        for manifest_id in sorted(needing):
            if self._left == 0:
                return
            yield await self._files_of(manifest_id)
        for some in portions:
            if self._left == 0:
                return
            rows = await self._pool.fetch(_SQL["nameless"], some)
            yield [self._file(row) for row in rows[: self._left]]

    async def _files_of(self, manifest_id: int) -> list[DamagedFile]:
        called = await self._pool.fetch(_SQL["called"], manifest_id)
        bad = await self._pool.fetch(_SQL["bad_of"], manifest_id, list(self._unreadable))
        if not called or not bad:
            return []
        owner_id, manifest = called[0]["owner_id"], called[0]["digest"]
        top = resources.PUBLIC if owner_id == PLATFORM else resources.UPLOADS
        paths = await self._paths(owner_id, manifest, {row["sha256"] for row in bad})
        found: list[DamagedFile] = []
        for row in bad:
            for path in paths[row["sha256"]]:
                for upload in [each["name"] for each in called]:
                    if self._told[row["id"]] < NAMED_MAX and self._left:
                        name = None if upload is None else "/".join(filter(None, (top, upload, path)))
                        told = self._file(row)
                        update = {"owner_id": owner_id, "name": name, "manifest": manifest, "path": path}
                        found.append(told.model_copy(update=update))
        return found

    async def _paths(self, owner_id: int, digest: str, wanted: set[str]) -> dict[str, list[str]]:
        """Where in a manifest files are, by their digests; the manifest itself is at the empty path."""
        found: dict[str, list[str]] = defaultdict(list)
        found[digest].append("")
        try:
            data = await self._blobs.manifest(owner_id, digest)
        except RefusedError:
            return found | {each: [""] for each in wanted}
        manifest = await asyncio.to_thread(manifests.MANIFEST.validate_json, data)
        for entry in manifest.entries:
            if entry.link is None and entry.sha256 in wanted and len(found[entry.sha256]) < NAMED_MAX:
                found[entry.sha256].append(entry.path)
        return found

    def _file(self, row: asyncpg.Record) -> DamagedFile:
        self._told[row["id"]] += 1
        self._left -= 1
        return DamagedFile(sha256=row["sha256"], size=row["size"], unreadable=row["id"] in self._unreadable)
