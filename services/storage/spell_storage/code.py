"""Repositories and commits that storage knows: asked from memory, from the database, and last from git (shell)."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from spell_proto import checks, database, logs
from spell_proto.errors import InvalidError, NotFoundError
from spell_proto.views import Commit, Repository
from spell_storage import git

log = logs.get()

_SQL = database.queries("spell_storage", "code.sql")
#: Commits remembered, and for how long: another copy of this service may give a repository another name.
_REMEMBERED_MAX = 10_000
_REMEMBERED_SECONDS = 30.0
#: That a commit was asked for is written down so often. Both are cut to a part of the time it is kept after that.
_USED_SECONDS = 3600.0
_PART_OF_KEPT = 4

_Key = tuple[int, int | None, str]


class Code:
    """The tables `repositories` and `commits`, and the git repositories behind them.

    A commit that was asked for is kept for `kept_seconds` at least; see `housekeeping`.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        repositories: git.Repositories,
        address: str,
        *,
        kept_seconds: float = 24 * 3600.0,
    ) -> None:
        self._pool = pool
        self._git = repositories
        self._address = address
        self._remembered_seconds = min(_REMEMBERED_SECONDS, kept_seconds / _PART_OF_KEPT)
        self._used_seconds = min(_USED_SECONDS, kept_seconds / _PART_OF_KEPT)
        self._remembered: OrderedDict[_Key, tuple[float, Commit]] = OrderedDict()
        #: Commits whose tree this process has seen whole.
        self._seen_whole: OrderedDict[tuple[int, str], None] = OrderedDict()

    async def put_repository(self, owner_id: int, root_commit: str, name: str) -> Repository:
        """The repository of an owner that grows from `root_commit`, made when there is none, under this name."""
        checks.commit(root_commit)
        if not 1 <= len(name) <= 255 or not name.isprintable():
            raise InvalidError(
                "repository_name_invalid", "name: 1 to 255 printable characters are allowed", field="name"
            )
        row = await self._pool.fetchrow(_SQL["put_repository"], owner_id, root_commit, name)
        assert row is not None
        await self._git.create(owner_id, row["id"], sha256=len(root_commit) == 64)
        for key, (_, commit) in list(self._remembered.items()):
            if commit.repository_id == row["id"] and commit.repository != name:
                del self._remembered[key]
        return self._repository(row)

    async def put_fetched_repository(self, owner_id: int, url: str, *, sha256: bool) -> int:
        """The repository that mirrors `url` for an owner, made when there is none."""
        name = checks.github_directory(url)
        row = await self._pool.fetchrow(_SQL["put_fetched_repository"], owner_id, url, name)
        assert row is not None
        await self._git.create(owner_id, row["id"], sha256=sha256)
        return int(row["id"])

    async def fetched_repository(self, owner_id: int, url: str) -> int | None:
        """The repository that mirrors `url` for an owner, if there is one."""
        row = await self._pool.fetchrow(_SQL["fetched_repository"], owner_id, url)
        return None if row is None else row["id"]

    async def repositories(self, owner_id: int) -> tuple[Repository, ...]:
        rows = await self._pool.fetch(_SQL["repositories_of"], owner_id)
        return tuple(self._repository(row) for row in rows)

    async def takes_pushes(self, owner_id: int, repository_id: int) -> bool:
        """Whether an owner has a repository that can be pushed to."""
        row = await self._pool.fetchrow(_SQL["repository_of"], owner_id, repository_id)
        return row is not None and row["root_commit"] is not None

    async def for_push(self, owner_id: int, repository_id: int) -> Path | None:
        """The path of an owner's repository, or None when there is no such that can be pushed to."""
        row = await self._pool.fetchrow(_SQL["repository_of"], owner_id, repository_id)
        if row is None or row["root_commit"] is None:
            return None
        return await self._git.create(owner_id, repository_id, sha256=len(row["root_commit"]) == 64)

    async def commit(self, owner_id: int, name: str, repository_id: int | None = None) -> Commit:
        """A commit of an owner that is here whole, in one repository or in any that was pushed. It is kept for a while
        from now on.

        Raises:
            NotFoundError: it is not here, or not whole.
        """
        checks.commit(name)
        key = (owner_id, repository_id, name)
        known = self._remembered.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        commit = await self._known(key) or await self._find(key)
        if commit is None:
            raise NotFoundError("commit_unknown", f"code: the commit {name} is not known here")
        self._remembered[key] = (time.monotonic() + self._remembered_seconds, commit)
        self._remembered.move_to_end(key)
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return commit

    async def pushed(self, owner_id: int, repository_id: int, commits: Sequence[str]) -> None:
        """Record commits that have just become refs: git has checked that all they need is there."""
        found = await self._git.trees(self._git.path(owner_id, repository_id), commits)
        await self._record(owner_id, repository_id, found)
        log.info("commits pushed", owner_id=owner_id, repository_id=repository_id, commits=list(found))

    async def _known(self, key: _Key) -> Commit | None:
        """A commit that the database knows, if its objects are still there."""
        owner_id, wanted_in, name = key
        row = await self._pool.fetchrow(_SQL["commit_of"], owner_id, name, wanted_in, self._used_seconds)
        if row is None:
            return None
        repository_id, repository, tree, touch = row
        # What housekeeping has removed in this moment is not known any more.
        if touch and await self._pool.fetchrow(_SQL["use_commit"], owner_id, name, repository_id) is None:
            return None
        if not await self._is_there(owner_id, repository_id, name, tree):
            await self._forget_broken(owner_id, repository_id, name)
            return None
        return Commit(repository_id=repository_id, repository=repository, commit=name, tree=tree)

    async def _is_there(self, owner_id: int, repository_id: int, name: str, tree: str) -> bool:
        path = self._git.path(owner_id, repository_id)
        if not git.has_object(path, name) or not git.has_object(path, tree):
            return False
        if (repository_id, name) not in self._seen_whole:
            if not path.is_dir() or not await self._git.has_tree(path, name):
                return False
            self._saw_whole(repository_id, name)
        return True

    async def _forget_broken(self, owner_id: int, repository_id: int, name: str) -> None:
        """Forget a commit whose objects are gone, and the refs that need them: otherwise git would think that there is
        nothing to push.
        """
        log.error("a commit is not whole any more", repository_id=repository_id, commit=name)
        self._seen_whole.pop((repository_id, name), None)
        path = self._git.path(owner_id, repository_id)
        async with (
            self._git.locks.working(repository_id, seconds=30.0) as working,
            self._git.locks.using(repository_id, alone=True) as using,
        ):
            if path.is_dir():
                await self._git.drop_broken_refs(path, (working, using))
            await self._pool.execute(_SQL["remove_commit"], owner_id, name, repository_id)

    async def _find(self, key: _Key) -> Commit | None:
        """Look for a commit that came as the history of another one, and record it when it is whole."""
        owner_id, wanted_in, name = key
        for row in await self._pool.fetch(_SQL["repositories_of"], owner_id):
            is_candidate = row["url"] is None if wanted_in is None else row["id"] == wanted_in
            path = self._git.path(owner_id, row["id"])
            if not is_candidate or not git.has_object(path, name):
                continue
            # Nothing is removed between the look and the record.
            async with self._git.locks.using(row["id"]):
                found = await self._git.trees(path, [name])
                if found and await self._git.is_whole(path, name):
                    await self._record(owner_id, row["id"], found)
                    return Commit(
                        repository_id=row["id"], repository=row["name"], commit=name, tree=found[name]
                    )
        return None

    async def _record(self, owner_id: int, repository_id: int, trees_of: dict[str, str]) -> None:
        await self._pool.execute(
            _SQL["add_commits"], owner_id, repository_id, list(trees_of), list(trees_of.values())
        )
        for name in trees_of:
            self._saw_whole(repository_id, name)

    def _saw_whole(self, repository_id: int, name: str) -> None:
        self._seen_whole[repository_id, name] = None
        if len(self._seen_whole) > _REMEMBERED_MAX:
            self._seen_whole.popitem(last=False)

    def _repository(self, row: asyncpg.Record) -> Repository:
        url = "" if row["url"] else f"ssh://git@{self._address}/{row['owner_id']}/{row['id']}.git"
        return Repository(**dict(row), remote_url=url)
