"""Saved files over HTTP: listed, fetched in parts, and never anything else."""

import asyncio
import hashlib
from urllib.parse import urlsplit

import orjson
import pytest
from pydantic import TypeAdapter

from integration.gateway.bringing import run_with
from spell_proto.http import Caller
from spell_proto.views import ManifestStored

pytestmark = pytest.mark.integration
STORED = TypeAdapter(ManifestStored)
FILES = {
    "model.bin": b"0123456789",
    "ckpt/1/w": b"one",
    "ckpt/2/w": b"two!",
    'od"d\r\nname; x=é.txt': b"odd",
}


@pytest.fixture
async def saved(stage, client):
    """A run that saved FILES, and a link."""
    return await run_with(stage, client, FILES | {"latest": "ckpt/1/w"}, "saver")


async def test_files_are_listed_like_a_tree(client, saved):
    _, top = await client.ask("GET", "/api/resources")
    _, runs = await client.ask("GET", "/api/resources/runs")
    _, run = await client.ask("GET", f"/api/resources/runs/{saved}")
    _, below = await client.ask("GET", f"/api/resources/runs/{saved}/ckpt/", params={"recursive": 1})
    missing = await client.ask("GET", f"/api/resources/runs/{saved}/nothing")

    assert [entry["path"] for entry in top["entries"]][:3] == ["public", "runs", "uploads"]
    assert str(saved) in [entry["path"] for entry in runs["entries"]]
    assert [(entry["path"], entry["size"]) for entry in run["entries"]][:1] == [("ckpt", None)]
    assert {entry["path"]: entry["link"] for entry in run["entries"]}["latest"] == "ckpt/1/w"
    assert [(entry["path"], entry["size"]) for entry in below["entries"]] == [("1/w", 3), ("2/w", 4)]
    assert (missing[0], missing[1]["code"]) == (404, "resource_not_found")


async def test_a_file_is_fetched_whole_in_parts_and_only_once(client, saved):
    path = f"/api/files/runs/{saved}/model.bin"
    async with client.session.get(path) as response:
        whole, headers = await response.read(), response.headers
    part = await client.ask("GET", path, headers={"Range": "bytes=-3"})
    changed = await client.ask("GET", path, headers={"Range": "bytes=-3", "If-Range": '"other"'})
    same = await client.ask("GET", path, headers={"If-None-Match": headers["ETag"]})
    async with client.session.head(path) as response:
        head = response.status, response.headers["Content-Length"]
    async with client.session.get(path, headers={"Range": "bytes=50-"}) as response:
        beyond = response.status, response.headers["Content-Range"]

    assert whole == FILES["model.bin"]
    assert headers["ETag"] == f'"{hashlib.sha256(whole).hexdigest()}"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert part == (206, b"789")
    assert changed == (200, whole)
    assert same == (304, b"")
    assert head == (200, "10")
    assert beyond == (416, "bytes */10")


async def test_an_archived_run_is_in_no_list_and_has_no_files(client, saved):
    outcome = await client.ask("POST", "/api/runs/archive", json={"run_ids": [saved, 2**52]})
    _, listed = await client.ask("GET", "/api/runs?limit=1000")
    _, directories = await client.ask("GET", "/api/resources/runs")
    files = await client.ask("GET", f"/api/resources/runs/{saved}")
    file = await client.ask("GET", f"/api/files/runs/{saved}/model.bin")
    _, shown = await client.ask("GET", f"/api/runs/{saved}")
    _, verdict = await client.ask("GET", f"/api/verify?run_id={saved}")
    again = await client.ask("POST", "/api/runs/archive", json={"run_ids": [saved]})

    assert outcome == (
        200,
        {"archived": [saved], "already_archived": [], "active": [], "unknown": [2**52]},
    )
    assert saved not in [run["id"] for run in listed["runs"]]
    assert str(saved) not in [entry["path"] for entry in directories["entries"]]
    assert (files[0], files[1]["code"]) == (404, "resource_not_found")
    assert (file[0], file[1]["code"]) == (404, "resource_not_found")
    assert (shown["state"], shown["archived_at"] is not None) == ("complete", True)
    assert [check for check in verdict["checks"] if not check["ok"]] == []
    assert again[1]["already_archived"] == [saved]


async def test_a_damaged_file_is_named_by_a_check_and_not_given_out(stage, client, saved):
    digest = hashlib.sha256(FILES["ckpt/2/w"]).hexdigest()
    [path] = (stage.directory / "storage" / "blobs").rglob(f"{digest}.*")
    path.write_bytes(b"rot!")

    async with stage.client("bob") as bob:
        refused = await bob.ask("POST", "/api/storage/check")
    async with client.session.post("/api/storage/check") as response:
        lines = [orjson.loads(line) for line in (await response.read()).splitlines()]
    file = await client.ask("GET", f"/api/files/runs/{saved}/ckpt/2/w")
    async with Caller(stage.sockets["storage"]) as storage:
        owner = {"owner_id": found_in(lines, saved, "ckpt/2/w")["owner_id"]}
        async with storage.open("PUT", f"/blobs/{digest}", params=owner, data=FILES["ckpt/2/w"]):
            pass
    healed = await client.ask("GET", f"/api/files/runs/{saved}/ckpt/2/w")

    assert (refused[0], refused[1]["code"]) == (403, "admin_only")
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert found_in(lines, saved, "ckpt/2/w")["sha256"] == digest
    assert found_in(lines, saved, "ckpt/1/w") is None
    assert (file[0], file[1]["code"]) == (410, "blob_damaged")
    assert healed == (200, FILES["ckpt/2/w"])


def found_in(lines, run_id, path):
    named = {file["name"]: file for line in lines for file in line["found"]}
    return named.get(f"runs/{run_id}/{path}")


async def test_a_link_gives_what_it_leads_to_and_a_directory_gives_advice(client, saved):
    linked = await client.ask("GET", f"/api/files/runs/{saved}/latest")
    directory = await client.ask("GET", f"/api/files/runs/{saved}/ckpt")

    assert linked == (200, b"one")
    assert (directory[0], directory[1]["code"]) == (409, "resource_is_directory")


async def test_an_odd_name_stays_inside_its_header(client, saved):
    async with client.session.get(f"/api/files/runs/{saved}/od%22d%0D%0Aname%3B%20x=%C3%A9.txt") as response:
        assert await response.read() == b"odd"

        assert response.headers["Content-Disposition"].startswith(
            'attachment; filename="od_d__name_ x__.txt"'
        )


@pytest.mark.parametrize(
    "path",
    [
        "/api/files/runs/{id}/../{id}/model.bin",
        "/api/files/runs/{id}/%2e%2e/x",
        "/api/files/runs/{id}/a%00b",
        "/api/files/runs//{id}",
        "/api/files/runs/{id}/" + "x" * 4097,
        "/api/resources/runs/{id}/%2e%2e/%2e%2e/etc",
        "/api/resources/..",
    ],
)
async def test_a_path_that_leads_elsewhere_is_refused(stage, saved, path):
    """Sent by hand: clients tidy such paths up before they ask."""
    address = urlsplit(stage.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    request = f"GET {path.format(id=saved)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    writer.write(f"{request}Authorization: Bearer {stage.tokens['ada']}\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()

    assert answer.startswith("HTTP/1.1 422"), answer
    assert '"code":"path_invalid"' in answer


async def test_what_a_run_deleted_of_its_code_is_listed_with_its_files(stage, client):
    run_id = await run_with(stage, client, {"d/new": b"x"}, "deleting", deleted=["a.py", "d/b.py"])

    _, whole = await client.ask("GET", f"/api/resources/runs/{run_id}")
    _, below = await client.ask("GET", f"/api/resources/runs/{run_id}/d")

    assert whole["deleted"] == ["a.py", "d/b.py"]
    assert below["deleted"] == []


async def test_a_backslash_is_a_letter_of_a_name_like_any_other(client, saved):
    """A run may save a name with one in it, so it can be asked for; nothing takes it for a separator."""
    status, answer = await client.ask("GET", f"/api/files/runs/{saved}/..%5C..%5Cetc%5Cpasswd")
    assert (status, answer["code"]) == (404, "resource_not_found")


async def test_files_of_a_run_that_has_none_are_refused_with_the_reason(stage, client):
    async with stage.machine("nothing") as machine:
        running = await client.create("nothing")
        attempt = await machine.take(running["id"])
        await attempt.begin()
        await client.until_state(running["id"], "running")
        waiting = await client.ask("GET", f"/api/resources/runs/{running['id']}")
        await client.ask("POST", f"/api/runs/{running['id']}/kill")
        totals = attempt.seal()
        await attempt.store()
        await attempt.killed(totals)
        await client.until_final(running["id"])
        killed = await client.ask("GET", f"/api/files/runs/{running['id']}/x")

        empty = await client.create("nothing")
        attempt = await machine.take(empty["id"])
        await attempt.begin()
        totals = attempt.seal()
        await attempt.store()
        await attempt.finish(totals)
        await client.until_final(empty["id"])
        nothing = await client.ask("GET", f"/api/resources/runs/{empty['id']}")

    assert waiting[0] == 409
    assert waiting[1]["message"] == f"run {running['id']} is running"
    assert killed[0] == 404
    assert killed[1]["message"] == f"run {running['id']} was killed; no outputs"
    assert nothing == (200, {"path": f"runs/{empty['id']}", "entries": [], "target": None, "deleted": []})


async def test_a_repository_is_registered_and_takes_its_new_name(client):
    commit = "c" * 40

    first = await client.ask("PUT", "/api/repositories", json={"root_commit": commit, "name": "digits"})
    again = await client.ask("PUT", "/api/repositories", json={"root_commit": commit, "name": "numbers"})
    bad = await client.ask("PUT", "/api/repositories", json={"root_commit": "HEAD", "name": "x"})
    _, listed = await client.ask("GET", "/api/repositories")

    assert (first[0], again[0]) == (200, 200)
    assert first[1]["id"] == again[1]["id"]
    assert again[1]["remote_url"].startswith("ssh://git@")
    assert (bad[0], bad[1]["field"]) == (422, "root_commit")
    assert [item["name"] for item in listed["repositories"] if item["root_commit"] == commit] == ["numbers"]
