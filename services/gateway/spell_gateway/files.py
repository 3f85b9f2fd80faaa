"""Files as a user asks for them: of runs and uploads, of what is published, and through links."""

from collections.abc import AsyncIterator

from spell_gateway.bounded import Bounded
from spell_gateway.resolving import Resolved, Resolver
from spell_gateway.resources import Tree, directory, not_there, run_directory, snapshot_directory
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import ResourceEntry, ResourceList, User
from spell_gateway.storage import Storage
from spell_proto import resources
from spell_proto.errors import ConflictError, InvalidError, RefusedError, shown
from spell_proto.git import PLATFORM
from spell_proto.resources import InBucket, Linked, Listing, Public, Resource
from spell_proto.state import FINAL
from spell_proto.views import ManifestEntry, RunView

TREES_KNOWN_MAX = 32
#: Of trees with more files than this only the last one is kept.
TREE_FILES_MAX = 5_000
PAGE = 1000


class Files:
    """Finds and lists files."""

    def __init__(self, scheduler: Scheduler, storage: Storage, resolver: Resolver, page: int = PAGE) -> None:
        self._scheduler = scheduler
        self._storage = storage
        self._resolver = resolver
        self._page = page
        self._trees: Bounded[tuple[int, str], Tree] = Bounded(TREES_KNOWN_MAX)
        self._large_trees: Bounded[tuple[int, str], Tree] = Bounded(1)

    async def find(self, user: User, path: str) -> tuple[int, ManifestEntry]:
        """The file at a path, and whose it is.

        Raises:
            InvalidError, NotFoundError: no path, or nothing there.
            ConflictError: a run that still goes on, or a directory.
        """
        resource = resources.parse(path)
        if isinstance(resource, Listing):
            raise _is_directory(path)
        found = await self._resolver.lately(user.id, resource)
        tree = await self.tree(found)
        entry = tree.file(found.path)
        if entry is None:
            raise _is_directory(path) if tree.is_directory(found.path) else not_there(path)
        return found.owner_id, entry

    async def around(self, user: User, path: str) -> tuple[int, Tree]:
        """Whose the directory or file at a path is, and all files of its resource. Raises as `listing` does."""
        resource = resources.parse(path)
        if isinstance(resource, Listing):
            raise not_there(path)
        found = await self._resolver.lately(user.id, resource)
        tree = await self.tree(found)
        if tree.file(found.path) is None and not tree.is_directory(found.path):
            raise not_there(path)
        return found.owner_id, tree

    async def listing(self, user: User, path: str, *, recursive: bool) -> ResourceList:
        """What is at a path; see `find` for what it raises."""
        resource = resources.parse(path)
        target: str | None = None
        deleted: tuple[str, ...] = ()
        entries: list[ResourceEntry] | None
        if isinstance(resource, Listing):
            entries = await self._listed(user, resource)
        else:
            try:
                found = await self._resolver.resolve(user.id, resource)
            except RefusedError:
                entries = await self._published(resource.path) if isinstance(resource, Public) else []
                if not entries:
                    raise
            else:
                tree = await self.tree(found)
                entries = tree.listing(found.path, recursive=recursive)
                deleted = () if found.path else tree.deleted
                target = found.resource.text if isinstance(resource, Linked) else None
        if entries is None:
            raise not_there(path)
        text = resource.name if isinstance(resource, Listing) else resource.text
        return ResourceList(path=text, entries=tuple(entries), target=target, deleted=deleted)

    async def linkable(self, user: User, path: str) -> Resource:
        """What a link to `path` leads to: a resource that is there. One to a link leads where that does.

        Raises:
            InvalidError, NotFoundError, ConflictError: as `find`, but for directories.
        """
        resource = resources.parse(path, field="target")
        if isinstance(resource, Listing):
            raise InvalidError(
                "path_invalid",
                f"target: {shown(path)} is a list of resources; one of them can have a link",
                field="target",
            )
        found = await self._resolver.resolve(user.id, resource)
        if isinstance(found.resource, InBucket):
            return found.resource
        if (await self.tree(found)).listing(found.path, recursive=False) is None:
            raise not_there(path)
        return found.resource

    async def tree(self, found: Resolved) -> Tree:
        """The manifest that a resource was resolved to.

        Raises:
            NotFoundError: what is in a bucket is in no manifest.
        """
        if isinstance(found.resource, InBucket):
            raise not_there(found.resource.text)
        return Tree(None) if found.manifest is None else await self.manifest(found.owner_id, found.manifest)

    async def manifest(self, owner_id: int, digest: str) -> Tree:
        """The files of a manifest."""
        key = (owner_id, digest)
        tree = self._trees.get(key) or self._large_trees.get(key)
        if tree is None:
            tree = Tree(await self._storage.manifest(*key))
            (self._trees if len(tree) <= TREE_FILES_MAX else self._large_trees).put(key, tree)
        return tree

    async def _listed(self, user: User, listing: Listing) -> list[ResourceEntry]:
        match listing.name:
            case resources.RUNS:
                found = [each async for run in self.runs(user) for each in await self._of_run(run)]
                return found[::-1]
            case resources.UPLOADS:
                uploads = (await self._storage.uploads(user.id)).uploads
                return [directory(upload.name, upload.completed_at) for upload in uploads]
            case resources.PUBLIC:
                return await self._published("")
            case _:
                links = (await self._storage.links(user.id)).links
                return [directory(name, None) for name in resources.TOP] + [
                    directory(link.alias, link.created_at, link.target) for link in links
                ]

    async def _of_run(self, run: RunView) -> list[ResourceEntry]:
        """What a run has kept, or its snapshots, newest first, where they are all that there is of it."""
        if has_files(run):
            return [run_directory(run)]
        return [snapshot_directory(run, one) for one in reversed(await self._scheduler.snapshots(run))]

    async def _published(self, path: str) -> list[ResourceEntry]:
        """What is published below a path that is above it, level by level."""
        prefix = f"{path}/" if path else ""
        found: dict[str, ResourceEntry] = {}
        for upload in (await self._storage.uploads(PLATFORM)).uploads:
            if upload.name.startswith(prefix):
                name, slash, _ = upload.name.removeprefix(prefix).partition("/")
                found[name] = directory(name, None if slash else upload.completed_at)
        return list(found.values())

    async def runs(self, user: User) -> AsyncIterator[RunView]:
        """All of them that are not archived, newest first. Whoever has many had better keep little of each."""
        before: int | None = None
        while True:
            page = await self._scheduler.runs(user.id, limit=self._page, before=before)
            for run in page.runs:
                yield run
            if not page.more or not page.runs:
                return
            before = page.runs[-1].id


def has_files(run: RunView) -> bool:
    """Whether a run has kept some."""
    return run.manifest is not None and run.state in FINAL


def _is_directory(path: str) -> ConflictError:
    return ConflictError(
        "resource_is_directory",
        f"{shown(path)} is a directory",
        field="path",
        hint="GET /api/resources/{path}?recursive=1 lists what is in it",
    )
