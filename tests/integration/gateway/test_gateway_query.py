"""What a query may hold: every route refuses members it does not know and values it is given twice, by name."""

import re

import pytest

pytestmark = pytest.mark.integration
OPEN = {"/api/health", "/api/openapi.json", "/api/asyncapi.json"}
FILLED = {"id": "1", "label": "x", "path": "runs/1/x"}


async def routes(client):
    """Every call the service describes whose refusals have a body: its method, a path, and the members of its query by name."""
    _, document = await client.ask("GET", "/api/openapi.json")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "head":
                continue
            members = {
                item["name"]: item["schema"]
                for item in operation.get("parameters", [])
                if item["in"] == "query"
            }
            yield (
                method.upper(),
                re.sub(r"\{([a-z_]+)\}", lambda part: FILLED.get(part[1], "x"), path),
                members,
            )


async def test_a_member_that_no_route_knows_is_refused_by_every_route(client):
    checked = 0
    async for method, path, members in routes(client):
        status, answer = await client.ask(method, path, params={"bogusmember": "1"})

        assert (status, answer["code"], answer["field"]) == (422, "query_unknown", "bogusmember"), (
            path,
            answer,
        )
        assert answer["message"].startswith("'bogusmember': the query has no such member; ")
        assert all(name in answer["message"] for name in members or ["none"])
        checked += 1

    assert checked >= 25


async def test_a_typo_in_a_member_gets_what_was_meant(client):
    checked = 0
    async for method, path, members in routes(client):
        for name in members:
            typo = name[:-1] + name[-1] * 2
            status, answer = await client.ask(method, path, params={typo: "1"})

            assert (status, answer["field"]) == (422, typo), (path, answer)
            assert answer["hint"] == f"Did you mean {name}?"
            checked += 1

    assert checked >= 10


async def test_a_value_given_twice_is_refused_unless_it_may_be_repeated(client):
    repeatable = set()
    async for method, path, members in routes(client):
        for name, schema in members.items():
            status, answer = await client.ask(method, path, params=[(name, "1"), (name, "1")])
            if schema["type"] == "array":
                repeatable.add(f"{path}?{name}")
                assert status == 200
            else:
                assert (status, answer["code"], answer["field"]) == (422, "query_repeated", name), (
                    path,
                    answer,
                )
                assert answer["message"] == f"{name}: it is given 2 times; once is allowed"

    assert repeatable == {"/api/runs?label"}


@pytest.mark.parametrize("name", ["x" * 5000, "a\x1b]52", "limit\u202e", "", "Limit", " limit"])
async def test_a_name_that_nobody_would_type_is_escaped_and_cut(client, name):
    status, answer = await client.ask("GET", "/api/runs", params={name: "1"})

    assert (status, answer["code"]) == (422, "query_unknown")
    assert len(answer["message"]) < 200
    assert answer["message"].isprintable()
    assert answer["field"].isprintable()
    assert len(answer["field"]) <= 80


async def test_who_may_not_ask_does_not_learn_what_may_be_asked(stage):
    async with stage.client(None) as nobody:
        async for method, path, _ in routes(nobody):
            status, answer = await nobody.ask(method, path, params={"bogusmember": "1"})

            assert (status, answer["code"]) == (
                (422, "query_unknown") if path in OPEN else (401, "unauthorized")
            )


@pytest.mark.parametrize("path", ["/api/runs/", "/api/nothing/", "/api/runs?label=", "/api/events?after="])
async def test_a_request_line_that_is_too_long_is_refused_as_such(client, path):
    status, answer = await client.ask("GET", path + "x" * 20_000)

    assert (status, answer["code"]) == (414, "path_too_long")
    assert "xxx" not in answer["message"]
