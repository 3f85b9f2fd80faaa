"""How much there is: of all resources, of each, and within one."""

from spell_gateway.files import Files
from spell_gateway.resolving import Resolver
from spell_gateway.resources import not_there
from spell_gateway.shapes import Usage, UsageEntry, User
from spell_gateway.storage import Storage
from spell_proto import resources
from spell_proto.git import PLATFORM
from spell_proto.resources import Listing


class UsageOf:
    """Adds up."""

    def __init__(self, resolver: Resolver, files: Files, storage: Storage) -> None:
        self._resolver = resolver
        self._files = files
        self._storage = storage

    async def at(self, user: User, path: str) -> Usage:
        """How much is at a path.

        Raises:
            InvalidError, NotFoundError, ConflictError: there is nothing, or not yet.
        """
        resource = resources.parse(path)
        if isinstance(resource, Listing):
            return _summed(resource.name, await self._listed(user, resource.name))
        found = await self._resolver.resolve(user.id, resource)
        entries = (await self._files.tree(found)).usage(found.path)
        if entries is None:
            raise not_there(path)
        return _summed(resource.text, entries)

    async def _listed(self, user: User, name: str) -> list[UsageEntry]:
        match name:
            case resources.RUNS:
                return [
                    UsageEntry(path=str(run.id), files=run.saved_files or 0, bytes=run.saved_bytes or 0)
                    for run in await self._files.runs_with_files(user)
                ]
            case resources.UPLOADS | resources.PUBLIC:
                uploads = await self._storage.uploads(user.id if name == resources.UPLOADS else PLATFORM)
                return [
                    UsageEntry(path=upload.name, files=upload.files or 0, bytes=upload.bytes or 0)
                    for upload in uploads.uploads
                ]
            case _:
                own = (resources.RUNS, resources.UPLOADS)
                parts = [_summed(part, await self._listed(user, part)) for part in own]
                return [UsageEntry(path=part.path, files=part.files, bytes=part.bytes) for part in parts]


def _summed(path: str, entries: list[UsageEntry]) -> Usage:
    return Usage(
        path=path,
        entries=tuple(entries),
        files=sum(entry.files for entry in entries),
        bytes=sum(entry.bytes for entry in entries),
    )
