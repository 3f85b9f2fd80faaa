"""How much a user's runs hold, however many there are of them."""

from datetime import UTC, datetime

import pytest

from spell_gateway.files import Files
from spell_gateway.resolving import Resolver
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import User
from spell_gateway.usage import UsageOf
from spell_proto.state import Intent, RunState
from spell_proto.views import RunList, RunView, SnapshotView
from support.specs import a_run

AT = datetime(2026, 1, 2, tzinfo=UTC)
ADA = User(id=1, name="ada", created_at=AT)


def a_view(number, *, state=RunState.COMPLETE, files=1, snapshots=()):
    values = dict.fromkeys(RunView.model_fields)
    defaults = {
        name: field.default for name, field in RunView.model_fields.items() if not field.is_required()
    }
    return RunView(
        **values
        | defaults
        | {
            "id": number,
            "owner_id": 1,
            "creator": "ada",
            "state": state,
            "intent": Intent.RUN,
            "version": 1,
            "attempt": 1,
            "machine_reachable": False,
            "spec": a_run(),
            "labels": (),
            "created_at": AT,
            "manifest": "0" * 64 if files else None,
            "saved_files": files,
            "saved_bytes": 10 * files,
            "saves_met": len(snapshots),
            "snapshots": tuple(
                SnapshotView(number=one, asked=one, manifest=manifest, files=2, bytes=100, at=AT)
                for one, manifest in snapshots
            ),
        }
    )


class FewAtOnce(Scheduler):
    """Tells of runs as the scheduler does: a page of them without their snapshots, or one."""

    def __init__(self, runs):
        self._runs = {run.id: run for run in runs}

    async def runs(self, owner_id, *, limit, before=None):
        older = [run for run in self._runs.values() if before is None or run.id < before]
        newest = sorted(older, key=lambda run: -run.id)
        page = [run.model_copy(update={"snapshots": ()}) for run in newest[:limit]]
        return RunList(runs=tuple(page), more=len(newest) > limit)

    async def run(self, owner_id, run_id):
        return self._runs[run_id]


def asked(*runs):
    scheduler = FewAtOnce(runs)
    files = Files(scheduler, None, Resolver(scheduler, None), page=2)
    return files, UsageOf(scheduler, Resolver(scheduler, None), files, None)


async def test_no_run_is_left_out_however_many_there_are():
    files, usage = asked(*(a_view(number) for number in range(1, 42)))

    listed = [entry.path for entry in (await files.listing(ADA, "runs", recursive=False)).entries]
    summed = await usage.at(ADA, "runs")

    assert listed == [str(number) for number in range(1, 42)]
    assert ([entry.path for entry in summed.entries], summed.files, summed.bytes) == (listed, 41, 410)


async def test_snapshots_count_also_where_they_are_all_that_is_left():
    digest = "0" * 64
    killed = a_view(2, state=RunState.KILLED, files=0, snapshots=[(1, digest), (2, None), (3, digest)])
    files, usage = asked(
        a_view(1, snapshots=[(1, digest)]), killed, a_view(3, state=RunState.FAILED, files=0)
    )

    summed = await usage.at(ADA, "runs")
    listed = (await files.listing(ADA, "runs", recursive=False)).entries

    assert [entry.path for entry in listed] == ["1", "2@1", "2@3"], "what is all that is left can be found"
    assert [entry.path for entry in summed.entries] == ["1@1", "1", "2@1", "2@3"]
    assert (summed.files, summed.bytes) == (7, 310)


@pytest.mark.parametrize("runs", [0, 2])
async def test_pages_that_end_just_there_are_no_trouble(runs):
    _, usage = asked(*(a_view(number + 1) for number in range(runs)))

    assert (await usage.at(ADA, "runs")).files == runs
