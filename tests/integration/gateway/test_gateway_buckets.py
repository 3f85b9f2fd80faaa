"""Buckets over HTTP: listed and read by everybody, credentials stored by administrators, and what is refused."""

import aiohttp
import orjson
import pytest

from integration.gateway.test_gateway_bad_input import JSON, sensible
from spell_proto import database
from support import buckets

pytestmark = pytest.mark.integration
SECRET = "hunter2-hunter2"
KEY = {"access_key_id": "AKIAREADER", "secret_access_key": SECRET}


async def test_a_bucket_that_does_not_answer_keeps_no_run_from_being_made(client):
    """What is wrong with it shows when it is mounted. This comes first: nothing answers for buckets yet."""
    run = await client.create(mounts=[{"resource": "s3://away", "target": "/mnt/m"}])

    assert run["spec"]["mounts"][0]["bucket"] == "s3://away"
    await client.ask("POST", f"/api/runs/{run['id']}/kill")


@pytest.fixture(scope="module")
def clouds(stage, tmp_path_factory):
    with buckets.clouds(tmp_path_factory.mktemp("clouds"), stage.clouds_port) as made:
        made.bucket(
            "rain", {"annual/2024.csv": b"0123456789", "annual/2025.csv": b"sun", "readme": b"read me"}
        )
        yield made


async def get(stage, path, user="ada", **headers):
    bearer = {"Authorization": f"Bearer {stage.tokens[user]}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(stage.url + path, headers=bearer | headers) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def listed(stage, query, user="ada"):
    status, headers, body = await get(stage, f"/api/buckets/list?{query}", user)
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson"), body
    *entries, end = [orjson.loads(line) for line in body.splitlines() if line]
    assert end == {"end": len(entries)}
    return [(entry["key"], entry["size"]) for entry in entries]


async def test_everybody_lists_and_reads_public_buckets(stage, clouds):
    assert await listed(stage, "url=s3://rain", "bob") == [("annual", None), ("readme", 7)]
    assert await listed(stage, "url=gs://rain/annual&recursive=1", "bob") == [
        ("annual/2024.csv", 10),
        ("annual/2025.csv", 3),
    ]

    status, headers, body = await get(stage, "/api/buckets/object?url=s3://rain/annual/2024.csv", "bob")

    assert (status, body, headers["Content-Length"]) == (200, b"0123456789", "10")
    assert headers["Content-Disposition"].startswith('attachment; filename="2024.csv"')
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    etag = headers["ETag"]
    path = f"/api/buckets/object?url=s3://rain/annual/2024.csv&etag={etag}"
    status, headers, body = await get(stage, path, Range="bytes=4-")
    assert (status, body, headers["Content-Range"]) == (206, b"456789", "bytes 4-9/10")
    assert (await get(stage, path, Range="bytes=10-"))[0] == 416
    clouds.put("rain", "annual/2024.csv", b"another...")
    status, _, body = await get(stage, path)
    assert (status, orjson.loads(body)["code"]) == (409, "object_changed")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/buckets/list", 422, "bucket_invalid"),
        ("/api/buckets/list?url=runs/1", 422, "bucket_invalid"),
        ("/api/buckets/list?url=s3://", 422, "bucket_invalid"),
        ("/api/buckets/list?url=s3://UPPER_/", 422, "bucket_invalid"),
        ("/api/buckets/list?url=http://169.254.169.254/x", 422, "bucket_invalid"),
        ("/api/buckets/list?url=s3://rain&recursive=x", 422, "flag_invalid"),
        ("/api/buckets/list?url=s3://nowhere", 404, "bucket_not_found"),
        ("/api/buckets/list?url=s3://rain/x", 404, "resource_not_found"),
        ("/api/buckets/object?url=s3://rain/x", 404, "resource_not_found"),
        ("/api/buckets/object?url=s3://rain/a%2F..%2Fb", 422, "bucket_invalid"),
        ("/api/buckets/object?url=s3://rain/readme&etag=x%0A", 422, "etag_invalid"),
    ],
)
async def test_what_cannot_be_listed_or_read_is_said_in_a_sentence(stage, clouds, client, path, status, code):
    found, answer = await client.ask("GET", path)

    assert found == status, answer
    assert answer["code"] == code, answer
    sensible(answer)


async def test_credentials_are_for_administrators_and_never_shown(stage, clouds, client):
    """Stored, listed without the secret, recorded, deleted; nobody else may even look."""
    clouds.bucket("audited-data", {"a": b"private"}, public=False)
    async with stage.client("bob") as bob:
        for method, path, given in (
            ("GET", "/api/buckets", {}),
            ("PUT", "/api/buckets/s3/audited-data", {"json": KEY}),
            ("DELETE", "/api/buckets/s3/audited-data", {}),
        ):
            status, answer = await bob.ask(method, path, **given)
            assert (status, answer["code"]) == (403, "admin_only")
    closed = "/api/buckets/object?url=s3://audited-data/a"
    assert (await get(stage, closed, "bob"))[0] == 403

    status, stored = await client.ask("PUT", "/api/buckets/s3/audited-data", json=KEY)

    assert (status, stored["url"], stored["username"]) == (200, "s3://audited-data", "AKIAREADER")
    _, known = await client.ask("GET", "/api/buckets")
    assert known == {"buckets": [stored]}
    assert (await get(stage, closed, "bob"))[2] == b"private"
    assert (await client.ask("DELETE", "/api/buckets/s3/audited-data"))[0] == 204
    status, answer = await client.ask("DELETE", "/api/buckets/s3/audited-data")
    assert (status, answer["code"]) == (404, "credentials_not_found")
    assert SECRET not in orjson.dumps([stored, known]).decode()
    async with database.pool(stage.postgres.url("gateway"), "gateway") as connections:
        rows = await connections.fetch(
            "SELECT action FROM audit WHERE subject = 's3://audited-data' ORDER BY id"
        )
    assert [row["action"] for row in rows] == [
        "bucket credentials sent",
        *["bucket credentials withdrawn"] * 2,
    ]
    assert "hunter" not in stage.storage.log.read_text() + stage.gateway.log.read_text()


@pytest.mark.parametrize(
    ("at", "body", "code", "field"),
    [
        ("ftp/team-data", KEY, "bucket_invalid", "bucket"),
        ("s3/UPPER_", KEY, "bucket_invalid", "bucket"),
        ("s3/team-data%2Fkey", KEY, "bucket_invalid", "bucket"),
        ("s3/team-data", {}, "bucket_role_missing", "url"),
        ("s3/team-data", {"secret_access_key": "hunter2"}, "secret_invalid", "access_key_id"),
        ("s3/team-data", KEY | {"secret_access_key": "hunter2\n"}, "secret_invalid", "secret_access_key"),
        ("s3/team-data", KEY | {"secret_access_key": "hunter2" * 50}, "field_invalid", "secret_access_key"),
        ("s3/team-data", KEY | {"secret": "hunter2"}, "field_invalid", "secret"),
        ("s3/team-data", ["hunter2"], "field_invalid", None),
        ("gs/team", {"service_account_key": "hunter2"}, "secret_invalid", "service_account_key"),
    ],
)
async def test_credentials_that_make_no_sense_are_refused_and_not_echoed(client, at, body, code, field):
    status, answer = await client.ask("PUT", f"/api/buckets/{at}", data=orjson.dumps(body), headers=JSON)

    assert (status, answer["code"], answer["field"]) == (422, code, field), answer
    assert "hunter2" not in answer["message"]
    sensible(answer)


async def test_what_a_bucket_holds_is_mounted_by_its_url_or_by_a_link_to_it(clouds, client):
    await client.ask("PUT", "/api/links/weather", json={"target": "s3://rain/annual"})
    mounts = [
        {"resource": "s3://rain"},
        {"resource": "gs://rain/annual/2025.csv", "target": "/mnt/one.csv"},
        {"resource": "weather", "target": "/mnt/w"},
    ]

    run = await client.create(mounts=mounts)

    found = [(one["resource"], one["target"], one["bucket"]) for one in run["spec"]["mounts"]]
    assert found == [
        ("s3://rain", "/spell/rain", "s3://rain"),
        ("gs://rain/annual/2025.csv", "/mnt/one.csv", "gs://rain/annual/2025.csv"),
        ("weather", "/mnt/w", "s3://rain/annual"),
    ]
    status, again = await client.ask("POST", f"/api/runs/{run['id']}/rerun")
    assert (status, again["spec"]["mounts"]) == (201, run["spec"]["mounts"])
    for each in (run, again):
        await client.ask("POST", f"/api/runs/{each['id']}/kill")
    await client.ask("DELETE", "/api/links/weather")


@pytest.mark.parametrize(
    ("url", "status", "code", "why"),
    [
        ("s3://", 422, "bucket_invalid", "after '://' comes the name of a bucket"),
        ("s3://UPPER_/", 422, "bucket_invalid", "after '://' comes the name of a bucket"),
        ("s3://nowhere", 404, "bucket_not_found", "'s3://nowhere': there is no such bucket"),
        ("s3://rain/x", 404, "resource_not_found", "'s3://rain/x': no such object, nor any below it"),
        ("s3://hollow", 404, "bucket_empty", "there is nothing in it"),
        ("gs://locked/k", 403, "bucket_denied", "'gs://locked/k' may not be read: it is not public"),
    ],
)
async def test_a_bucket_that_cannot_be_mounted_is_refused_before_there_is_a_run(
    clouds, client, url, status, code, why
):
    clouds.bucket("hollow")
    clouds.bucket("locked", {"k": b"x"}, public=False)
    wanted = {"command": "true", "mounts": [{"resource": url, "target": "/mnt/m"}]}

    for path in ("/api/runs", "/api/runs/plan"):
        found, answer = await client.ask("POST", path, json=wanted)

        assert (found, answer["code"]) == (status, code), answer
        assert why in answer["message"]
        assert answer["field"].startswith("mounts")
