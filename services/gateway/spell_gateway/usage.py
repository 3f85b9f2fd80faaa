"""How much there is: of all resources, of each, and within one."""

from spell_gateway.files import Files, has_files
from spell_gateway.resolving import Resolver
from spell_gateway.resources import not_there
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import Usage, UsageEntry, User
from spell_gateway.storage import Storage
from spell_proto import resources
from spell_proto.git import PLATFORM
from spell_proto.resources import Listing
from spell_proto.views import RunView


class UsageOf:
    """Adds up."""

    def __init__(self, scheduler: Scheduler, resolver: Resolver, files: Files, storage: Storage) -> None:
        self._scheduler = scheduler
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
                found = [each async for run in self._files.runs(user) for each in await self._of_run(run)]
                return found[::-1]
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

    async def _of_run(self, run: RunView) -> list[UsageEntry]:
        """What a run has kept, and its snapshots, newest first: they may be all that is left of it."""
        found = []
        if has_files(run):
            found = [UsageEntry(path=str(run.id), files=run.saved_files or 0, bytes=run.saved_bytes or 0)]
        return found + [
            UsageEntry(path=f"{run.id}@{one.number}", files=one.files, bytes=one.bytes)
            for one in reversed(await self._scheduler.snapshots(run))
        ]


def _summed(path: str, entries: list[UsageEntry]) -> Usage:
    return Usage(
        path=path,
        entries=tuple(entries),
        files=sum(entry.files for entry in entries),
        bytes=sum(entry.bytes for entry in entries),
    )
