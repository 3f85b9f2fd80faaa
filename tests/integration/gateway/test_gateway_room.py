"""Whoever has saved as much as he may begins no run, until he has made room."""

import pytest

from integration.gateway.bringing import bring
from integration.gateway.stage import until

pytestmark = pytest.mark.integration
RUN = {"command": "true"}
KEY = {"Idempotency-Key": "made before"}


@pytest.fixture
async def full(stage, client):
    """Ada has more files than she may, and a run of before."""
    _, before = await client.ask("POST", "/api/runs", json=RUN, headers=KEY)
    await client.ask("POST", f"/api/runs/{before['id']}/kill")
    _, me = await client.ask("GET", "/api/me")
    await bring(stage, me["user"]["id"], "room", {"a": b"a", "b": b"b"})
    await stage.storage.stop()
    stage.storage.start(SPELL_OWNER_FILES_MAX="1")
    await stage.until_up(stage.storage)
    yield before["id"]
    await stage.storage.stop()
    stage.storage.start()
    await stage.until_up(stage.storage)


async def test_a_run_is_refused_before_it_is_made_where_its_owner_has_no_room(stage, client, full):
    async def refused():
        status, answer = await client.ask("POST", "/api/runs/plan", json=RUN)
        return answer if status == 413 else None

    plan = await until(refused)
    new = await client.ask("POST", "/api/runs", json=RUN)
    again = await client.ask("POST", f"/api/runs/{full}/rerun")
    repeated = await client.ask("POST", "/api/runs", json=RUN, headers=KEY)
    async with stage.client("bob") as bob:
        other = await bob.ask("POST", "/api/runs", json=RUN)
        await bob.ask("POST", f"/api/runs/{other[1]['id']}/kill")

    assert plan["code"] == "quota_exceeded"
    assert plan["message"].endswith("files, 1 are allowed; 'spell archive' and 'spell rm' make room")
    assert [(status, answer["code"]) for status, answer in (new, again)] == [(413, "quota_exceeded")] * 2
    assert (repeated[0], repeated[1]["id"]) == (200, full)
    assert other[0] == 201
