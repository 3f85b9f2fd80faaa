"""Base images of private registries: pulled for a build with the login that storage knows, which is found nowhere afterwards."""

import base64
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from integration.builder.test_builder_images import ask
from spell_proto import http
from support import docker as daemons
from support import registries
from support import web as web_support
from support.stack import short_directory

pytestmark = pytest.mark.integration
SECRET = "hunter2-hunter2"


@asynccontextmanager
async def storage_with(logins: dict[str, tuple[str, str]]) -> AsyncIterator[str]:
    """A storage that knows logins of registries and nothing else; its address."""

    async def login(request):
        found = logins.get(request.match_info["registry"])
        if found is None:
            body = {"code": "registry_not_found", "field": None, "message": "none is stored", "hint": None}
            return web.json_response(body, status=404)
        return web.json_response({"username": found[0], "password": found[1]})

    app = web.Application()
    app.router.add_get("/registries/{registry}/login", login)
    with short_directory() as directory:
        async with http.serve(app, f"unix://{directory}/s.sock"):
            yield f"unix://{directory}/s.sock"


@pytest.fixture
def private(docker, tmp_path):
    """A base image that is in a private registry and nowhere else."""
    name = f"spell-tests/private:{time.time_ns()}"
    docker.derive(name, daemons.BASE, {"etc/private": b"x"})
    with registries.registry(tmp_path, "ada", SECRET) as host:
        registries.push(docker, name, f"{host}/team/base:1", "ada", SECRET)
        docker.ask("DELETE", f"/images/{name}?force=1")
        yield f"{host}/team/base:1"


async def test_a_private_base_image_needs_a_login_which_is_found_nowhere(builder, docker, private, index):
    host = private.partition("/")[0]
    logins: dict[str, tuple[str, str]] = {}
    index.add("alpha", "1.0", entry_point=True)
    with web_support.files(index.directory) as port:
        async with storage_with(logins) as address:
            await builder.end(signal.SIGTERM)
            builder.environment |= {
                "UV_DEFAULT_INDEX": f"http://127.0.0.1:{port}/simple",
                "SPELL_DOCKER_SOCKET": str(docker.socket),
                "SPELL_DOCKER_IMAGE": private,
                "SPELL_STORAGE_URL": address,
            }
            await builder.start()

            refused = await ask(builder, "alpha")
            logins[host] = ("ada", "wrong-wrong")
            wrong = await ask(builder, "alpha")
            logins[host] = ("ada", SECRET)
            built = await ask(builder, "alpha")
            await builder.end(signal.SIGTERM)

    assert f"the base image {private} cannot be had: " in refused.failure
    assert f"can store one: spell cluster add-docker-registry --registry {host}" in refused.failure
    assert f"the one that is stored for {host} cannot; an administrator can store another" in wrong.failure
    image = built.ready["path"]
    told = [docker.ask("GET", f"/images/{image}/{what}") for what in ("json", "history")]
    told += [refused, wrong, built, builder.log.read_text()]
    for secret in (SECRET, "wrong-wrong", base64.b64encode(f"ada:{SECRET}".encode()).decode()):
        assert secret not in str(told)
    for name in {*docker.images(builder.label), private}:
        docker.ask("DELETE", f"/images/{name}?force=1")
