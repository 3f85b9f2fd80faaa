"""Uploads, what is published, and links over HTTP: found by everybody who may, and by nobody else."""

import itertools

import pytest

from integration.gateway.bringing import PLATFORM, bring, run_with
from spell_proto import http

pytestmark = pytest.mark.integration
_numbers = itertools.count(1)


@pytest.fixture
async def ada(client):
    _, me = await client.ask("GET", "/api/me")
    return me["user"]["id"]


@pytest.fixture
def name():
    return f"data{next(_numbers)}"


def paths(listing):
    return [entry["path"] for entry in listing["entries"]]


async def test_an_upload_is_listed_and_fetched_by_its_owner_alone(stage, client, ada, name):
    await bring(stage, ada, name, {"a/b": b"12", "c": b"345"})

    _, uploads = await client.ask("GET", "/api/resources/uploads")
    _, top = await client.ask("GET", f"/api/resources/uploads/{name}")
    content = await client.ask("GET", f"/api/files/uploads/{name}/a/b")
    async with stage.client("bob") as bob:
        foreign = await bob.ask("GET", f"/api/files/uploads/{name}/a/b")
        missing = await bob.ask("GET", "/api/files/uploads/nothing/a/b")
        _, none = await bob.ask("GET", "/api/resources/uploads")

    assert name in paths(uploads)
    assert [(entry["path"], entry["size"]) for entry in top["entries"]] == [("a", None), ("c", 3)]
    assert content == (200, b"12")
    assert (foreign[0], foreign[1]["code"]) == (missing[0], missing[1]["code"]) == (404, "resource_not_found")
    assert foreign[1]["message"].replace(name, "nothing") == missing[1]["message"]
    assert paths(none) == []


async def test_what_is_published_is_everybodys(stage, client, name):
    await bring(stage, PLATFORM, f"kind/{name}", {"train/1": b"one"})

    async with stage.client("bob") as bob:
        _, top = await bob.ask("GET", "/api/resources/public")
        _, kind = await bob.ask("GET", "/api/resources/public/kind")
        _, files = await bob.ask("GET", f"/api/resources/public/kind/{name}", params={"recursive": 1})
        content = await bob.ask("GET", f"/api/files/public/kind/{name}/train/1")
        missing = await bob.ask("GET", "/api/resources/public/other")
        above = await bob.ask("GET", "/api/files/public/kind")

    assert "kind" in paths(top)
    assert name in paths(kind)
    assert paths(files) == ["train/1"]
    assert content == (200, b"one")
    assert (missing[0], missing[1]["code"]) == (404, "resource_not_found")
    assert above[0] == 404


async def test_a_link_is_good_wherever_a_path_is(stage, client, ada, name):
    await bring(stage, ada, name, {"deep/a": b"12"})
    run_id = await run_with(stage, client, {"model": b"m"}, f"linked{name}")
    alias, other = f"l-{name}", f"m-{name}"

    made = await client.ask("PUT", f"/api/links/{alias}", json={"target": f"uploads/{name}/deep"})
    to_link = await client.ask("PUT", f"/api/links/{other}", json={"target": f"{alias}/a"})
    run_link = await client.ask("PUT", f"/api/links/r-{name}", json={"target": f"runs/{run_id}"})
    _, listed = await client.ask("GET", f"/api/resources/{alias}")
    content = await client.ask("GET", f"/api/files/{alias}/a")
    same = await client.ask("GET", f"/api/files/{other}")
    of_run = await client.ask("GET", f"/api/files/r-{name}/model")
    _, top = await client.ask("GET", "/api/resources")
    async with stage.client("bob") as bob:
        foreign = await bob.ask("GET", f"/api/files/{alias}/a")

    assert (made[0], made[1]["target"]) == (200, f"uploads/{name}/deep")
    assert to_link[1]["target"] == f"uploads/{name}/deep/a", "a link to a link leads where that leads"
    assert run_link[0] == 200
    assert (listed["path"], listed["target"], paths(listed)) == (alias, f"uploads/{name}/deep", ["a"])
    assert [content, same, of_run] == [(200, b"12"), (200, b"12"), (200, b"m")]
    assert {entry["path"]: entry["link"] for entry in top["entries"]}[alias] == f"uploads/{name}/deep"
    assert foreign[0] == 404


async def test_a_link_needs_something_to_lead_to(stage, client, ada, name):
    await bring(stage, ada, name, {"a": b"1"})

    answers = [
        await client.ask("PUT", "/api/links/x", json={"target": target})
        for target in (
            f"uploads/{name}/b",
            "uploads/nothing",
            "runs/999999",
            "y",
            "uploads",
            "",
            "runs/1/../x",
        )
    ]

    assert [status for status, _ in answers] == [404, 404, 404, 404, 422, 422, 422], answers
    bad = await client.ask("PUT", "/api/links/runs", json={"target": f"uploads/{name}"})
    assert (bad[0], bad[1]["code"]) == (422, "alias_forbidden")
    assert (await client.ask("DELETE", "/api/links/x"))[0] == 404
    assert (await client.ask("GET", "/api/links/a.b"))[0] == 404


async def test_a_link_whose_resource_is_gone_leads_nowhere(stage, client, ada, name):
    await bring(stage, ada, name, {"a": b"1"})
    await client.ask("PUT", f"/api/links/g-{name}", json={"target": f"uploads/{name}"})
    async with http.Caller(stage.sockets["storage"]) as storage:
        params = {"owner_id": str(ada), "path": name}
        async with storage.open("DELETE", "/uploads/named", params=params):
            pass

    status, answer = await client.ask("GET", f"/api/resources/g-{name}")

    assert (status, answer["code"]) == (404, "resource_not_found")
    assert (await client.ask("DELETE", f"/api/links/g-{name}"))[0] == 204
