"""How the services are, and whether what they keep fits together, as a user is told."""

import hashlib

import pytest

from integration.gateway.bringing import STORED, manifest_of

pytestmark = pytest.mark.integration


async def test_status_tells_of_the_caller_and_of_services_that_do_not_answer(stage, client):
    stage.builder.kill9()
    try:
        status, told = await client.ask("GET", "/api/status")
    finally:
        stage.builder.start()
        await stage.until_up(stage.builder)

    assert status == 200
    assert told["user"] == "ada"
    assert told["runs_max"] == 100
    assert {item["service"]: item["ok"] for item in told["services"]} == {
        "gateway": True, "scheduler": True, "storage": True, "builder": False,
    }  # fmt: skip


async def test_verify_joins_the_verdicts_of_all_services(stage, client):
    async with stage.machine("verified") as machine:
        run = await client.create("verified")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        attempt.write(1, b"counted\n")
        totals = attempt.seal()
        await attempt.store()
        await attempt.finish(totals)
        await client.until_final(run["id"])

    status, verdict = await client.ask("GET", "/api/verify", params={"run_id": run["id"]})
    everything = await client.ask("GET", "/api/verify")

    assert status == 200
    assert all(check["ok"] for check in verdict["checks"]), verdict
    assert {"I13", "I17"} <= {check["id"] for check in verdict["checks"]}
    assert len(verdict["checks"]) > 3
    assert everything[0] == 200
    assert len({check["id"] for check in everything[1]["checks"]}) == len(everything[1]["checks"])


@pytest.mark.violates("I11")
async def test_snapshots_are_checked_with_their_run_and_a_lost_one_is_named(stage, client):
    async with stage.machine("snapped") as machine:
        run = await client.create("snapped", save_every_seconds=600)
        attempt = await machine.take(run["id"])
        await attempt.begin()
        manifest = await manifest_of(machine.storage, run["owner_id"], {"a": b"a", "b": b"b"})
        asked = {"owner_id": run["owner_id"]}
        stored = await machine.storage.call("PUT", "/manifests", STORED, params=asked, body=manifest)
        for number in range(1, 24):
            lost = hashlib.sha256(b"nothing").hexdigest() if number == 22 else None
            await attempt.snapshot(number, lost or stored.digest)
        totals = attempt.seal()
        await attempt.store()
        await attempt.finish(totals)
        await client.until_final(run["id"])

    _, verdict = await client.ask("GET", "/api/verify", params={"run_id": run["id"]})

    (bad,) = [check for check in verdict["checks"] if not check["ok"]]
    assert (bad["id"], bad["detail"].partition(": ")[0]) == ("I11", f"runs/{run['id']}@22")
    assert "the manifest cannot be read" in bad["detail"]
    # Two files in each of the others, and what the scheduler knows of the run.
    assert bad["checked"] == 2 * 22 + 1


@pytest.mark.violates("I13")
async def test_a_log_that_is_not_what_the_run_says_is_found(stage, client):
    async with stage.machine("forged") as machine:
        run = await client.create("forged")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        attempt.write(1, b"said\n")
        totals = attempt.seal()
        await attempt.store()
        digest = hashlib.sha256(b"something else").hexdigest()
        await attempt.finish(totals.model_copy(update={"sha256": digest}))
        await client.until_final(run["id"])

    _, verdict = await client.ask("GET", "/api/verify", params={"run_id": run["id"]})

    (bad,) = [check for check in verdict["checks"] if not check["ok"]]
    assert bad["id"] == "I13"
    assert bad["detail"].startswith(f"run {run['id']}: ")
