"""Uploads: what people bring, from the first request to the resource it becomes (shell)."""

import asyncio

import asyncpg

from spell_proto import database, resources, uploads
from spell_proto.errors import ConflictError, InvalidError, NotFoundError, UnavailableError, shown
from spell_proto.git import PLATFORM
from spell_proto.uploads import ARCHIVE, UploadRequest, UploadView
from spell_proto.views import Manifest, ManifestEntry
from spell_storage.blobs import Blobs
from spell_storage.incoming import Incoming, IncomingFile
from spell_storage.manifest_rules import check_paths
from spell_storage.quotas import QuotaError
from spell_storage.unpacker import Unpacker

_SQL = database.queries("spell_storage", "uploads.sql")
#: How many uploads of an owner may be on their way.
OPEN_MAX = 1_000
#: Of a file of which nobody has said it.
_MODE = 0o644


class Uploads:
    """The table `uploads`. What belongs to another owner is not found."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        blobs: Blobs,
        incoming: Incoming,
        unpacker: Unpacker,
        open_max: int = OPEN_MAX,
    ) -> None:
        self._pool = pool
        self._blobs = blobs
        self._incoming = incoming
        self._unpacker = unpacker
        self._open_max = open_max

    async def begin(self, owner_id: int, request: UploadRequest) -> tuple[UploadView, bool]:
        """Begin an upload, or go on with one of that name; and whether it is new.

        Raises:
            InvalidError: upload_name_invalid.
            ConflictError: upload_exists.
            QuotaError: what is going to be sent has no room, or too many others are not complete.
        """
        public = owner_id == PLATFORM
        name = uploads.public_name(request.name) if public else resources.upload_name(request.name)
        async with self._pool.acquire() as connection, connection.transaction():
            if public:
                await connection.execute(_SQL["lock_public"])
                clash = await connection.fetchval(_SQL["public_clash"], owner_id, name)
                if clash is not None:
                    raise ConflictError(
                        "upload_exists",
                        f"name: public/{name} and public/{clash}: one cannot be in the other",
                        field="name",
                    )
            row = await connection.fetchrow(_SQL["begin"], owner_id, name, request.compressed)
            assert row is not None, "RETURNING gives the row, new or old"
            if row["made"] and await connection.fetchval(_SQL["open"], owner_id) > self._open_max:
                raise QuotaError(
                    "too_many_uploads",
                    f"{self._open_max} uploads of yours are not complete; 'spell rm uploads/NAME' takes one away",
                    field="name",
                )
        if row["manifest"] is not None:
            raise _exists(name, public=public)
        if request.files or request.bytes:
            wanted = request.files or 0, request.bytes or 0
            await self._incoming.check_room(owner_id, row["id"], None, *wanted)
        return _view(row), row["made"]

    async def one(self, owner_id: int, upload_id: int) -> UploadView:
        """An upload, complete or not. Raises NotFoundError."""
        row = await self._pool.fetchrow(_SQL["one"], upload_id, owner_id)
        if row is None:
            raise NotFoundError("upload_not_found", f"there is no upload {upload_id}", field="id")
        return _view(row)

    async def at(self, owner_id: int, path: str) -> UploadView:
        """The complete upload called so; of what is published, the one at or above a path. Raises NotFoundError."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        names = above if owner_id == PLATFORM else [path]
        row = await self._pool.fetchrow(_SQL["nearest"], owner_id, names)
        if row is None:
            raise NotFoundError("upload_not_found", f"{shown(path)}: no such upload", field="name")
        return _view(row)

    async def all(self, owner_id: int) -> tuple[UploadView, ...]:
        """Those that are complete, by name."""
        return tuple(_view(row) for row in await self._pool.fetch(_SQL["all"], owner_id))

    async def complete(self, owner_id: int, upload_id: int, manifest: Manifest | None) -> UploadView:
        """Make an upload the resource that `manifest` describes; without one, of the files that it was sent. Of one that
        is compressed, what the archive holds. One that is complete stays as it is.

        Raises:
            NotFoundError: there is no such upload.
            InvalidError: upload_empty, manifest_invalid, blob_missing, or archive_refused.
            ConflictError: upload_incomplete, or upload_file_changed.
        """
        upload = await self.one(owner_id, upload_id)
        if upload.manifest is not None:
            return upload
        if upload.compressed:
            manifest = await self._unpacked(owner_id, upload)
        elif manifest is None:
            manifest = await self._sent(owner_id, upload)
        else:
            # A copy of this service may have been killed between the last part of a file and its blob.
            await self._finished(owner_id, upload)
        if not manifest.entries:
            raise InvalidError("upload_empty", "Upload can not be empty", field="entries")
        await asyncio.to_thread(check_paths, manifest)
        stored = await self._blobs.put_manifest(owner_id, manifest)
        told = stored.digest, stored.files, stored.bytes
        row = await self._pool.fetchrow(_SQL["complete"], upload_id, owner_id, *told)
        if row is None:
            # Somebody else completed it meanwhile, or took it away.
            found = await self.one(owner_id, upload_id)
            if found.manifest is None:
                raise UnavailableError("unavailable", "its files were removed meanwhile; send them again")
            return found
        await self._incoming.clear(upload_id)
        return _view(row)

    async def remove(self, owner_id: int, name: str) -> None:
        """Take an upload away, complete or not; its bytes follow when nothing else needs them. Raises NotFoundError."""
        row = await self._pool.fetchrow(_SQL["remove"], owner_id, name)
        if row is None:
            raise NotFoundError("upload_not_found", f"{shown(name)}: no such upload", field="name")
        await self._incoming.clear(row["id"])

    async def _unpacked(self, owner_id: int, upload: UploadView) -> Manifest:
        archives = [file for file in await self._incoming.all(owner_id, upload.id) if file.path == ARCHIVE]
        if not archives or not archives[0].whole:
            raise _incomplete(upload, ARCHIVE)
        return await self._unpacker.manifest(owner_id, archives[0])

    async def _finished(self, owner_id: int, upload: UploadView) -> list[IncomingFile]:
        """Its files; those of which all is here are blobs."""
        return [
            await self._incoming.finish(owner_id, file) if file.whole and file.sha256 is None else file
            for file in await self._incoming.all(owner_id, upload.id)
        ]

    async def _sent(self, owner_id: int, upload: UploadView) -> Manifest:
        files = await self._finished(owner_id, upload)
        for file in files:
            if file.sha256 is None:
                raise _incomplete(upload, file.path)
        return Manifest(
            entries=tuple(
                ManifestEntry(
                    path=file.path,
                    size=file.length,
                    sha256=file.sha256 or "",
                    mode=_MODE,
                    modified_at=upload.created_at,
                )
                for file in files
            )
        )


def _view(row: asyncpg.Record) -> UploadView:
    return UploadView(**{name: row[name] for name in UploadView.model_fields})


def _exists(name: str, *, public: bool) -> ConflictError:
    path = f"{resources.PUBLIC if public else resources.UPLOADS}/{name}"
    remedy = f"spell cluster publish --remove {path}" if public else f"spell rm {path}"
    return ConflictError(
        "upload_exists",
        f"{path} is there already",
        field="name",
        hint=f"Choose another name, or remove it first: {remedy}",
    )


def _incomplete(upload: UploadView, path: str) -> ConflictError:
    return ConflictError(
        "upload_incomplete",
        f"{shown(path)} of upload {upload.id} is not here, or not all of it",
        field="files",
    )
