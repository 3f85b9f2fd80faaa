"""Private registries over HTTP: who may add one, what is refused, and that images of it are allowed from then on."""

import orjson
import pytest

from integration.gateway.test_gateway_bad_input import JSON, sensible
from spell_proto import database
from support import registries

pytestmark = pytest.mark.integration
SECRET = {"username": "ada", "password": "hunter2-hunter2"}


async def test_registries_are_for_administrators_and_their_logins_never_shown(stage, client, tmp_path):
    """Stored, listed without the password, recorded, deleted; nobody else may even look."""
    with registries.registry(tmp_path, user="ada", password=SECRET["password"]) as host:
        async with stage.client("bob") as bob:
            for method, path, given in (
                ("GET", "/api/registries", {}),
                ("PUT", f"/api/registries/{host}", {"json": SECRET}),
                ("DELETE", f"/api/registries/{host}", {}),
            ):
                status, answer = await bob.ask(method, path, **given)
                assert (status, answer["code"]) == (403, "admin_only")

        status, stored = await client.ask("PUT", f"/api/registries/{host}", json=SECRET)
        wrong = await client.ask("PUT", f"/api/registries/{host}", json=SECRET | {"password": "hunter3"})
    assert (status, stored["registry"], stored["kind"], stored["username"]) == (200, host, "login", "ada")
    assert (wrong[0], wrong[1]["code"], wrong[1]["field"]) == (422, "registry_login_refused", "password")
    _, listed = await client.ask("GET", "/api/registries")
    assert listed == {"registries": [stored], "aws_role": None}
    assert "hunter" not in orjson.dumps([stored, listed, wrong]).decode()
    for path in (f"/api/registries/{host}/login", f"/registries/{host}/login"):
        assert (await client.ask("GET", path))[0] == 404
    assert (await client.ask("DELETE", f"/api/registries/{host}"))[0] == 204
    status, answer = await client.ask("DELETE", f"/api/registries/{host}")
    assert (status, answer["code"]) == (404, "registry_not_found")
    async with database.pool(stage.postgres.url("gateway"), "gateway") as connections:
        rows = await connections.fetch("SELECT action FROM audit WHERE subject = $1 ORDER BY id", host)
    assert [row["action"] for row in rows] == ["registry login sent"] * 2 + ["registry login withdrawn"] * 2
    assert "hunter" not in stage.storage.log.read_text() + stage.gateway.log.read_text()


async def test_images_come_from_a_registry_once_a_login_for_it_is_stored(client, tmp_path):
    """Until then it is refused like any other that nobody listed."""
    with registries.registry(tmp_path, "ada", SECRET["password"]) as host:
        wanted = {"command": "true", "docker_image": f"{host}/team/image:1"}
        status, refused = await client.ask("POST", "/api/runs", json=wanted)
        assert (status, refused["code"], refused["field"]) == (422, "registry_not_allowed", "docker_image")

        await client.ask("PUT", f"/api/registries/{host}", json=SECRET)
        run = await client.create(docker_image=wanted["docker_image"])
        status, other = await client.ask("POST", "/api/runs", json=wanted | {"docker_image": "127.0.0.1:1/x"})
        assert (status, other["code"]) == (422, "registry_not_allowed")
        assert host not in other["message"].partition("allowed are:")[0]
        await client.ask("POST", f"/api/runs/{run['id']}/kill")
        await client.ask("DELETE", f"/api/registries/{host}")


BAD = [
    ("team", SECRET, "registry_invalid", "registry"),
    ("a%20b.org", SECRET, "registry_invalid", "registry"),
    ("a.org%0a", SECRET, "registry_invalid", "registry"),
    ("-oProxy.org", SECRET, "registry_invalid", "registry"),
    ("a..org", SECRET, "registry_invalid", "registry"),
    ("a.org:0", SECRET, "registry_invalid", "registry"),
    ("a.org:99999", SECRET, "registry_invalid", "registry"),
    ("x" * 300 + ".org", SECRET, "registry_invalid", "registry"),
    ("169.254.169.254", SECRET, "registry_not_public", "registry"),
    ("10.0.0.1:5000", SECRET, "registry_not_public", "registry"),
    ("localhost:5000", SECRET, "registry_not_public", "registry"),
    ("127.0.0.1:1", SECRET, "registry_unreachable", "registry"),
    ("127.0.0.1:1", SECRET | {"username": ""}, "secret_invalid", "username"),
    ("127.0.0.1:1", SECRET | {"username": "a:b"}, "secret_invalid", "username"),
    ("127.0.0.1:1", SECRET | {"username": "hunter2" * 50}, "field_invalid", "username"),
    ("127.0.0.1:1", SECRET | {"password": ""}, "secret_invalid", "password"),
    ("127.0.0.1:1", SECRET | {"password": "hunter2\n"}, "secret_invalid", "password"),
    ("127.0.0.1:1", SECRET | {"password": "hunter2" * 5000}, "field_invalid", "password"),
    ("127.0.0.1:1", SECRET | {"password": 2222}, "field_invalid", "password"),
    ("127.0.0.1:1", {"username": "ada"}, "secret_invalid", "password"),
    ("127.0.0.1:1", {"username": "ada", "password": "x", "pasword": "hunter2"}, "field_invalid", "pasword"),
    ("127.0.0.1:1", ["hunter2"], "field_invalid", None),
    ("127.0.0.1:1", SECRET | {"username": "oauth2accesstoken"}, "registry_login_fleeting", "username"),
]


@pytest.mark.parametrize(("registry", "body", "code", "field"), BAD)
async def test_a_login_that_makes_no_sense_is_refused_and_not_echoed(client, registry, body, code, field):
    status, answer = await client.ask(
        "PUT", f"/api/registries/{registry}", data=orjson.dumps(body), headers=JSON
    )

    assert (status, answer["code"], answer["field"]) == (422, code, field), answer
    assert "hunter2" not in answer["message"]
    assert "2222" not in answer["message"]
    sensible(answer)
    assert (await client.ask("GET", "/api/registries"))[1]["registries"] == []
