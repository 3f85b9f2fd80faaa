"""Collects code that nobody needs: commits that no run names and nobody has asked for, and what only they needed (shell).

What is kept: a commit that was pushed or asked for lately, and one that a run names. A commit is asked for before a
run with it is made, so no run can name one that is being removed: removing it is one statement that looks at both.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
from pydantic import TypeAdapter

from spell_proto import database, logs
from spell_proto.http import Caller
from spell_proto.views import CommitsAsked, CommitsInUse
from spell_storage import collect, git, passes
from spell_storage.locks import BusyError

log = logs.get()

_SQL = database.queries("spell_storage", "code.sql")
#: Commits the scheduler is asked about at once.
ASKED_AT_ONCE = 1_000
#: How long removing waits for pushes to end before it leaves a repository for the next pass.
PATIENCE_SECONDS = 10.0
#: Files and directories that only a crash leaves are this old.
ABANDONED_SECONDS = 24 * 3600.0
_IN_USE: TypeAdapter[CommitsInUse] = TypeAdapter(CommitsInUse)

#: Asked which of an owner's commits runs name.
InUse = Callable[[int, Sequence[str]], Awaitable[set[str]]]


def runs_of(scheduler: Caller) -> InUse:
    """Ask the scheduler; it raises where it does not answer."""

    async def ask(owner_id: int, commits: Sequence[str]) -> set[str]:
        named: set[str] = set()
        for start in range(0, len(commits), ASKED_AT_ONCE):
            asked = CommitsAsked(owner_id=owner_id, commits=tuple(commits[start : start + ASKED_AT_ONCE]))
            named.update((await scheduler.call("POST", "/commits/in-use", _IN_USE, body=asked)).commits)
        return named

    return ask


@dataclass(frozen=True, slots=True)
class Collected:
    """What a pass has removed."""

    repositories: int = 0
    commits: int = 0
    refs: int = 0
    bytes: int = 0

    def __add__(self, other: "Collected") -> "Collected":
        return Collected(
            self.repositories + other.repositories,
            self.commits + other.commits,
            self.refs + other.refs,
            self.bytes + other.bytes,
        )


class Housekeeping:
    """One pass after the other, in one process at a time. Without `in_use` nothing is ever removed."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        repositories: git.Repositories,
        in_use: InUse | None,
        kept_seconds: float,
    ) -> None:
        self._pool = pool
        self._git = repositories
        self._in_use = in_use
        self._kept = timedelta(seconds=kept_seconds)

    async def run(self, stop: asyncio.Event, seconds: float) -> None:
        """Pass every `seconds` until `stop` is set or this is cancelled, which is safe at every line."""
        if self._in_use is None:
            log.warning("no code is ever removed: SPELL_SCHEDULER_URL is not set")
            return
        await passes.repeat(stop, seconds, self.run_once, "unused code")

    async def run_once(self, now: datetime) -> Collected:
        """Remove what is not needed at `now`. Another copy of this service that is at it already goes on alone."""
        async with passes.alone(self._pool, _SQL["try_lock"], _SQL["unlock"]) as alone:
            if not alone:
                return Collected()
            collected = await self._pass(now - self._kept)
        if collected != Collected():
            log.info("unused code removed", **asdict(collected))
        return collected

    async def _pass(self, before: datetime) -> Collected:
        total = Collected()
        for row in await self._pool.fetch(_SQL["all_repositories"], before):
            repository = _Repository(row["id"], row["owner_id"], self._git.path(row["owner_id"], row["id"]))
            try:
                total += await self._collect(repository, before, unused=row["unused"])
            except (git.GitError, BusyError) as error:
                # The others are none the worse for it.
                log.warning("a repository was left as it is", repository_id=row["id"], problem=str(error))
        await asyncio.to_thread(self._git.clear_abandoned, time.time() - ABANDONED_SECONDS)
        return total

    async def _collect(self, repository: "_Repository", before: datetime, *, unused: bool) -> Collected:
        assert self._in_use is not None
        rows = await self._pool.fetch(_SQL["unused_commits"], repository.id, before)
        old = [row["commit"] for row in rows]
        going = sorted(set(old) - await self._in_use(repository.owner_id, old)) if old else []
        there = repository.path.is_dir()
        abandoned = there and git.has_abandoned(repository.path, time.time() - ABANDONED_SECONDS)
        if not (going or unused or abandoned or (there and collect.wants_packing(repository.path))):
            return Collected()
        async with self._git.locks.working(repository.id) as working:
            using = self._git.locks.using(repository.id, alone=True, seconds=PATIENCE_SECONDS)
            async with using as held:
                if abandoned:
                    await asyncio.to_thread(git.clear_temporary, repository.path)
                collected = await self._let_go(repository, before, going, (working, held))
            if collected.repositories or not there:
                return collected
            if not (collected.commits or collected.refs or collect.wants_packing(repository.path)):
                return collected
            packed = await collect.pack_anew(self._git, repository.path, (working,))
            async with self._git.locks.using(repository.id, alone=True, seconds=PATIENCE_SECONDS):
                recorded = [
                    row["commit"] for row in await self._pool.fetch(_SQL["commits_in"], repository.id)
                ]
                size = await collect.drop_cruft(self._git, repository.path, packed, recorded)
            return collected + Collected(bytes=size)

    async def _let_go(
        self, repository: "_Repository", before: datetime, going: list[str], held: tuple[int, ...]
    ) -> Collected:
        """Take commits off the record, then their refs, and the repository when it has none left."""
        removed = await self._pool.fetch(_SQL["remove_unused_commits"], repository.id, before, going)
        kept = [row["commit"] for row in await self._pool.fetch(_SQL["commits_in"], repository.id)]
        if not kept and await self._pool.fetchrow(_SQL["is_deserted"], repository.id, before) is not None:
            # Aside first: without its row it would never be found again.
            await asyncio.to_thread(self._git.put_aside, repository.path)
            gone = await self._pool.fetchrow(_SQL["remove_repository"], repository.id, before)
            return Collected(repositories=0 if gone is None else 1, commits=len(removed))
        if not repository.path.is_dir():
            return Collected(commits=len(removed))
        whole = await self._git.trees(repository.path, kept)
        if len(whole) < len(kept):
            broken = sorted(set(kept) - set(whole))
            log.error("commits are not there any more", repository_id=repository.id, commits=broken[:20])
            await self._pool.execute(_SQL["remove_broken_commits"], repository.id, broken)
        unused = await self._pool.fetchval(_SQL["is_unused_mirror"], repository.id, before)
        refs = await collect.set_refs(self._git, repository.path, whole, held, unused=bool(unused))
        return Collected(commits=len(removed), refs=refs)


@dataclass(frozen=True, slots=True)
class _Repository:
    id: int
    owner_id: int
    path: Path
