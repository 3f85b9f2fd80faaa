"""Repositories and commits that storage knows: asked from memory, from the database, and last from git (shell)."""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import asyncpg

from spell_proto import checks, database, logs
from spell_proto.errors import InvalidError, NotFoundError
from spell_proto.views import Commit, Repository
from spell_storage import git, trees

log = logs.get()

_SQL = database.queries("spell_storage", "code.sql")
#: Commits remembered, and for how long: another copy of this service may give a repository another name.
_REMEMBERED_MAX = 10_000
_REMEMBERED_SECONDS = 30.0


class Code:
    """The tables `repositories` and `commits`, and the git repositories behind them."""

    def __init__(self, pool: asyncpg.Pool, repositories: git.Repositories, address: str) -> None:
        self._pool = pool
        self._git = repositories
        self._address = address
        self._remembered: OrderedDict[tuple[int, str], tuple[float, Commit]] = OrderedDict()

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

    async def repositories(self, owner_id: int) -> tuple[Repository, ...]:
        rows = await self._pool.fetch(_SQL["repositories_of"], owner_id)
        return tuple(self._repository(row) for row in rows)

    async def for_push(self, owner_id: int, repository_id: int) -> Path | None:
        """The path of an owner's repository, or None when there is no such."""
        row = await self._pool.fetchrow(_SQL["repository_of"], owner_id, repository_id)
        if row is None:
            return None
        return await self._git.create(owner_id, repository_id, sha256=len(row["root_commit"]) == 64)

    async def commit(self, owner_id: int, name: str) -> Commit:
        """A commit of an owner that is here whole.

        Raises:
            NotFoundError: it is not here, or not whole.
        """
        checks.commit(name)
        known = self._remembered.get((owner_id, name))
        if known is not None and known[0] > time.monotonic():
            return known[1]
        row = await self._pool.fetchrow(_SQL["commit_of"], owner_id, name)
        if row is None:
            if not await self._find(owner_id, name):
                raise NotFoundError("commit_unknown", f"code: the commit {name} is not known here")
            row = await self._pool.fetchrow(_SQL["commit_of"], owner_id, name)
            assert row is not None
        commit = Commit(repository_id=row[0], repository=row[1], commit=name, tree=row[2])
        self._remembered[owner_id, name] = (time.monotonic() + _REMEMBERED_SECONDS, commit)
        self._remembered.move_to_end((owner_id, name))
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return commit

    async def pushed(self, owner_id: int, repository_id: int, commits: Sequence[str]) -> None:
        """Record commits that have just become refs: git has checked that all they need is there."""
        found = await self._git.trees(self._git.path(owner_id, repository_id), commits)
        await self._record(owner_id, repository_id, found)
        log.info("commits pushed", owner_id=owner_id, repository_id=repository_id, commits=list(found))

    async def tree(self, owner_id: int, repository_id: int, name: str) -> AsyncGenerator[bytes, None]:
        """The tree stream of a commit of this very repository, ready to be read.

        Raises:
            NotFoundError: the commit is not here.
        """
        commit = await self.commit(owner_id, name)
        if commit.repository_id != repository_id:
            raise NotFoundError("commit_unknown", f"code: the commit {name} is not in this repository")
        return trees.stream(self._git, self._git.path(owner_id, repository_id), name)

    async def _find(self, owner_id: int, name: str) -> bool:
        """Look for a commit that came as the history of a pushed one, and record it when it is whole."""
        for row in await self._pool.fetch(_SQL["repositories_of"], owner_id):
            path = self._git.path(owner_id, row["id"])
            if len(row["root_commit"]) != len(name) or not git.has_object(path, name):
                continue
            found = await self._git.trees(path, [name])
            if found and await self._git.is_whole(path, name):
                await self._record(owner_id, row["id"], found)
                return True
        return False

    async def _record(self, owner_id: int, repository_id: int, trees_of: dict[str, str]) -> None:
        await self._pool.execute(
            _SQL["add_commits"], owner_id, repository_id, list(trees_of), list(trees_of.values())
        )

    def _repository(self, row: asyncpg.Record) -> Repository:
        url = f"ssh://git@{self._address}/{row['owner_id']}/{row['id']}.git"
        return Repository(**dict(row), remote_url=url)
