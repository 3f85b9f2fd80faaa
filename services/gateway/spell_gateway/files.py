"""Saved files as a user asks for them: runs/N and what is below it."""

from spell_gateway.bounded import Bounded
from spell_gateway.resources import Tree, digest_of, not_there, parse_path, run_directory, run_of
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import ResourceEntry, ResourceList, User
from spell_gateway.storage import Storage
from spell_proto.errors import ConflictError, shown
from spell_proto.state import FINAL
from spell_proto.views import ManifestEntry, RunView

TREES_KNOWN_MAX = 32
#: Of trees with more files than this only the last one is kept.
TREE_FILES_MAX = 5_000
FINAL_RUNS_KNOWN_MAX = 1000
PAGE = 1000
PAGES_MAX = 10


class Files:
    """Finds and lists saved files."""

    def __init__(self, scheduler: Scheduler, storage: Storage) -> None:
        self._scheduler = scheduler
        self._storage = storage
        self._trees: Bounded[tuple[int, str], Tree] = Bounded(TREES_KNOWN_MAX)
        self._large_trees: Bounded[tuple[int, str], Tree] = Bounded(1)
        # A final run stays as it is but for its labels, and copying runs/N asks for it once per file.
        self._final_runs: Bounded[tuple[int, int], RunView] = Bounded(FINAL_RUNS_KNOWN_MAX)

    async def find(self, user: User, path: str) -> ManifestEntry:
        """The file at a path.

        Raises:
            InvalidError, NotFoundError: no path, or nothing there.
            ConflictError: a run that still goes on, or a directory.
        """
        parts = parse_path(path)
        tree = await self._tree(user, run_of(parts))
        below = "/".join(parts[2:])
        entry = tree.file(below)
        if entry is None:
            if tree.is_directory(below):
                raise ConflictError(
                    "resource_is_directory",
                    f"{shown(path)} is a directory",
                    field="path",
                    hint="GET /api/resources/{path}?recursive=1 lists what is in it",
                )
            raise not_there(path)
        return entry

    async def listing(self, user: User, path: str, *, recursive: bool) -> ResourceList:
        """What is at a path; see `find` for what it raises."""
        parts = parse_path(path)
        entries: list[ResourceEntry] | None
        if not parts:
            entries = [
                ResourceEntry(path="runs", size=None, modified_at=None, sha256=None, mode=None, link=None)
            ]
        elif parts == ("runs",):
            entries = await self._runs_with_files(user)
        else:
            tree = await self._tree(user, run_of(parts))
            entries = tree.listing("/".join(parts[2:]), recursive=recursive)
        if entries is None:
            raise not_there(path)
        return ResourceList(path="/".join(parts), entries=tuple(entries))

    async def _runs_with_files(self, user: User) -> list[ResourceEntry]:
        found: list[RunView] = []
        before: int | None = None
        for _ in range(PAGES_MAX):
            page = await self._scheduler.runs(user.id, limit=PAGE, before=before)
            found += [run for run in page.runs if run.manifest is not None and run.state in FINAL]
            if not page.more or not page.runs:
                break
            before = page.runs[-1].id
        return [run_directory(run) for run in sorted(found, key=lambda run: run.id)]

    async def _tree(self, user: User, run_id: int) -> Tree:
        run = self._final_runs.get((user.id, run_id))
        if run is None:
            run = await self._scheduler.run(user.id, run_id)
            if run.state in FINAL:
                self._final_runs.put((user.id, run_id), run)
        digest = digest_of(run)
        if digest is None:
            return Tree(None)
        key = (user.id, digest)
        tree = self._trees.get(key) or self._large_trees.get(key)
        if tree is None:
            tree = Tree(await self._storage.manifest(user.id, digest))
            (self._trees if len(tree) <= TREE_FILES_MAX else self._large_trees).put(key, tree)
        return tree
