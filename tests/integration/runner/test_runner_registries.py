"""Images of private registries: pulled with the login that is stored, which is found nowhere afterwards."""

import base64
import json
import re

import pytest
from pydantic import TypeAdapter

from spell_proto import database, http
from spell_proto.registries import RegistryView
from support import docker as daemons
from support import registries

pytestmark = pytest.mark.asyncio(loop_scope="session")
VIEW = TypeAdapter(RegistryView)
NOTHING = TypeAdapter(dict[str, None])
SECRET = "hunter2-hunter2"
#: As it is, and as the daemon and the registry are told.
WRITTEN = (
    SECRET.encode(),
    base64.b64encode(f"ada:{SECRET}".encode()),
    base64.urlsafe_b64encode(json.dumps({"username": "ada", "password": SECRET}).encode()),
)


@pytest.fixture
def private(tmp_path, docker):
    with registries.registry(tmp_path, "ada", SECRET) as host:
        registries.push(docker, daemons.TINY, f"{host}/team/tiny:1", "ada", SECRET)
        yield host


async def store(services, registry, password=SECRET):
    async with http.Caller(services.storage_url) as storage:
        body = {"username": "ada", "password": password}
        await storage.call("PUT", f"/registries/{registry}", VIEW, body=body)


async def forget(services, registry):
    async with http.Caller(services.storage_url) as storage:
        await storage.call("DELETE", f"/registries/{registry}", NOTHING)


def found_in(data):
    return [written for written in WRITTEN if written in data]


async def test_a_private_image_is_pulled_with_the_stored_login_which_is_found_nowhere(
    rooms, services, docker, private
):
    here = await rooms("docker")
    image = f"{private}/team/tiny:1"
    await store(services, private)

    run_id = await here.create("env; cat /proc/self/mountinfo; echo up; sleep 300", docker_image=image)
    await here.until_logged(run_id, b"up\n")
    container = docker.container(f"run-{run_id}-a1-{here.machine_id}")
    await here.client.end(run_id, "kill")
    view = await here.until_final(run_id)

    assert view.spec.docker_image.startswith(f"{private}/team/tiny@sha256:")
    records = await here.records(run_id)
    facts = [view.model_dump_json(), json.dumps(container)]
    facts += [json.dumps(docker.ask("GET", f"/images/{image}/{what}")) for what in ("json", "history")]
    facts += [json.dumps(docker.ask("GET", what)) for what in ("/info", "/containers/json?all=1")]
    logs = [path.read_bytes() for path in (here.runner.log, services.storage.log)]
    kept = [path.read_bytes() for path in here.data.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(kept) > 3
    for data in (
        *(fact.encode() for fact in facts),
        *logs,
        *kept,
        *(bytes(record.payload) for record in records),
    ):
        assert not found_in(data)
    await forget(services, private)


async def test_who_comes_later_uses_the_image_that_is_there_without_a_login(rooms, services, private):
    here = await rooms("docker")
    image = f"{private}/team/tiny:1"
    await store(services, private)
    assert (await here.until_final(await here.create("true", docker_image=image))).state == "complete"
    await forget(services, private)
    here.front.asked.clear()

    view = await here.until_final(await here.create("true", docker_image=image))

    assert view.state == "complete"
    assert not [asked for asked in here.front.asked if "/registries/" in asked]


async def test_a_login_that_is_missing_or_no_longer_good_is_told_with_what_to_do(
    rooms, services, docker, private, tmp_path
):
    here = await rooms("docker")
    image = f"{private}/team/tiny:1"

    missing = await here.until_final(await here.create("true", docker_image=image))
    await store(services, private)
    registries.change_password(tmp_path, "ada", "another-one")
    refused = await here.until_final(await here.create("true", docker_image=image))

    command = f"spell cluster add-docker-registry --registry {private}"
    for view in (missing, refused):
        assert (view.state, view.reason) == ("failed", "build_failed")
        assert f"the image {image} cannot be had: " in view.message
        assert not found_in(view.message.encode())
    assert f"an administrator can store one: {command}" in missing.message
    assert (
        f"the one that is stored for {private} cannot; an administrator can store another: {command}"
        in refused.message
    )
    assert not docker.has(image)
    await forget(services, private)


async def test_a_login_that_cannot_be_read_fails_the_run_in_a_sentence(rooms, services, postgres, private):
    here = await rooms("docker")
    await store(services, private)
    async with database.pool(postgres.url("storage"), "storage") as pool:
        await pool.execute("UPDATE registries SET secret = 'x' WHERE registry = $1", private)
    view = await here.until_final(await here.create("true", docker_image=f"{private}/team/tiny:1"))

    assert f"the login of {private} cannot be read; an administrator must store it again" in view.message
    await forget(services, private)


async def test_a_storage_that_is_away_is_waited_for_before_a_pull(rooms, services, private):
    here = await rooms("docker")
    await store(services, private)
    here.front.broken = re.compile("/registries/")
    run_id = await here.create("echo in", docker_image=f"{private}/team/tiny:1")
    await here.until_true(lambda: [asked for asked in here.front.asked if "/registries/" in asked][1:])
    here.front.broken = None
    view = await here.until_final(run_id)

    assert (view.state, await here.output(run_id)) == ("complete", b"in\n")
    await forget(services, private)
