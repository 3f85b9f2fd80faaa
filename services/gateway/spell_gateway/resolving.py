"""What a resource path stands for right now: whose manifest, and where in it.

`ls`, `cp` and mounts all come through here. What is missing and what is somebody else's are told apart for nobody.
"""

import time
from dataclasses import dataclass, replace

from spell_gateway.bounded import Bounded
from spell_gateway.resources import digest_of, digest_of_snapshot, not_there
from spell_gateway.scheduler import Scheduler
from spell_gateway.storage import Storage
from spell_proto import resources
from spell_proto.errors import NotFoundError
from spell_proto.git import PLATFORM
from spell_proto.resources import InBucket, Linked, Listing, Public, Resource, RunFiles, Upload

#: For so long an answer is believed where one resource is asked for file by file.
BELIEVED_SECONDS = 2.0
KNOWN_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Resolved:
    """Files at or below `path` in a manifest of `owner_id`; there are none where it is None. `resource` is what was asked
    for, with its link followed. What a bucket holds has no manifest, and is for others to find.
    """

    resource: Resource
    owner_id: int
    manifest: str | None
    path: str
    run_id: int | None = None


class Resolver:
    """Asks scheduler and storage."""

    def __init__(self, scheduler: Scheduler, storage: Storage) -> None:
        self._scheduler = scheduler
        self._storage = storage
        self._known: Bounded[tuple[int, Resource], tuple[float, Resolved]] = Bounded(KNOWN_MAX)

    async def resolve(self, owner_id: int, resource: Resource) -> Resolved:
        """What `resource` stands for. Whether there is anything at its path, the manifest says.

        Raises:
            NotFoundError: there is no such thing, or it keeps no files.
            ConflictError: a run that still goes on.
        """
        found = await self.followed(owner_id, resource)
        try:
            match found:
                case RunFiles(run_id=run_id, snapshot=number, path=path):
                    run = await self._scheduler.run(owner_id, run_id)
                    digest = digest_of(run) if number is None else digest_of_snapshot(run, number)
                    return Resolved(found, owner_id, digest, path, run_id)
                case Upload(name=name, path=path):
                    upload = await self._storage.upload_at(owner_id, name)
                    return Resolved(found, owner_id, upload.manifest, path)
                case Public(path=path):
                    upload = await self._storage.upload_at(PLATFORM, path)
                    return Resolved(found, PLATFORM, upload.manifest, path.removeprefix(upload.name)[1:])
                case InBucket(key=key):
                    return Resolved(found, owner_id, None, key)
                case _:
                    raise not_there(resource.text)
        except NotFoundError as error:
            # Which part of it is not there is nobody's business; that a run kept no files is its owner's.
            raise error if error.code == "resource_not_found" else not_there(resource.text) from None

    async def lately(self, owner_id: int, resource: Resource) -> Resolved:
        """The same, as it was a moment ago: copying a directory asks once per file."""
        if isinstance(resource, InBucket | Public):
            return await self.resolve(owner_id, resource)
        whole = replace(resource, path="")
        known = self._known.get((owner_id, whole))
        if known is None or known[0] < time.monotonic():
            # The time is taken before the question: the answer may be that old.
            until = time.monotonic() + BELIEVED_SECONDS
            known = (until, await self.resolve(owner_id, whole))
            self._known.put((owner_id, whole), known)
        found = known[1]
        if isinstance(found.resource, InBucket):
            return await self.resolve(owner_id, resource)
        return replace(found, path="/".join(part for part in (found.path, resource.path) if part))

    async def followed(self, owner_id: int, resource: Resource) -> Resource:
        """`resource`, or what it leads to where it is a link. A link never leads to a link.

        Raises:
            NotFoundError: there is no such link.
        """
        if not isinstance(resource, Linked):
            return resource
        try:
            link = await self._storage.link(owner_id, resource.alias)
        except NotFoundError:
            raise not_there(resource.text) from None
        found = resources.parse(f"{link.target}/{resource.path}")
        if isinstance(found, Listing | Linked):
            raise not_there(resource.text)
        return found
