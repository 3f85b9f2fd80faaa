"""Tokens and SSH keys: made, shown once, used, and gone at once."""

import subprocess
from urllib.parse import quote

import asyncpg
import orjson
import pytest

from integration.gateway.stage import PUBLIC_KEY, until
from spell_proto.http import Caller

pytestmark = pytest.mark.integration


@pytest.fixture
def public_key(tmp_path):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "new key", "-f", tmp_path / "k"], check=True
    )
    return (tmp_path / "k.pub").read_text()


async def test_the_first_user_is_there_with_token_and_key(client):
    _, me = await client.ask("GET", "/api/me")
    _, keys = await client.ask("GET", "/api/keys")
    _, tokens = await client.ask("GET", "/api/tokens")

    assert me["user"]["name"] == "ada"
    assert keys["keys"][0]["title"] == PUBLIC_KEY.split()[2]
    assert tokens["tokens"][0]["name"] == "this machine"


async def test_a_token_works_until_it_is_deleted(client):
    status, made = await client.ask("POST", "/api/tokens", json={"name": "ci"})
    bearer = {"Authorization": f"Bearer {made['value']}"}
    used = await client.ask("GET", "/api/me", headers=bearer)
    _, listed = await client.ask("GET", "/api/tokens")

    deleted = await client.ask("DELETE", f"/api/tokens/{made['token']['id']}")
    refused = await client.ask("GET", "/api/me", headers=bearer)

    assert (status, used[0], deleted[0], refused[0]) == (201, 200, 204, 401)
    assert made["value"] not in str(listed)
    assert (await client.ask("DELETE", f"/api/tokens/{made['token']['id']}"))[0] == 404


async def test_a_token_deleted_elsewhere_or_out_of_time_is_refused_within_five_seconds(stage, client):
    _, stolen = await client.ask("POST", "/api/tokens", json={"name": "stolen"})
    _, brief = await client.ask("POST", "/api/tokens", json={"name": "brief", "expires_in_seconds": 1})
    bearers = [{"Authorization": f"Bearer {made['value']}"} for made in (stolen, brief)]
    for bearer in bearers:
        assert (await client.ask("GET", "/api/me", headers=bearer))[0] == 200
    database = await asyncpg.connect(stage.postgres.url("gateway"))
    await database.execute("DELETE FROM gateway.tokens WHERE id = $1", stolen["token"]["id"])
    await database.close()

    async def refused():
        return [(await client.ask("GET", "/api/me", headers=bearer))[0] for bearer in bearers] == [401, 401]

    await until(refused, seconds=6)


async def test_only_hashes_of_tokens_are_kept_and_the_record_cannot_be_changed(stage, client):
    _, made = await client.ask("POST", "/api/tokens", json={"name": "kept"})
    database = await asyncpg.connect(stage.postgres.url("gateway"))
    rows = await database.fetch("SELECT t::text AS row FROM gateway.tokens t")
    noted = await database.fetchval(
        "SELECT count(*) FROM gateway.audit WHERE subject = $1", str(made["token"]["id"])
    )
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await database.execute("UPDATE gateway.audit SET subject = ''")
    await database.close()

    assert made["value"] not in str([row["row"] for row in rows])
    assert noted >= 1


async def test_a_key_is_added_looked_up_and_deleted(stage, client, public_key):
    status, key = await client.ask("POST", "/api/keys", json={"public_key": public_key})
    again = await client.ask("POST", "/api/keys", json={"public_key": public_key, "title": "other"})
    async with stage.client("bob") as bob:
        taken = await bob.ask("POST", "/api/keys", json={"public_key": public_key})
    async with Caller(stage.sockets["gateway"]) as inside:
        path = f"/ssh-keys/{quote(key['fingerprint'], safe='')}"
        async with inside.open("GET", path) as response:
            owner = orjson.loads(await response.read())

    deleted = await client.ask("DELETE", f"/api/keys/{key['id']}")

    assert (status, again[0], taken[0], deleted[0]) == (201, 201, 409, 204)
    assert key["title"] == "new key"
    assert again[1]["id"] == key["id"]
    assert taken[1]["code"] == "key_taken"
    assert owner["user_name"] == "ada"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"public_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"}, "private_key_refused"),
        ({"public_key": "ssh-ed25519 nonsense"}, "public_key_invalid"),
        ({"public_key": "x" * 100_000}, "public_key_invalid"),
        ({}, "field_invalid"),
        ({"public_key": PUBLIC_KEY, "title": "x" * 300}, "title_invalid"),
    ],
)
async def test_what_is_no_key_is_refused(client, body, code):
    status, answer = await client.ask("POST", "/api/keys", json=body)

    assert (status, answer["code"]) == (422, code)


@pytest.mark.parametrize(
    "body", [{"name": ""}, {"name": "x" * 65}, {"name": "a", "expires_in_seconds": 0}, {"name": 7}]
)
async def test_a_token_without_a_proper_name_or_time_is_refused(client, body):
    status, _ = await client.ask("POST", "/api/tokens", json=body)

    assert status == 422
