"""Which environments there are and who uses them: told, removed when asked, and kept within their room (shell)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from spell_builder import keys, locks, verify
from spell_builder.directories import Directories
from spell_builder.errors import BuilderError
from spell_builder.image_cache import ImageCache
from spell_builder.images import Images
from spell_builder.requests import Requests
from spell_builder.sharing import Sharing
from spell_builder.shelves import DirectoryShelf, Shelf
from spell_proto import logs
from spell_proto.docker import GONE
from spell_proto.environments import (
    EnvironmentDetail,
    EnvironmentList,
    EnvironmentView,
    Removed,
    UseAsked,
    UseView,
)
from spell_proto.errors import ConflictError, NotFoundError, shown
from spell_proto.service import ticker
from spell_proto.views import Verdict

log = logs.get()

#: Those of some runs that have not ended.
Active = Callable[[Sequence[int]], Awaitable[set[int]]]

#: What was handed out or built so lately is not removed: its user may not have been noted yet.
YOUNG_SECONDS = 60.0
COLLECT_SECONDS = 600.0
_LONG_AGO = datetime.fromtimestamp(0, UTC)
_RUNS_ASKED_MAX = 10_000
_KEY_SHOWN = 12


class Inventory:
    """All environments of a builder."""

    def __init__(
        self,
        requests: Requests,
        directories: Directories,
        images: Images,
        sharing: Sharing | None,
        cache: ImageCache | None,
        active: Active,
        bytes_max: int,
        bare_key: str,
    ) -> None:
        self._requests = requests
        self._directories = directories
        self._images = images
        self._sharing = sharing
        self._cache = cache
        self._active = active
        self._bytes_max = bytes_max
        self._bare_key = bare_key
        self._young: dict[str, float] = {}
        self._changing = asyncio.Lock()

    def touch(self, key: str) -> None:
        """Somebody is about to use an environment."""
        self._young[key] = time.monotonic()

    async def used(self, run_id: int, key: str, digest: str, *, reused: bool) -> None:
        """Note who uses an environment, before he does: it stays until the run has ended."""
        self.touch(key)
        await self._requests.use(run_id, key, digest, reused=reused)

    async def keep(self, stop: asyncio.Event, built: asyncio.Event) -> None:
        """Collect after each build, and now and then, until `stop`."""
        while await ticker(stop, COLLECT_SECONDS, wake=built):
            try:
                await self.collect()
            except (BuilderError, *GONE, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("environments could not be collected", problem=repr(error))

    # ---- telling ---------------------------------------------------------------------------------------------

    async def listed(self) -> EnvironmentList:
        there = await self._there()
        views = [_view(row, there) for row in await self._rows() if row["key"] in there]
        views.sort(key=lambda view: (view.used_at or view.built_at or _LONG_AGO).timestamp(), reverse=True)
        total = sum(view.bytes or 0 for view in views)
        return EnvironmentList(environments=tuple(views), bytes=total, bytes_max=self._bytes_max)

    async def _there(self) -> set[str]:
        found = await asyncio.to_thread(self._directories.all_complete)
        return {*found, *await self._images.all_complete()}

    async def verify(self, key: str | None) -> Verdict:
        """The verdict on one environment, or on all."""
        return await verify.verdict(self._requests, self._directories, key)

    async def detail(self, prefix: str) -> EnvironmentDetail:
        """One environment, by its key or enough of it."""
        return self._detail(await self._one(prefix))

    async def use(self, asked: UseAsked) -> UseView:
        """The environment of a run, and how it came to be.

        Raises:
            NotFoundError: none is noted for it.
        """
        uses = {use["run_id"]: use for use in await self._requests.uses([asked.run_id, *asked.others])}
        own = uses.get(asked.run_id)
        if own is None:
            raise NotFoundError(
                "environment_unknown",
                f"run {asked.run_id} has used no environment with packages: it asked for none, or has not come to it yet",
            )
        detail = self._detail(await self._one(own["key"]))
        compared = next(
            (run_id for run_id in asked.others if run_id in uses and uses[run_id]["key"] != own["key"]), None
        )
        changes: tuple[str, ...] = ()
        if compared is not None:
            changes = locks.changes(self._detail(await self._one(uses[compared]["key"])), detail)
        return UseView(
            run_id=asked.run_id,
            reused=own["reused"],
            resolved_at=own["resolved_at"],
            detail=detail,
            compared_with=compared,
            changes=changes,
        )

    async def _rows(self) -> list[dict[str, Any]]:
        await self._forget_ended()
        return [dict(row) for row in await self._requests.inventory()]

    async def _one(self, prefix: str) -> dict[str, Any]:
        found = [row for row in await self._rows() if row["key"].startswith(prefix)]
        if not found:
            raise NotFoundError("environment_unknown", f"there is no environment {shown(prefix)}")
        if len(found) > 1:
            raise ConflictError(
                "environment_ambiguous",
                f"{len(found)} environments begin with {shown(prefix)}; give more of the key",
            )
        return found[0]

    def _detail(self, row: dict[str, Any]) -> EnvironmentDetail:
        key = row["key"]
        there = {key} if self._directories.complete(key) or self._images.complete(key) else set()
        about = row["interpreter"] or {}
        view = _view(row, there)
        return EnvironmentDetail(
            environment=view,
            platform=about.get("platform", ""),
            libc=about.get("libc", ""),
            lock=locks.lock(key, about, row["resolved"]),
        )

    # ---- removing --------------------------------------------------------------------------------------------

    async def remove(self, prefix: str) -> Removed:
        """Remove one.

        Raises:
            ConflictError: a run uses it.
        """
        row = await self._one(prefix)
        if row["active"]:
            runs = ", ".join(map(str, row["active"][:5]))
            raise ConflictError(
                "environment_in_use",
                f"environment {row['key'][:_KEY_SHOWN]} is used by run {runs}; stop it first",
            )
        await self._measure([row])
        if row["key"] in await self._stood_on():
            raise ConflictError(
                "environment_in_use",
                f"environment {row['key'][:_KEY_SHOWN]} is a layer of others (spell env list); remove those first",
            )
        removed = await self._remove([row], 0)
        if not removed.keys:
            # It was not here: others may have it all the same.
            await self._forget(row["key"])
        return removed

    async def collect(self, *, everything: bool = False) -> Removed:
        """Remove the longest unused until the rest has room; with `everything`, all that nobody uses."""
        async with self._changing:
            await self._images.clear()
        there = await self._there()
        rows = [row for row in await self._rows() if row["key"] in there]
        await self._measure(rows)
        excess = sum(row["bytes"] for row in rows) - (0 if everything else self._bytes_max)
        now = time.monotonic()
        spare = [
            row
            for row in rows
            if not row["active"]
            and row["key"] != self._bare_key
            and now - self._young.get(row["key"], -YOUNG_SECONDS) >= (0 if everything else YOUNG_SECONDS)
        ]
        spare.sort(key=_age)
        removed = await self._remove(spare, excess) if excess > 0 else Removed(keys=(), bytes=0)
        await self._collect_archives(0 if everything else self._bytes_max)
        return removed

    async def _forget(self, key: str) -> None:
        """Tell other machines nothing of an environment any more."""
        for stored in (self._sharing, self._cache):
            if stored is not None:
                await stored.forget(key)

    async def _collect_archives(self, bytes_max: int) -> None:
        """Forget archives of what nobody uses, the longest unused first, until the rest has room."""
        if self._sharing is None:
            return
        kept = await self._sharing.kept()
        excess, now = sum(kept.values()) - bytes_max, time.monotonic()
        for row in sorted(map(dict, await self._requests.inventory()), key=_age) if excess > 0 else ():
            key = row["key"]
            young = now - self._young.get(key, -YOUNG_SECONDS) < YOUNG_SECONDS
            if excess > 0 and key in kept and not (row["active"] or young or key == self._bare_key):
                await self._sharing.forget(key)
                excess -= kept[key]
        await self._sharing.collect()

    async def _measure(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["bytes"] is None:
                size = await self._shelf(row).size(row["key"])
                await self._requests.size(row["key"], size)
                row["bytes"] = size

    async def _remove(self, rows: list[dict[str, Any]], excess: int) -> Removed:
        removed: list[str] = []
        freed = 0
        async with self._changing:
            stood_on = await self._stood_on()
            left = rows
            while left:
                # What stands on another one goes first, however long that one has not been used.
                free = [row for row in left if row["key"] not in stood_on]
                for row in free:
                    if excess and freed >= excess:
                        return Removed(keys=tuple(removed), bytes=freed)
                    if await self._shelf(row).take_away(row["key"], self._requests.active_uses):
                        await self._forget(row["key"])
                        removed.append(row["key"])
                        freed += row["bytes"] or 0
                        log.info("environment removed", key=row["key"], bytes=row["bytes"])
                left = [row for row in left if row not in free]
                before, stood_on = stood_on, await self._stood_on()
                if before == stood_on:
                    break
        return Removed(keys=tuple(removed), bytes=freed)

    async def _stood_on(self) -> set[str]:
        """The layers that others are made on which are still there."""
        images = await self._images.all_complete()
        rows = await self._requests.inventory()
        below = {row["below"] for row in rows if row["key"] in images and row["below"] is not None}
        return below | await asyncio.to_thread(self._directories.all_below)

    def _shelf(self, row: dict[str, Any]) -> Shelf:
        return self._images if keys.of_image(row["interpreter"]) else DirectoryShelf(self._directories)

    async def _forget_ended(self) -> None:
        """Ask which of the runs that were not over the last time have ended. Without an answer, all are kept."""
        noted = await self._requests.not_over(_RUNS_ASKED_MAX)
        if noted:
            active = await self._active(noted)
            await self._requests.over([run_id for run_id in noted if run_id not in active])


def _age(row: dict[str, Any]) -> float:
    """Growing with the time of the last use."""
    used: datetime = row["used_at"] or row["built_at"] or _LONG_AGO
    return used.timestamp()


def _view(row: dict[str, Any], there: set[str]) -> EnvironmentView:
    about = row["interpreter"] or {}
    return EnvironmentView(
        key=row["key"],
        python=about.get("version", "Python"),
        packages=locks.count(row["resolved"]),
        ready=row["key"] in there,
        in_use=bool(row["active"]),
        runs=row["runs"],
        bytes=row["bytes"],
        built_at=row["built_at"],
        build_seconds=row["build_seconds"],
        used_at=row["used_at"],
    )
