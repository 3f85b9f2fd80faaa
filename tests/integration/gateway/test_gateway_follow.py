"""Following a run through real services: whole, in order, whenever one comes and however the bus behaves."""

import asyncio
import random
import time

import orjson
import pytest

from spell_proto.journal import RecordKind, whole_records

pytestmark = pytest.mark.integration
R = RecordKind


def lines(attempt, count, size=20):
    for index in range(count):
        attempt.write(R.STDOUT, f"line {index:06d} ".encode().ljust(size, b".") + b"\n")


async def test_a_short_run_is_followed_from_creation_to_done(stage, client):
    async with stage.machine("short") as machine:
        run = await client.create("short")
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            attempt = await machine.take(run["id"])
            attempt.write(R.PHASE, b'{"phase":"running","text":"Run is running"}')
            attempt.write(R.STDOUT, b"hello\n")
            await attempt.begin()
            await attempt.live()
            await stream.until(R.STDOUT)
            sealed_from = len(attempt.journal)
            totals = attempt.seal()
            await attempt.live(sealed_from)
            await attempt.store()
            await attempt.finish(totals)
            await stream.rest()

    assert stream.kinds == [R.STATE, R.CAUGHT_UP, R.PHASE, R.STDOUT, R.END, R.STATE, R.DONE]
    assert stream.journal == attempt.journal
    first, last = stream.of(R.STATE)
    assert first.json()["text"] == "Run created -- waiting for a short machine."
    assert last.json()["text"] == f"Run {run['id']} complete"
    assert last.json()["after"] == "complete"
    assert stream.records[-1].json()["state"] == "complete"


async def test_first_output_is_delivered_before_it_is_stored(stage, client):
    async with stage.machine("unstored") as machine:
        run = await client.create("unstored")
        attempt = await machine.take(run["id"])
        attempt.write(R.STDOUT, b"said before anybody listened\n")
        await attempt.live()
        async with client.follow(run["id"]) as stream:
            await stream.until(R.STDOUT)

            assert stream.journal == attempt.journal


async def test_who_resumes_anywhere_gets_the_rest_and_nothing_twice(stage, client):
    async with stage.machine("resume") as machine:
        run = await client.create("resume")
        attempt = await machine.take(run["id"])
        lines(attempt, 50)
        totals = attempt.seal()
        await attempt.store()
        await attempt.begin()
        await attempt.finish(totals)
        async with client.follow(run["id"]) as whole:
            await whole.rest()
        versions = [record.json()["version"] for record in whole.of(R.STATE)]
        for offset in (0, whole_records(attempt.journal[:700]), len(attempt.journal)):
            for version in (0, versions[0], versions[-1]):
                async with client.follow(run["id"], offset=offset, version=version) as stream:
                    await stream.rest()

                assert stream.journal == attempt.journal[offset:]
                told = [record.json()["version"] for record in stream.of(R.STATE)]
                assert told == [known for known in versions if known > version]
                assert stream.kinds[-1] == R.DONE


async def test_lost_repeated_and_overlapping_live_pieces_do_not_show(stage, client):
    dice = random.Random(7)
    async with stage.machine("pieces") as machine:
        run = await client.create("pieces")
        attempt = await machine.take(run["id"])
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            sent = 0
            for _ in range(30):
                lines(attempt, dice.randrange(1, 20))
                whole = len(attempt.journal)
                start = max(0, sent - dice.choice((0, 0, 50, 400)))
                match dice.randrange(4):
                    case 0:
                        pass  # lost
                    case 1:
                        await attempt.live(start)
                        await attempt.live(start)
                    case _:
                        await attempt.live(start)
                if dice.random() < 0.4:
                    await attempt.store(0)
                sent = whole
            totals = attempt.seal()
            await attempt.store(0)
            await attempt.begin()
            await attempt.finish(totals)
            await stream.rest()

    assert stream.journal == attempt.journal
    assert stream.kinds[-2:] == [R.STATE, R.DONE]


async def test_a_record_cut_between_two_messages_is_sent_whole(stage, client):
    async with stage.machine("cut") as machine:
        run = await client.create("cut")
        attempt = await machine.take(run["id"])
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            attempt.write(R.STDOUT, b"x" * 10_000)
            await attempt.live(0, 5_000)
            await attempt.live(5_000)
            await stream.until(R.STDOUT)

            assert stream.journal == attempt.journal


async def test_an_intent_is_told_at_once_and_the_end_after_the_log(stage, client):
    async with stage.machine("intent") as machine:
        run = await client.create("intent")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        await client.until_state(run["id"], "running")
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            status, _ = await client.ask("POST", f"/api/runs/{run['id']}/kill")
            assert status == 200
            while len(stream.of(R.STATE)) < 2:
                await stream.read()
            attempt.write(R.STDOUT, b"last words\n")
            totals = attempt.seal()
            await attempt.killed(totals)
            # The run is final, but its log is not in storage yet: nothing is said to be over.
            await asyncio.sleep(0.2)
            await attempt.store()
            await stream.rest()

    states = [record.json() for record in stream.of(R.STATE)]
    assert [(state["kind"], state["after"]) for state in states[1:]] == [
        ("intent", "running"),
        ("moved", "killed"),
    ]
    assert stream.kinds[-4:] == [R.STDOUT, R.END, R.STATE, R.DONE]


async def test_who_comes_later_is_told_of_an_intent_where_it_was_in_the_log(stage, client):
    async with stage.machine("replayed") as machine:
        run = await client.create("replayed")
        attempt = await machine.take(run["id"])
        attempt.write(R.STDOUT, b"before\n")
        await attempt.begin()
        await client.until_state(run["id"], "running")
        await client.ask("POST", f"/api/runs/{run['id']}/stop")
        await client.ask("POST", f"/api/runs/{run['id']}/kill")
        attempt.set_clock(time.time_ns() // 1000 + 1_000_000)
        attempt.write(R.STDOUT, b"after\n")
        totals = attempt.seal()
        await attempt.store()
        await attempt.killed(totals)
        await client.until_state(run["id"], "killed")
        async with client.follow(run["id"]) as stream:
            await stream.rest()
        async with client.follow(run["id"], offset=whole_records(attempt.journal[:30])) as rest:
            await rest.rest()

    order = [R.STDOUT, R.STATE, R.STATE, R.STDOUT, R.END, R.CAUGHT_UP, R.STATE, R.DONE]
    assert stream.kinds == [R.STATE, *order]
    assert [state.json()["intent"] for state in stream.of(R.STATE)[1:3]] == ["stop", "kill"]
    assert rest.kinds == [R.STATE, *order[1:]]


async def test_a_run_killed_while_it_waits_is_done_without_a_log(stage, client):
    run = await client.create("CPU")
    async with client.follow(run["id"]) as stream:
        await stream.until(R.CAUGHT_UP)
        await client.ask("POST", f"/api/runs/{run['id']}/kill")
        await stream.rest()

    assert stream.journal == b""
    assert stream.kinds[-1] == R.DONE
    assert stream.of(R.STATE)[-1].json()["after"] == "killed"


async def test_a_log_that_nobody_sealed_ends_where_storage_ends(stage, client):
    async with stage.machine("vanished") as machine:
        run = await client.create("vanished")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        lines(attempt, 5)
        await attempt.store()
        await attempt.fail()
        async with client.follow(run["id"]) as stream:
            await stream.rest()

    assert stream.journal == attempt.journal
    assert stream.of(R.STATE)[-1].json()["after"] == "failed"


async def test_without_following_a_running_run_ends_after_its_history(stage, client):
    async with stage.machine("once") as machine:
        run = await client.create("once")
        attempt = await machine.take(run["id"])
        lines(attempt, 5)
        await attempt.store()
        await attempt.live()
        async with client.follow(run["id"], follow=0) as stream:
            await stream.rest()

    assert stream.journal == attempt.journal
    assert stream.kinds[-1] == R.CAUGHT_UP


async def test_a_tail_begins_at_the_last_lines_and_says_where(stage, client):
    async with stage.machine("tail") as machine:
        run = await client.create("tail")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        lines(attempt, 100)
        totals = attempt.seal()
        await attempt.store()
        await attempt.finish(totals)
        async with client.follow(run["id"], tail=3) as stream:
            await stream.rest()

    text = b"".join(record.payload for record in stream.of(R.STDOUT))
    assert text.endswith(b"line 000099 ........\n")
    assert 3 <= text.count(b"\n") < 100
    assert stream.journal == attempt.journal[stream.start :]


async def test_lines_of_json_say_the_same(stage, client):
    async with stage.machine("ndjson") as machine:
        run = await client.create("ndjson")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        attempt.write(R.NOTE, b'{"level":"info","text":"kind words","important":false}')
        attempt.write(R.STDOUT, "é".encode()[:1])
        attempt.write(R.STDOUT, "é".encode()[1:] + b"\xff\n")
        totals = attempt.seal()
        await attempt.store()
        await attempt.finish(totals)
        await client.until_final(run["id"])
        accept = {"Accept": "application/x-ndjson"}
        async with client.session.get(f"/api/runs/{run['id']}/follow", headers=accept) as response:
            told = [orjson.loads(line) for line in (await response.read()).splitlines()]

    assert [line["kind"] for line in told] == [
        "state", "note", "stdout", "stdout", "end", "caught_up", "state", "done",
    ]  # fmt: skip
    assert "".join(line["text"] for line in told if line["kind"] == "stdout") == "é�\n"
    assert told[4]["next_offset"] == len(attempt.journal)
    assert told[4]["totals"]["stdout_bytes"] == 4
    assert told[-1]["run"]["id"] == run["id"]


async def test_many_megabytes_pass_unchanged_to_a_slow_reader(stage, client):
    async with stage.machine("large") as machine:
        run = await client.create("large")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        async with client.follow(run["id"]) as stream:
            await stream.until(R.CAUGHT_UP)
            sent = 0
            for index in range(24):
                attempt.write(R.STDOUT, bytes([index]) * 500_000)
                await attempt.live(sent)
                await attempt.store(sent)
                sent = len(attempt.journal)
            totals = attempt.seal()
            await attempt.store(sent)
            await attempt.finish(totals)
            await stream.rest()

    assert stream.journal == attempt.journal


async def test_another_owners_run_is_not_found(stage, client):
    run = await client.create("CPU")
    async with stage.client("bob") as bob:
        status, answer = await bob.ask("GET", f"/api/runs/{run['id']}/follow")

    assert (status, answer["code"]) == (404, "run_not_found")


async def test_events_of_all_runs_come_as_they_are_committed(stage, client):
    async with client.session.get("/api/events", params={"follow": 1}) as response:
        run = await client.create("CPU")
        await client.ask("POST", f"/api/runs/{run['id']}/kill")
        told = []
        async with asyncio.timeout(10):
            while not [
                line for line in told if line.get("run_id") == run["id"] and line["after"] == "killed"
            ]:
                told.append(orjson.loads(await response.content.readline()))
    mine = [line for line in told if line.get("run_id") == run["id"]]
    async with client.session.get("/api/events", params={"after": mine[-1]["cursor"]}) as response:
        later = (await response.read()).splitlines()

    assert [line["after"] for line in mine] == ["requested", "killed"] or mine[-1]["version"] == len(mine)
    assert later == [b"{}"]


async def test_every_cursor_of_an_event_leads_on_behind_it_without_gap_or_repeat(client):
    for _ in range(3):
        run = await client.create("CPU")
        await client.ask("POST", f"/api/runs/{run['id']}/kill")

    async def events(after=""):
        async with client.session.get("/api/events", params={"after": after}) as response:
            assert response.status == 200
            return [line for line in (await response.read()).splitlines() if line != b"{}"]

    everything = await events()
    cursors = [orjson.loads(line)["cursor"] for line in everything]

    assert len(set(cursors)) == len(everything) >= 6
    for place, cursor in list(enumerate(cursors, 1))[-30:]:
        assert await events(cursor) == everything[place:]
