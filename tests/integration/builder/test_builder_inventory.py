"""What the builder keeps: told, limited in size, never taken from under a run, and seen when it is damaged."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from spell_proto import http
from spell_proto.errors import ConflictError, NotFoundError

pytestmark = pytest.mark.integration


def version(path: str, module: str) -> str:
    program = f"import {module}; print({module}.VERSION)"
    return subprocess.check_output([f"{path}/bin/python", "-c", program], text=True).strip()


@pytest.fixture(autouse=True)
def _packages(index):
    index.add("alpha", "1.0")
    index.add("beta", "1.0", requires=("alpha",))
    index.add("gamma", "1.0")


async def keys(builder) -> list[str]:
    return [each["key"] for each in (await builder.call("GET", "/environments"))["environments"]]


def damage(path: str) -> None:
    module = next(Path(path).glob("lib/python*/site-packages/alpha.py"))
    module.chmod(0o644)
    module.write_text("VERSION = 'evil'\n")
    module.chmod(0o444)


async def test_environments_are_listed_with_what_is_in_them_and_who_uses_them(builder, active):
    active.add(7)
    ready = (await builder.ensure("beta", run_id=7)).ready

    listed = await builder.call("GET", "/environments")
    (environment,) = [each for each in listed["environments"] if each["key"] == ready["key"]]
    detail = await builder.call("GET", f"/environments/{ready['key'][:12]}")

    assert (environment["packages"], environment["runs"], environment["in_use"], environment["ready"]) == (
        2,
        1,
        True,
        True,
    )
    assert detail["lock"].startswith(f"# Environment {ready['key']}\n# spell run --python 3.")
    assert "alpha==1.0" in detail["lock"]
    assert "--hash=sha256:" in detail["lock"]


async def test_a_lock_gives_the_same_environment_although_newer_versions_exist(builder, index):
    first = await builder.ensure("beta", run_id=7)
    lock = (await builder.call("GET", f"/environments/{first.ready['key']}"))["lock"]
    index.add("alpha", "2.0")

    again = await builder.ensure(requirements=lock)

    assert again.ready == {**first.ready, "cached": True}


async def test_a_run_is_told_what_it_used_and_what_has_changed(builder, index, active):
    await builder.ensure("alpha", "gamma", run_id=5)
    index.add("alpha", "2.0")
    await builder.ensure("beta", run_id=6)

    use = await builder.call("POST", "/environments/use", run_id=6, others=[5])

    assert use["reused"] is False
    assert use["compared_with"] == 5
    assert use["changes"] == ["alpha 1.0 → 2.0", "+ beta 1.0", "- gamma 1.0"]
    with pytest.raises(NotFoundError, match="run 99 has used no environment"):
        await builder.call("POST", "/environments/use", run_id=99)


async def test_an_environment_is_not_removed_while_a_run_uses_it(builder, active):
    active.add(7)
    ready = (await builder.ensure("alpha", run_id=7)).ready

    with pytest.raises(ConflictError, match="is used by run 7; stop it first"):
        await builder.call("DELETE", f"/environments/{ready['key']}")
    await builder.end()  # who uses what is not forgotten with the process
    await builder.start()
    kept = await builder.call("POST", "/environments/collect?everything=1")
    active.clear()
    removed = await builder.call("DELETE", f"/environments/{ready['key'][:8]}")

    assert ready["key"] not in kept["keys"]
    assert removed["keys"] == [ready["key"]]
    assert removed["bytes"] > 1000
    assert not Path(ready["path"]).exists()


async def test_without_an_answer_of_the_scheduler_nothing_that_was_used_is_removed(builder):
    ready = (await builder.ensure("alpha", run_id=7)).ready

    await builder.call("POST", "/environments/collect?everything=1")

    assert ready["key"] in await keys(builder)


async def daemon(builder, postgres, *, inspecting: int, tagging: int) -> AsyncIterator[str]:
    """A Docker daemon with the image of an environment, which answers some questions so; the key."""
    key = "f" * 64

    async def answer(request: web.Request) -> web.Response:
        path = request.path.partition("/images")[2]
        if path == "/json" and "dangling" not in request.query.get("filters", ""):
            return web.json_response([{"Id": "sha256:1", "RepoTags": [f"spell-environment:{key}"]}])
        if path.endswith("/json") and path != "/json":
            found = {"Id": "sha256:1", "Size": 5, "Config": {"Labels": {}}}
            return web.json_response(
                found if inspecting == 200 else {"message": "no such luck"}, status=inspecting
            )
        if path.endswith("/tag"):
            return web.json_response({"message": "no such image"}, status=tagging)
        return web.json_response({"ApiVersion": "1.41"} if request.path.endswith("/version") else [])

    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    connection = await asyncpg.connect(postgres.url("builder"))
    await connection.execute(
        "INSERT INTO builder.environments (key, resolved, interpreter, built_at) VALUES ($1, '', $2, now())",
        key,
        json.dumps({"path": "/python", "version": "3.12", "platform": "x", "libc": "y", "base": "sha256:b"}),
    )
    await connection.close()
    address = builder.data.parent / "d.sock"
    async with http.serve(app, f"unix://{address}"):
        builder.environment["SPELL_DOCKER_SOCKET"] = str(address)
        await builder.end()
        await builder.start()
        yield key


async def test_a_daemon_that_breaks_off_while_room_is_made_harms_nobody(builder, active, postgres):
    async with contextlib.asynccontextmanager(daemon)(builder, postgres, inspecting=500, tagging=500):
        await builder.ensure("alpha", run_id=7)
        async with asyncio.timeout(30):
            while "environments could not be collected" not in builder.log.read_text():
                await asyncio.sleep(0.05)

        assert (await builder.ensure("alpha", run_id=7)).ready["cached"]
        assert builder.process.returncode is None


async def test_an_image_that_somebody_else_removes_just_then_is_gone(builder, active, postgres):
    async with contextlib.asynccontextmanager(daemon)(builder, postgres, inspecting=200, tagging=404) as key:
        removed = await builder.call("POST", "/environments/collect?everything=1")

        assert key not in removed["keys"]


async def test_the_longest_unused_environments_make_room(builder, active, postgres):
    first, second, third = [
        (await builder.ensure(name, run_id=number)).ready["key"]
        for number, name in enumerate(("alpha", "gamma", "beta"), start=1)
    ]
    await builder.ensure("alpha", run_id=4)  # used again, and so younger than gamma
    active.add(3)
    connection = await asyncpg.connect(postgres.url("builder"))
    await builder.call("POST", "/environments/collect")  # takes the sizes
    size = await connection.fetchval("SELECT sum(bytes) FROM builder.environments")
    await connection.close()
    builder.environment["SPELL_ENVIRONMENTS_BYTES_MAX"] = str(size - 1)
    await builder.end()
    await builder.start()

    await builder.call("POST", "/environments/collect")
    left = await keys(builder)

    assert second not in left
    assert {first, third} <= set(left)
    again = await builder.ensure("gamma", run_id=9)
    assert again.ready["key"] == second


async def test_what_was_removed_for_room_is_built_again_the_same(builder, active, index):
    ready = (await builder.ensure("alpha", run_id=1)).ready
    await builder.call("DELETE", f"/environments/{ready['key']}")
    index.add("alpha", "2.0")

    again = (await builder.ensure("alpha", run_id=2)).ready

    assert again == ready
    assert version(again["path"], "alpha") == "1.0"


@pytest.mark.parametrize("restart", [False, True])
async def test_a_damaged_environment_is_built_again_before_it_is_used(builder, restart):
    builder.environment["SPELL_ENVIRONMENT_CHECK_SHARE"] = "1000"
    await builder.end()
    await builder.start()
    ready = (await builder.ensure("alpha")).ready
    damage(ready["path"])
    if restart:
        await builder.end()
        await builder.start()

    with pytest.raises(NotFoundError):
        await builder.resolved("alpha")
    answers = await asyncio.gather(*(builder.ensure("alpha") for _ in range(5)))

    assert {answer.ready["key"] for answer in answers} == {ready["key"]}
    assert version(ready["path"], "alpha") == "1.0"
    assert builder.log.read_text().count('"event":"environment built"') == 3  # bare, first, again
    assert (await builder.resolved("alpha"))["key"] == ready["key"]


async def test_an_environment_that_was_only_touched_is_used_as_it_is(builder):
    builder.environment["SPELL_ENVIRONMENT_CHECK_SHARE"] = "1000"
    await builder.end()
    await builder.start()
    ready = (await builder.ensure("alpha")).ready
    next(Path(ready["path"]).glob("lib/python*/site-packages/alpha.py")).touch()

    assert (await builder.resolved("alpha"))["key"] == ready["key"]


async def test_a_plan_says_what_would_be_built_and_makes_nothing(builder, index):
    new = await builder.call("POST", "/environments/plan", pip=["beta"])
    before = await keys(builder)
    await builder.ensure("beta")
    ready = await builder.call("POST", "/environments/plan", pip=["beta"])

    assert (new["state"], new["key"], new["packages"]) == ("new", None, [])
    assert len(before) <= 1  # the bare one
    assert ready["state"] == "ready"
    assert ready["packages"] == ["alpha==1.0", "beta==1.0"]


async def test_latest_resolves_again_and_who_asks_afterwards_gets_the_same(builder, index):
    first = await builder.ensure("alpha")
    index.add("alpha", "2.0")

    still = await builder.ensure("alpha")
    latest = await builder.ensure("alpha", latest=True)
    after = await builder.ensure("alpha")

    assert still.ready["key"] == first.ready["key"]
    assert version(latest.ready["path"], "alpha") == "2.0"
    assert after.ready["key"] == latest.ready["key"]
