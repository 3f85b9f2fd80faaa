"""The scheduler as the gateway sees it: typed calls over its internal HTTP (shell)."""

from typing import Literal
from urllib.parse import quote, urlencode

import orjson
from pydantic import TypeAdapter

from spell_gateway.shapes import Created
from spell_proto.http import Caller
from spell_proto.scrubbing import ManifestNames
from spell_proto.spec import RunSpec
from spell_proto.views import (
    ArchiveOutcome,
    EndOutcome,
    Health,
    MachineTypeList,
    ManifestsAsked,
    OwnerSummary,
    RunList,
    RunView,
    SaveOutcome,
    SnapshotView,
    TransitionList,
    Verdict,
)

RUN = TypeAdapter(RunView)
RUNS = TypeAdapter(RunList)
SPEC = TypeAdapter(RunSpec)
TRANSITIONS = TypeAdapter(TransitionList)
OUTCOME = TypeAdapter(EndOutcome)
MANIFEST_NAMES = TypeAdapter(ManifestNames)
ARCHIVED = TypeAdapter(ArchiveOutcome)
SAVED = TypeAdapter(SaveOutcome)
SUMMARY = TypeAdapter(OwnerSummary)
MACHINE_TYPES = TypeAdapter(MachineTypeList)
VERDICT = TypeAdapter(Verdict)
HEALTH = TypeAdapter(Health)

Ending = Literal["stop", "kill"]


class Scheduler:
    """Every call is on behalf of an owner; what belongs to another one is not found."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(
        self,
        *,
        owner_id: int,
        creator: str,
        idempotency_key: str | None,
        request_sha256: str,
        spec: RunSpec,
        labels: tuple[str, ...],
    ) -> Created:
        """Raises ConflictError when the key was used for another request."""
        body = orjson.dumps(
            {
                "owner_id": owner_id,
                "creator": creator,
                "idempotency_key": idempotency_key,
                "request_sha256": request_sha256,
                "spec": spec.model_dump(),
                "labels": labels,
            }
        )
        headers = {"Content-Type": "application/json"}
        async with self._caller.open("POST", "/runs", data=body, headers=headers) as response:
            run = RUN.validate_json(await response.read())
            return Created(run=run, replayed=response.status == 200)

    async def made(self, owner_id: int, idempotency_key: str, request_sha256: str) -> RunView:
        """The run that an earlier request has made.

        Raises:
            NotFoundError: there is none.
            ConflictError: the key was used for another request.
        """
        body = {
            "owner_id": owner_id,
            "idempotency_key": idempotency_key,
            "request_sha256": request_sha256,
        }
        return await self._caller.call("POST", "/runs/made", RUN, body=body)

    async def runs(
        self,
        owner_id: int,
        *,
        limit: int,
        labels: tuple[str, ...] = (),
        repository: str | None = None,
        before: int | None = None,
    ) -> RunList:
        asked: list[tuple[str, str | int]] = [("owner_id", owner_id), ("limit", limit)]
        asked += [("label", label) for label in labels]
        if repository is not None:
            asked.append(("repository", repository))
        if before is not None:
            asked.append(("before", before))
        return await self._caller.call("GET", f"/runs?{urlencode(asked)}", RUNS)

    async def run(self, owner_id: int, run_id: int) -> RunView:
        return await self._caller.call("GET", f"/runs/{run_id}?owner_id={owner_id}", RUN)

    async def snapshots(self, run: RunView) -> tuple[SnapshotView, ...]:
        """Those of a run that have files, oldest first: lists of runs do not have them."""
        if run.archived_at is not None or not (run.saves_met or run.spec.save_every_seconds is not None):
            return ()
        whole = await self.run(run.owner_id, run.id)
        return tuple(one for one in whole.snapshots if one.manifest is not None)

    async def spec(self, owner_id: int, run_id: int) -> RunSpec:
        """What a run was, with the values of its variables: never to be shown to anybody."""
        return await self._caller.call("GET", f"/runs/{run_id}/spec?owner_id={owner_id}", SPEC)

    async def transitions(self, owner_id: int, run_id: int) -> TransitionList:
        path = f"/runs/{run_id}/transitions?owner_id={owner_id}"
        return await self._caller.call("GET", path, TRANSITIONS)

    async def end(self, owner_id: int, run_id: int, ending: Ending) -> EndOutcome:
        return await self._caller.call("POST", f"/runs/{run_id}/{ending}?owner_id={owner_id}", OUTCOME)

    async def archive(self, owner_id: int, run_ids: tuple[int, ...]) -> ArchiveOutcome:
        path = f"/runs/archive?owner_id={owner_id}"
        return await self._caller.call("POST", path, ARCHIVED, body={"run_ids": run_ids})

    async def save(self, owner_id: int, run_id: int) -> SaveOutcome:
        """Raises ConflictError when the run is not running."""
        return await self._caller.call("POST", f"/runs/{run_id}/save?owner_id={owner_id}", SAVED)

    async def runs_with(self, owner_id: int, manifest: str) -> tuple[str, ...]:
        """The runs and snapshots whose files a manifest is, as in `7` or `7@2`."""
        asked = ManifestsAsked(owner_id=owner_id, digests=(manifest,))
        named = await self._caller.call("POST", "/manifests/runs", MANIFEST_NAMES, body=asked)
        return tuple(name for _, name in named.runs)

    async def label(
        self, method: Literal["PUT", "DELETE"], owner_id: int, run_id: int, label: str
    ) -> RunView:
        path = f"/runs/{run_id}/labels/{quote(label, safe='')}?owner_id={owner_id}"
        return await self._caller.call(method, path, RUN)

    async def all_transitions(self, owner_id: int, after: str, limit: int) -> TransitionList:
        """Rows of all runs of an owner that were committed after the cursor `after`."""
        asked = {"owner_id": owner_id, "limit": limit, **({"after": after} if after else {})}
        return await self._caller.call("GET", "/transitions", TRANSITIONS, params=asked)

    async def summary(self, owner_id: int) -> OwnerSummary:
        return await self._caller.call("GET", f"/owners/{owner_id}", SUMMARY)

    async def machine_types(self) -> MachineTypeList:
        return await self._caller.call("GET", "/machine-types", MACHINE_TYPES)

    async def verify(self, owner_id: int, run_id: int | None) -> Verdict:
        asked = {"owner_id": owner_id, "run_id": run_id}
        return await self._caller.call("GET", "/verify", VERDICT, params=asked)
