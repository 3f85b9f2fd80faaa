"""How the services are, and whether what they keep fits together."""

import asyncio
from collections import defaultdict

from spell_gateway.builder import Builder
from spell_gateway.live import Live
from spell_gateway.runs import TOGETHER_MAX, Runs
from spell_gateway.scheduler import HEALTH, Scheduler
from spell_gateway.shapes import StatusView, User
from spell_gateway.storage import Storage
from spell_proto.errors import RefusedError
from spell_proto.http import Caller
from spell_proto.service import version
from spell_proto.state import FINAL
from spell_proto.views import Check, FilesUse, Health, RunView, Verdict

ANSWER_SECONDS_MAX = 2.0
VERIFIED_RUNS_MAX = 1000
DETAILS_MAX = 5
#: Snapshots that follow each other have most of their files in common, which are read once then.
SNAPSHOTS_TOGETHER = 20


def merged(verdicts: list[tuple[str, Verdict]]) -> Verdict:
    """One verdict per invariant: it holds where it holds everywhere. `verdicts` come with whom they are about."""
    found: dict[str, list[tuple[str, Check]]] = defaultdict(list)
    for about, verdict in verdicts:
        for check in verdict.checks:
            found[check.id].append((about, check))
    checks = []
    for name, parts in found.items():
        details = [f"{about}{check.detail}" for about, check in parts if not check.ok]
        more = f" (and {len(details) - DETAILS_MAX} more)" if len(details) > DETAILS_MAX else ""
        checks.append(
            Check(
                id=name,
                title=parts[0][1].title,
                ok=not details,
                checked=sum(check.checked for _, check in parts),
                detail="; ".join(details[:DETAILS_MAX]) + more,
            )
        )
    return Verdict(checks=tuple(checks))


class Doctor:
    """Asks every service."""

    def __init__(
        self,
        runs: Runs,
        scheduler: Scheduler,
        storage: Storage,
        builder: Builder,
        live: Live,
        services: dict[str, Caller],
    ) -> None:
        self._runs = runs
        self._scheduler = scheduler
        self._storage = storage
        self._builder = builder
        self._live = live
        self._services = services

    def own_health(self) -> Health:
        """This process answers. Without the message bus it still works, but later."""
        detail = (
            "" if self._live.connected else "not connected to the message bus; followers look every second"
        )
        return Health(service="gateway", version=version(), ok=True, detail=detail)

    async def status(self, user: User) -> StatusView:
        summary = await self._scheduler.summary(user.id)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._ask(name, to)) for name, to in self._services.items()]
            saved = await self._saved(user)
        services = (self.own_health(), *(task.result() for task in asked))
        return StatusView(**summary.model_dump(), user=user.name, services=services, saved=saved)

    async def _saved(self, user: User) -> FilesUse | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await self._storage.files_use(user.id)
        except (RefusedError, TimeoutError):
            return None

    async def _ask(self, name: str, service: Caller) -> Health:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await service.call("GET", "/health", HEALTH)
        except (RefusedError, TimeoutError, ValueError):
            return Health(service=name, version="", ok=False, detail="does not answer")

    async def verify(self, user: User, run_id: int | None) -> Verdict:
        """The scheduler's invariants, the builder's, and for every final run with a log and every snapshot, storage's."""
        verdicts = [("", await self._scheduler.verify(user.id, run_id))]
        runs = await self._runs.all_of(user, run_id, VERIFIED_RUNS_MAX)
        verdicts.append(("", await self._builder.verify(None if run_id is None else runs[0])))
        free = asyncio.Semaphore(TOGETHER_MAX)

        async def verify(run: RunView) -> list[tuple[str, Verdict]]:
            async with free:
                return await self._stored(run)

        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(verify(run)) for run in runs]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return merged([*verdicts, *(one for task in asked for one in task.result())])

    async def _stored(self, run: RunView) -> list[tuple[str, Verdict]]:
        """What storage says of a run and of its snapshots: they are there whatever becomes of it."""
        found = []
        if run.state in FINAL and run.log is not None:
            found.append((f"run {run.id}: ", await self._storage.verify(run)))
        snapshots = await self._scheduler.snapshots(run)
        for start in range(0, len(snapshots), SNAPSHOTS_TOGETHER):
            some = snapshots[start : start + SNAPSHOTS_TOGETHER]
            digests = [one.manifest for one in some if one.manifest is not None]
            checks = await self._storage.verify_files(run.owner_id, digests)
            for one, check in zip(some, checks, strict=True):
                found.append((f"runs/{run.id}@{one.number}: ", Verdict(checks=(check,))))
        return found
