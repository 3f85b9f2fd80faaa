"""Removes saved files that nobody needs: manifests that nothing names, and the bytes that only they needed (shell).

Theory of operation
-------------------
What is kept: a manifest that a run names, or a row of storage (`named_manifests`); a blob of an owner that a manifest of
his needs, or that he was told of lately; an object that an owner has. Each level is removed by itself, the lower ones
after the higher ones, and always in the same way:

1. candidates are looked for without any lock, a portion at a time;
2. they are locked, passing over those that somebody works with right now: he has them;
3. under the locks, with all that was committed until they were got, those that are still not needed are removed.

Whoever wants to keep something locks it too before he says so, in the same transaction, or was told of it so lately that
it is no candidate. Bytes go last: taking an object off the record makes its key loose, in the same commit, and what lies
under a loose key is removed whenever that is noticed. Killed at any line, a pass leaves what the next one goes on with.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from pydantic import TypeAdapter

from spell_proto import database, logs
from spell_proto.errors import GoneError, NotFoundError, RefusedError
from spell_proto.http import Caller
from spell_proto.views import ManifestsAsked, ManifestsInUse
from spell_storage import manifests, passes, quotas
from spell_storage.blobs import Blobs
from spell_storage.housekeeping import InUse
from spell_storage.objects import Objects

log = logs.get()

_SQL = database.queries("spell_storage", "garbage.sql")
#: Rows that are looked at, and locked, at once.
PORTION = 1_000
#: Manifests that are removed in one transaction: each may need a hundred thousand objects.
_MANIFESTS_AT_ONCE = 20
_REMOVALS_AT_ONCE = 8
_IN_USE: TypeAdapter[ManifestsInUse] = TypeAdapter(ManifestsInUse)


def runs_with(scheduler: Caller) -> InUse:
    """Ask the scheduler which manifests runs name; it raises where it does not answer, or does not know yet."""
    return _asking(scheduler, "/manifests/in-use")


def runs_without(scheduler: Caller) -> InUse:
    """Ask the scheduler which manifests runs have named that are archived by now."""
    return _asking(scheduler, "/manifests/let-go")


def _asking(scheduler: Caller, path: str) -> InUse:
    async def ask(owner_id: int, digests: Sequence[str]) -> set[str]:
        asked = ManifestsAsked(owner_id=owner_id, digests=tuple(digests))
        return set((await scheduler.call("POST", path, _IN_USE, body=asked)).digests)

    return ask


@dataclass(frozen=True, slots=True)
class Removed:
    """What a pass has removed; `bytes` is the room that it made."""

    manifests: int = 0
    blobs: int = 0
    objects: int = 0
    bytes: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(
            self.manifests + other.manifests,
            self.blobs + other.blobs,
            self.objects + other.objects,
            self.bytes + other.bytes,
        )


class Garbage:
    """One pass after the other, in one process at a time. Without `in_use` nothing is ever removed."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        objects: Objects,
        blobs: Blobs,
        in_use: InUse | None,
        kept_seconds: float,
    ) -> None:
        self._pool = pool
        self._objects = objects
        self._blobs = blobs
        self._in_use = in_use
        self._kept = timedelta(seconds=kept_seconds)

    async def run(self, stop: asyncio.Event, seconds: float) -> None:
        """Pass every `seconds` until `stop` is set or this is cancelled, which is safe at every line."""
        if self._in_use is None:
            log.warning("no saved files are ever removed: SPELL_SCHEDULER_URL is not set")
            return
        await passes.repeat(stop, seconds, self.run_once, "unused files")

    async def run_once(self, now: datetime) -> Removed:
        """Remove what is not needed at `now`. Another copy of this service that is at it already goes on alone."""
        async with passes.alone(self._pool, _SQL["try_lock"], _SQL["unlock"]) as alone:
            if not alone:
                return Removed()
            await self._blobs.sentinel.check()
            before = now - self._kept
            await self._list_old_manifests()
            removed = await self._remove_manifests(now, before)
            removed += await self._remove_blobs(before)
            removed += await self._remove_objects(before)
            await self._blobs.contents.look_again(before)
            await self._pool.execute(_SQL["give_up_old"], before)
            await self._remove_bytes()
        if removed != Removed():
            log.info("unused files removed", **asdict(removed))
        return removed

    async def _list_old_manifests(self) -> None:
        """Write down what manifests need that were stored before that was done. Until it is, their owner loses nothing."""
        for row in await self._pool.fetch(_SQL["unlisted_manifests"]):
            try:
                data = await self._blobs.manifest(row["owner_id"], row["digest"])
            except (NotFoundError, GoneError) as error:
                log.warning("a manifest cannot be read", digest=row["digest"], problem=str(error))
                continue
            needed = manifests.digests(await asyncio.to_thread(manifests.MANIFEST.validate_json, data))
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_SQL["list_digests"], row["id"], [*needed, row["digest"]])
                await connection.execute(_SQL["set_listed"], row["id"])

    async def _remove_manifests(self, now: datetime, before: datetime) -> Removed:
        assert self._in_use is not None
        last, removed = (-1, ""), 0
        while rows := await self._pool.fetch(_SQL["manifests_after"], *last, PORTION):
            last = (rows[-1]["owner_id"], rows[-1]["digest"])
            unnamed: list[int] = []
            for owner_id in sorted({row["owner_id"] for row in rows}):
                of_owner = {row["digest"]: row["id"] for row in rows if row["owner_id"] == owner_id}
                named = await self._in_use(owner_id, list(of_owner))
                unnamed += [number for digest, number in of_owner.items() if digest not in named]
            changed = await self._pool.fetch(
                _SQL["set_named"], sorted({row["id"] for row in rows} - set(unnamed))
            )
            changed += await self._pool.fetch(_SQL["set_unnamed"], unnamed, now, now - quotas.NAMED_WITHIN)
            await self._blobs.quotas.forget(row["owner_id"] for row in changed)
            for start in range(0, len(unnamed), _MANIFESTS_AT_ONCE):
                some = unnamed[start : start + _MANIFESTS_AT_ONCE]
                gone = await self._locked("manifests", (some, before))
                removed += len(gone)
        return Removed(manifests=removed)

    async def _remove_blobs(self, before: datetime) -> Removed:
        last, removed = (-1, ""), 0
        while rows := await self._pool.fetch(_SQL["blobs_after"], *last, before, PORTION):
            last = (rows[-1]["owner_id"], rows[-1]["sha256"])
            unneeded = [(row["owner_id"], row["sha256"]) for row in rows if row["unneeded"]]
            if unneeded:
                owners, digests = (list(column) for column in zip(*unneeded, strict=True))
                removed += len(await self._locked("blobs", (owners, digests, before)))
        return Removed(blobs=removed)

    async def _remove_objects(self, before: datetime) -> Removed:
        last, removed = 0, Removed()
        while rows := await self._pool.fetch(_SQL["objects_after"], last, before, PORTION):
            last = rows[-1]["id"]
            unneeded = [row["id"] for row in rows if row["unneeded"]]
            if unneeded:
                [gone] = await self._locked("objects", (unneeded, before))
                removed += Removed(objects=gone["objects"], bytes=gone["bytes"])
        return removed

    async def _locked(self, what: str, candidates: tuple[Any, ...]) -> list[asyncpg.Record]:
        """Steps 2 and 3 for candidates of one kind; what the removal answers."""
        async with self._pool.acquire() as connection, connection.transaction():
            locked = await connection.fetch(_SQL[f"lock_{what}"], *candidates)
            columns = [list(column) for column in zip(*(tuple(row) for row in locked), strict=True)]
            # With none of them locked, there are none to remove.
            columns = columns or [[] for _ in candidates[:-1]]
            rows: list[asyncpg.Record] = await connection.fetch(_SQL[f"remove_{what}"], *columns)
        return rows

    async def _remove_bytes(self) -> None:
        """Remove what lies under loose keys; forgotten afterwards, so that a crash in between costs a second try. What
        cannot be removed stays on record, and is no hindrance to the rest.
        """
        last, stayed, problem = "", 0, ""
        while rows := await self._pool.fetch(_SQL["given_up"], last, PORTION):
            keys = [row["key"] for row in rows]
            last, gone = keys[-1], list[str]()
            problems: list[str] = []
            for start in range(0, len(keys), _REMOVALS_AT_ONCE):
                async with asyncio.TaskGroup() as group:
                    for key in keys[start : start + _REMOVALS_AT_ONCE]:
                        group.create_task(self._remove(key, gone, problems))
            await self._pool.execute(_SQL["forget_keys"], gone)
            if problems:
                stayed, problem = stayed + len(problems), problems[-1]
                # Where the store went away meanwhile, there is no use in going on.
                await self._blobs.sentinel.check()
        if stayed:
            log.error("stored bytes cannot be removed", count=stayed, problem=problem)

    async def _remove(self, key: str, gone: list[str], problems: list[str]) -> None:
        try:
            await self._objects.remove(key)
            gone.append(key)
        except (RefusedError, OSError) as error:
            problems.append(f"{key}: {error!r}")
