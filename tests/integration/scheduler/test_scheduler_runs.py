"""The scheduler against real Postgres and NATS, with a machine that speaks its wire."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from spell_proto import bus, http, subjects
from spell_proto.errors import (
    ConflictError,
    GoneError,
    InvalidError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from spell_proto.events import (
    AttemptFailed,
    AttemptKilled,
    CodeFetched,
    CommandExited,
    CommandStarted,
    OutputsSaved,
    SnapshotFailed,
    SnapshotSaved,
)
from spell_proto.state import FINAL, Reason
from spell_proto.views import RunView
from support import stack
from support.scheduler import (
    LOG,
    RUN,
    RUNS,
    TOTALS,
    Client,
    SchedulerProcess,
    machine,
    now,
    scheduler,
    until,
    whole_life,
)

pytestmark = pytest.mark.integration
OWNERS = itertools.count(100)


@pytest.fixture(scope="module", name="process")
def _process(postgres, nats) -> Iterator[SchedulerProcess]:
    """One scheduler for all tests that do not restart it, with a limit of three runs per owner."""
    with stack.short_directory() as directory:
        process = SchedulerProcess(postgres, nats, Path(directory), SPELL_RUNS_MAX="3")
        asyncio.run(process.start())
        yield process
        assert asyncio.run(process.stop()) == 0, process.log.read_text()


@pytest.fixture(name="place")
async def _place(process, request) -> AsyncIterator[tuple[SchedulerProcess, Client, str]]:
    """The scheduler, a client of a fresh owner, and a machine type nobody else uses."""
    owner = next(OWNERS)
    async with http.Caller(f"unix://{process.socket}") as caller:
        client = Client(caller, owner)
        yield process, client, f"T{owner}"
        if "damage" not in request.node.name:
            assert [check for check in (await client.verify()).checks if not check.ok] == []


async def test_a_run_goes_through_its_states_in_order(place, nats):
    """Requested, Building, Running, Saving, Pushing, Complete; each once, with exit code and times."""
    _, client, kind = place
    async with machine(nats, "m-life", kind) as box:
        run = await client.create(machine_type=kind)
        assert run.state == "building", "the transaction that creates a run admits it when a slot is free"

        await box.beat()
        await box.report(run.id, *whole_life(exit_code=66))
        done = await client.until_state(run.id, "complete")

    assert (done.engine, done.gpus) == ("docker", ("GPU-1", "GPU-2"))
    assert done.exit_code == 66
    assert done.run_seconds is not None
    assert await client.states(run.id) == [
        "requested",
        "building",
        "running",
        "saving",
        "pushing",
        "complete",
    ]
    assert all(check.ok for check in (await client.verify()).checks)


async def test_reports_may_arrive_twice_in_pieces_and_out_of_order(place, nats):
    """A later piece first is ignored until the heartbeat's answer has asked for what is missing."""
    _, client, kind = place
    async with machine(nats, "m-order", kind) as box:
        run = await client.create(machine_type=kind)
        await box.beat()
        key, steps = await box.taken(run.id), whole_life()
        box.steps[key].extend(steps)

        await box.send(key, 3, steps[2:], times=2)
        await box.send(key, 1, steps[:2], times=3)
        await client.until_state(run.id, "saving")
        answer = await box.beat()
        known = next(wanted.steps for wanted in answer.attempts if wanted.run_id == run.id)
        await box.send(key, known + 1, steps[known:], times=2)
        await client.until_state(run.id, "complete")

    assert (await client.states(run.id)).count("complete") == 1


async def test_the_commit_that_a_url_turned_out_to_be_is_kept_and_its_state_stays(place, nats):
    """A machine reports what it had fetched; the run shows it as its code from then on, and still is Building."""
    _, client, kind = place
    github = {"url": "https://github.com/spellrun/examples.git", "ref": "622d64"}
    async with machine(nats, "m-fetch", kind) as box:
        run = await client.create(machine_type=kind, github=github)
        assert run.spec.code is None
        found = CodeFetched(at=now(), repository_id=7, repository="examples", commit="c" * 40, tree="t" * 40)
        await box.beat()
        await box.report(run.id, found)

        async def shown() -> RunView | None:
            view = await client.get(run.id)
            return view if view.spec.code is not None else None

        view = await until(shown)
        assert view.state == "building"
        assert (view.spec.code.commit, view.spec.code.root_directory) == ("c" * 40, "examples")
        await box.report(run.id, *whole_life())
        assert (await client.until_state(run.id, "complete")).spec.code == view.spec.code


async def test_commits_that_runs_name_are_in_use_for_their_owner_alone(place, nats):
    """The commit, the snapshot, and what a URL turned out to be; others are not, nor are they for another owner."""
    _, client, kind = place
    code = {
        "repository_id": 1,
        "repository": "r",
        "commit": "1" * 40,
        "snapshot": "2" * 40,
        "tree": "3" * 40,
        "root_directory": "r",
        "cwd": ".",
    }
    await client.create(machine_type=kind, code=code)
    async with machine(nats, "m-use", kind, slots=2) as box:
        run = await client.create(machine_type=kind, github={"url": "https://github.com/a/b", "ref": None})
        await box.beat()
        await box.report(
            run.id, CodeFetched(at=now(), repository_id=7, repository="b", commit="4" * 40, tree="5" * 40)
        )
        asked = [digit * 40 for digit in "123456"]

        async def all_three() -> bool:
            return await client.in_use(asked) == {"1" * 40, "2" * 40, "4" * 40}

        await until(all_three)
        assert await Client(client.caller, next(OWNERS)).in_use(asked) == set()
        for name in (await client.caller.call("GET", "/runs", RUNS, params=client.owner)).runs:
            await client.end(name.id, "kill")


async def test_limits_hold_and_the_oldest_waiting_run_starts_by_itself(place, nats):
    """Three at once by the owner's limit although five slots are free; a finished one lets the oldest in."""
    _, client, kind = place
    async with machine(nats, "m-limit", kind, slots=5) as box:
        created = [await client.create(machine_type=kind) for _ in range(5)]
        assert [run.state for run in created] == ["building"] * 3 + ["requested"] * 2
        assert created[3].queue_reason == "owner_limit"

        await box.beat()
        await box.report(created[1].id, *whole_life())
        await client.until_state(created[3].id, "building")

        assert (await client.get(created[4].id)).state == "requested"


async def test_a_run_waits_for_a_machine_of_its_type_and_starts_when_one_appears(place, nats):
    _, client, kind = place
    run = await client.create(machine_type=kind)
    assert (run.state, run.queue_reason) == ("requested", "no_machine")

    async with machine(nats, "m-late", kind):
        await client.until_state(run.id, "building")


async def test_a_run_goes_only_where_it_can_be_run_and_younger_ones_pass_it(place, nats):
    """Docker is not there at first. A machine that does not say what it has is taken to have all."""
    _, client, kind = place
    image = {"docker_image": "docker.io/library/python:latest"}
    async with machine(nats, "m-able", kind, slots=2) as box:
        assert (await client.machine_type(kind)).engines == ("docker", "local")
        box.has = {"engines": ("local",), "gpus": 2, "gpu_models": ("NVIDIA T4",)}
        box.has |= {"run_bytes_max": 1 << 40, "run_files_max": 1_000}
        await box.beat()

        contained = await client.create(machine_type=kind, **image)
        plain = await client.create(machine_type=kind)

        assert (contained.state, contained.queue_reason) == ("requested", "no_engine")
        assert plain.state == "building"
        listed = await client.machine_type(kind)
        assert (listed.engines, listed.gpus, listed.gpu_models) == (("local",), 2, ("NVIDIA T4",))
        assert (listed.run_bytes_max, listed.run_files_max) == (1 << 40, 1_000)

        box.has = {"engines": ("docker", "local")}
        await box.beat()
        await client.until_state(contained.id, "building")


async def test_a_machine_whose_only_engine_is_away_gets_nothing(place, nats):
    _, client, kind = place
    async with machine(nats, "m-unable", kind) as box:
        box.has = {"engines": ()}
        await box.beat()
        run = await client.create(machine_type=kind)
        assert (run.state, run.queue_reason) == ("requested", "no_engine")

        box.has = {"engines": ("docker",)}
        await box.beat()
        await client.until_state(run.id, "building")


async def test_the_machine_is_told_at_once_to_start_and_to_end(place, nats):
    _, client, kind = place
    async with machine(nats, "m-told", kind) as box:
        run = await client.create(machine_type=kind)

        async def told(name: str) -> bool:
            return any(command.kind == name and command.run_id == run.id for command in box.commands)

        await until(lambda: told("start_attempt"))
        outcome = await client.end(run.id, "kill")
        await until(lambda: told("end_attempt"))

    assert outcome.outcome == "ending"


async def test_a_stop_before_the_machine_was_found_kills_at_once(place):
    _, client, kind = place
    run = await client.create(machine_type=kind)

    outcome = await client.end(run.id, "stop")

    assert outcome.outcome == "ended"
    assert (outcome.run.state, outcome.run.reason) == ("killed", "stopped_before_running")
    assert (await client.end(run.id, "kill")).outcome == "already_final"


async def test_a_stopped_command_ends_as_stopped_and_a_killed_one_as_killed(place, nats):
    _, client, kind = place
    async with machine(nats, "m-end", kind, slots=2) as box:
        stopped, killed = await client.create(machine_type=kind), await client.create(machine_type=kind)
        await box.beat()
        for run in (stopped, killed):
            await box.report(run.id, CommandStarted(at=now()))
        await client.until_state(killed.id, "running")
        await client.end(stopped.id, "stop")
        await client.end(killed.id, "stop")
        await client.end(killed.id, "kill")
        _, _, saved, finished = whole_life()
        await box.report(
            stopped.id, CommandExited(at=now(), exit_code=143, exit_cause="stop"), saved, finished
        )
        await box.report(killed.id, AttemptKilled(at=now(), log=TOTALS))

        assert (await client.until_state(stopped.id, "stopped")).reason == "stopped_by_user"
        assert (await client.until_state(killed.id, "killed")).reason == "killed_by_user"


async def test_snapshots_are_asked_for_again_until_the_machine_has_them_and_outlive_the_run(place, nats):
    _, client, kind = place
    run = await client.create(machine_type=kind)
    with pytest.raises(ConflictError, match=f"run {run.id} is requested"):
        await client.save(run.id)
    async with machine(nats, "m-snap", kind) as box:
        await box.beat()
        await client.until_state(run.id, "building")
        await box.beat()
        await box.report(run.id, CommandStarted(at=now()))
        await client.until_state(run.id, "running")

        assert [(await client.save(run.id)).asked for _ in range(2)] == [1, 2]

        async def told() -> bool:
            return any(command.kind == "save_attempt" and command.saves == 2 for command in box.commands)

        await until(told)
        assert [wanted.saves for wanted in (await box.beat()).attempts] == [2]
        saved = SnapshotSaved(at=now(), number=1, asked=1, manifest="a" * 64, files=1, bytes=2)
        await box.report(run.id, saved, SnapshotFailed(at=now(), asked=2, message="no\0room"))

        async def met() -> bool:
            return (await client.get(run.id)).saves_met == 2

        await until(met)
        view = await client.get(run.id)
        assert (view.saves, view.save_problem, [one.number for one in view.snapshots]) == (
            2,
            "no\ufffdroom",
            [1],
        )
        await client.end(run.id, "kill")
        with pytest.raises(ConflictError, match="is being ended"):
            await client.save(run.id)
        await box.report(run.id, AttemptKilled(at=now(), log=TOTALS))
        killed = await client.until_state(run.id, "killed")

    assert (killed.manifest, killed.snapshots) == (None, view.snapshots)
    assert (killed.snapshots[0].manifest, killed.snapshots[0].bytes) == ("a" * 64, 2)


async def test_a_time_limit_stops_the_run_with_its_own_reason(place, nats):
    _, client, kind = place
    async with machine(nats, "m-time", kind) as box:
        run = await client.create(machine_type=kind, timeout_seconds=1)
        await box.beat()
        await box.report(run.id, CommandStarted(at=now()))

        async def stop_wanted() -> bool:
            return (await client.get(run.id)).intent == "stop"

        await until(stop_wanted)
        _, _, saved, finished = whole_life()
        await box.report(run.id, CommandExited(at=now(), exit_code=143, exit_cause="stop"), saved, finished)
        assert (await client.until_state(run.id, "stopped")).reason == "timeout"


async def test_the_same_idempotency_key_makes_one_run(place):
    """Ten equal requests at once are one run; the same key for another request is refused."""
    _, client, kind = place
    made = await asyncio.gather(*[client.create("key-1", machine_type=kind) for _ in range(10)])
    assert len({run.id for run in made}) == 1

    with pytest.raises(ConflictError) as refused:
        await client.create("key-1", "b" * 64, machine_type=kind)
    assert refused.value.code == "idempotency_conflict"


async def test_an_attempt_is_handed_out_only_with_its_fence_and_only_while_it_lives(place, nats):
    _, client, kind = place
    async with machine(nats, "m-fence", kind) as box:
        run = await client.create(machine_type=kind, env={"SECRET_WORD": "xyzzy"})
        await box.beat()
        _, _, fence = await box.taken(run.id)
        async with client.caller.open("GET", f"/attempts/{run.id}/1", params={"fence": fence}) as response:
            handed = await response.json()
        assert handed["spec"]["env"] == {"SECRET_WORD": "xyzzy"}
        assert run.spec.env == {"SECRET_WORD": ""}, "a view never shows values"

        with pytest.raises(GoneError):
            async with client.caller.open("GET", f"/attempts/{run.id}/1", params={"fence": fence + 1}):
                pass


async def test_a_restarted_machine_that_forgot_a_run_fails_it(place, nats):
    _, client, kind = place
    async with machine(nats, "m-boot", kind) as box:
        run = await client.create(machine_type=kind)
        box.boot_id = "boot-2"
        await box.beat()

        assert (await client.until_state(run.id, "failed")).reason == "host_rebooted"


async def test_a_silent_machine_is_given_up_and_its_later_words_are_void(postgres, nats):
    with stack.short_directory() as directory:
        settings = {"SPELL_LOST_AFTER_SECONDS": "1", "SPELL_REACHABLE_SECONDS": "1"}
        async with scheduler(postgres, nats, Path(directory), **settings) as (_, caller):
            client, kind = Client(caller, next(OWNERS)), "Tlost"
            async with machine(nats, "m-lost", kind) as box:
                run = await client.create(machine_type=kind)
                await box.beat()
                lost = await client.until_state(run.id, "failed")
                await box.report(run.id, *whole_life())
                answer = await box.beat()

                assert lost.reason == "machine_lost"
                assert answer.attempts == ()
                assert (await client.get(run.id)).version == lost.version


async def test_manifests_are_in_use_by_runs_that_made_them_and_runs_that_mount_them(postgres, nats):
    """Nobody is told so before every machine could have reported."""
    made, mounted, other, snapshot = "a" * 64, "b" * 64, "c" * 64, "d" * 64
    mount = {"resource": "runs/1", "target": "/mnt/x", "owner_id": 5, "manifest": mounted}
    with stack.short_directory() as directory:
        async with scheduler(postgres, nats, Path(directory), SPELL_LOST_AFTER_SECONDS="3") as (_, caller):
            client, kind = Client(caller, next(OWNERS)), "Tmanifests"
            with pytest.raises(UnavailableError):
                await client.manifests_in_use(made)

            async with machine(nats, "m-manifests", kind, slots=2) as box:
                run = await client.create(machine_type=kind)
                await box.beat()
                started, *rest = whole_life()
                taken = SnapshotSaved(at=now(), number=1, asked=0, manifest=snapshot, files=1, bytes=1)
                saved = OutputsSaved(at=now(), manifest=made, files=1, bytes=1)
                rest = [saved if step.kind == saved.kind else step for step in rest]
                await box.report(run.id, started, taken, *rest)
                await client.until_state(run.id, "complete")
            # There is no machine of that type that could be lost, and the run with it.
            waiting = await client.create(machine_type="Tnowhere", mounts=[mount])

            async def answers() -> set[str] | None:
                with contextlib.suppress(UnavailableError):
                    return await client.manifests_in_use(made, mounted, other, snapshot)
                return None

            assert await until(answers) == {made, mounted, snapshot}
            assert await Client(caller, next(OWNERS)).manifests_in_use(made, mounted) == {mounted}
            await client.end(waiting.id, "kill")
            assert await client.manifests_in_use(made, mounted) == {made}
            assert await client.manifests_let_go(made, mounted, snapshot) == set()
            await client.archive(run.id)
            assert await client.manifests_in_use(made, mounted, snapshot) == set()
            assert await client.manifests_let_go(made, mounted, snapshot) == {made, snapshot}


async def test_runs_are_archived_by_their_owner_once_they_have_ended(place):
    _, client, kind = place
    ended, active = await client.create(machine_type=kind), await client.create(machine_type=kind)
    await client.end(ended.id, "kill")
    stranger = Client(client.caller, next(OWNERS))

    foreign = await stranger.archive(ended.id)
    outcome = await client.archive(ended.id, active.id, ended.id)
    again = await client.archive(ended.id)
    listed = await client.caller.call("GET", "/runs", RUNS, params=client.owner)

    assert foreign.unknown == (ended.id,)
    assert (outcome.archived, outcome.active) == ((ended.id,), (active.id,))
    assert again.already_archived == (ended.id,)
    assert [run.id for run in listed.runs] == [active.id]
    assert (await client.get(ended.id)).archived_at is not None
    assert (await client.get(active.id)).archived_at is None


async def test_runs_of_other_owners_do_not_exist(place):
    _, client, kind = place
    run = await client.create(machine_type=kind)
    stranger = Client(client.caller, 999_999)

    for attempt in (stranger.get(run.id), stranger.end(run.id, "kill"), stranger.states(run.id)):
        with pytest.raises(NotFoundError):
            await attempt


async def test_kill_9_at_any_moment_loses_nothing(place, nats):
    """The scheduler dies twelve times while runs are made and reported; every run ends once, in order."""
    process, client, kind = place

    async def safely(call):
        async def answered():
            try:
                return await call()
            except (UnavailableError, *bus.LOST):
                return None

        return await until(answered)

    async with machine(nats, "m-kill", kind, slots=3) as box:
        finished: set[int] = set()
        made = []
        for number in range(12):
            made.append((await safely(lambda: client.create(f"k{number}", machine_type=kind))).id)  # noqa: B023
            await safely(box.beat)
            for key, steps in list(box.steps.items()):
                if key[0] not in finished and key[0] in made:
                    finished.add(key[0])
                    steps.extend(whole_life())
                    await box.send(key, 1, steps)
            process.kill9()
            await process.start()

        async def all_final() -> bool:
            answer = await safely(box.beat)
            for wanted in answer.attempts:
                key = (wanted.run_id, wanted.attempt, wanted.fence)
                if not box.steps[key]:
                    box.steps[key].extend(whole_life())
                if wanted.steps < len(box.steps[key]):
                    await box.send(key, wanted.steps + 1, box.steps[key][wanted.steps :])
            views = [await safely(lambda: client.get(run_id)) for run_id in made]  # noqa: B023
            return all(view.state in FINAL for view in views)

        await until(all_final, seconds=30)
        assert made == sorted(set(made))
        for run_id in made:
            assert (await client.get(run_id)).state == "complete"
        assert [check for check in (await client.verify()).checks if not check.ok] == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE runs SET state = 'running' WHERE id = $1", {"I2", "I4"}),
        ("UPDATE runs SET version = 9 WHERE id = $1", {"I2", "I3", "I4"}),
        ("UPDATE runs SET saved_files = 3 WHERE id = $1", {"I11"}),
        ("DELETE FROM outbox WHERE run_id = $1", {"I5"}),
        (
            (
                "UPDATE machines SET last_seen = last_seen + interval '2 minutes', "
                "held = jsonb_build_array(jsonb_build_array($1::bigint, 1, 1)) WHERE id LIKE 'm-T%'"
            ),
            {"I9"},
        ),
        ("UPDATE runs SET ended_at = started_at - interval '1 s' WHERE id = $1", {"I21"}),
        (
            (
                "INSERT INTO transitions SELECT run_id, 99, owner_id, pg_current_xact_id(), kind, 'complete', "
                "'running', 'run', 1, 1, 'x', NULL, NULL, at FROM transitions WHERE run_id = $1 LIMIT 1"
            ),
            {"I1", "I3", "I5"},
        ),
    ],
)
async def test_the_checker_finds_damage(place, nats, postgres, damage, found):
    """Each kind of damage is named by its invariants, and by nothing else."""
    _, client, kind = place
    async with machine(nats, f"m-{kind}", kind) as box:
        run = await client.create(machine_type=kind)
        await box.beat()
        await box.report(run.id, *whole_life())
        await client.until_state(run.id, "complete")
    assert [check.id for check in (await client.verify()).checks if not check.ok] == []

    connection = await asyncpg.connect(
        postgres.url("scheduler"), server_settings={"search_path": "scheduler"}
    )
    await connection.execute(damage, run.id)
    await connection.close()

    broken = {check.id for check in (await client.verify()).checks if not check.ok}
    assert broken == found


async def test_a_message_without_a_row_is_found(place, nats):
    _, client, kind = place
    run = await client.create(machine_type=kind)
    async with machine(nats, f"m-{kind}", "Telsewhere") as box:
        forged = b'{"kind":"moved","version":77}'
        await box.bus.store(
            subjects.event(run.id, "moved"), forged, message_id=f"forged-{kind}", stream=subjects.EVENTS
        )
        broken = [check for check in (await client.verify()).checks if not check.ok]

        assert [check.id for check in broken] == ["I7"]
        assert f"message 77 of run {run.id}" in broken[0].detail
        await box.bus._jetstream.purge_stream("EVENTS", subject=f"spell.events.run.{run.id}.>")


async def test_a_run_that_two_machines_hold_is_found(place, nats):
    _, client, kind = place
    async with machine(nats, f"m-{kind}", kind) as box, machine(nats, f"n-{kind}", "Telsewhere") as other:
        run = await client.create(machine_type=kind)
        await box.beat()
        await box.beat()
        other.steps[await box.taken(run.id)] = []
        await other.beat()
        broken = [check.id for check in (await client.verify()).checks if not check.ok]
        other.steps.clear()
        await other.beat()

    assert broken == ["I8"]


async def test_the_transition_log_cannot_be_changed(place, postgres):
    _, client, kind = place
    run = await client.create(machine_type=kind)
    connection = await asyncpg.connect(
        postgres.url("scheduler"), server_settings={"search_path": "scheduler"}
    )
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await connection.execute("DELETE FROM transitions WHERE run_id = $1", run.id)
    await connection.close()


async def test_paging_through_the_log_skips_nothing(place):
    """Twenty runs at once and a reader that pages by three: every row once, none missing."""
    _, client, kind = place
    made = await asyncio.gather(*[client.create(machine_type=kind) for _ in range(20)])
    seen, cursor = [], "0-0-0"
    while True:
        params = client.owner | {"after": cursor, "limit": 3}
        page = await client.caller.call("GET", "/transitions", LOG, params=params)
        if not page.transitions:
            break
        seen.extend(row.run_id for row in page.transitions)
        cursor = page.cursor

    assert sorted(seen) == sorted(run.id for run in made)


async def test_what_nobody_understands_is_put_aside_and_the_next_message_is_handled(place, nats, postgres):
    _, client, kind = place
    async with machine(nats, f"m-{kind}", kind) as box:
        run = await client.create(machine_type=kind)
        await box.beat()
        for number, data in enumerate((b"\xff", b"{}", b'{"kind":"attempt","v":2}', b"[" * 5000)):
            await box.bus.store(
                subjects.report(box.id, run.id), data, message_id=f"{kind}-{number}", stream=subjects.REPORTS
            )
        await box.report(run.id, *whole_life())
        await client.until_state(run.id, "complete")

    connection = await asyncpg.connect(
        postgres.url("scheduler"), server_settings={"search_path": "scheduler"}
    )
    buried = await connection.fetchval(
        "SELECT count(*) FROM dead_letters WHERE subject = $1", subjects.report(box.id, run.id)
    )
    await connection.close()
    assert buried == 4


async def test_a_stack_that_was_down_for_long_does_not_give_its_runs_up(postgres, nats):
    """The machine could not have been heard meanwhile, so its silence means nothing."""
    with stack.short_directory() as directory:
        settings = {"SPELL_LOST_AFTER_SECONDS": "3"}
        async with scheduler(postgres, nats, Path(directory), **settings) as (process, caller):
            client, kind = Client(caller, next(OWNERS)), "Tdown"
            async with machine(nats, "m-down", kind) as box:
                run = await client.create(machine_type=kind)
                await box.beat()
                process.kill9()
                connection = await asyncpg.connect(
                    postgres.url("scheduler"), server_settings={"search_path": "scheduler"}
                )
                await connection.execute(
                    "UPDATE machines SET last_seen = last_seen - interval '1 hour' WHERE id = 'm-down'"
                )
                await connection.close()
                await process.start()

                async def answered():
                    try:
                        return await box.beat()
                    except bus.LOST:
                        return None

                await until(answered)
                await box.report(run.id, *whole_life())
                assert (await client.until_state(run.id, "complete")).reason is None


async def test_no_run_is_left_waiting_beside_a_free_slot(place, nats):
    """A run that is created while the slot before it is just becoming free starts at once, whoever was first."""
    _, client, kind = place
    async with machine(nats, f"m-{kind}", kind) as box:
        slowest = 0.0
        previous = await client.create(machine_type=kind)
        for _ in range(60):
            await box.beat()
            ending = asyncio.ensure_future(box.report(previous.id, *whole_life()))
            began = asyncio.get_running_loop().time()
            following = await client.create(machine_type=kind)
            await ending
            await client.until_state(following.id, "building")
            slowest = max(slowest, asyncio.get_running_loop().time() - began)
            previous = following
        await box.beat()
        await box.report(previous.id, *whole_life())
        await client.until_state(previous.id, "complete")

    assert slowest < 5, "only the ticker noticed"


async def test_words_that_the_database_cannot_hold_end_their_run_and_harm_no_other(place, nats):
    _, client, kind = place
    async with machine(nats, f"m-{kind}", kind, slots=2) as box:
        odd, other = await client.create(machine_type=kind), await client.create(machine_type=kind)
        await box.beat()
        failed = AttemptFailed(at=now(), reason=Reason.BUILD_FAILED, message="a\0b", log=None)
        await box.report(odd.id, failed)
        await box.report(other.id, *whole_life())

        assert (await client.until_state(odd.id, "failed")).message == "a\ufffdb"
        await client.until_state(other.id, "complete")


async def test_labels_that_are_added_at_once_are_all_kept_up_to_the_limit(place):
    _, client, kind = place
    run = await client.create(machine_type=kind)

    async def add(label):
        path = f"/runs/{run.id}/labels/{label}"
        return await client.caller.call("PUT", path, RUN, params=client.owner)

    await asyncio.gather(*[add(f"l{number}") for number in range(50)])
    assert len((await add("l7")).labels) == 50
    with pytest.raises(InvalidError, match="50 labels already"):
        await add("one-more")


@pytest.mark.parametrize(
    "cursor", ["x", "1-2", "1-99999999999999999999-1", "99999999999999999999-1-1", "1--2-3"]
)
async def test_a_cursor_that_is_none_is_refused(place, cursor):
    _, client, _ = place
    with pytest.raises(RefusedError) as refused:
        await client.caller.call("GET", "/transitions", LOG, params=client.owner | {"after": cursor})
    assert (refused.value.status, refused.value.code) == (400, "cursor_invalid")
