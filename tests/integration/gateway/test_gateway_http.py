"""The public API from outside: who may ask what, what is refused and how, runs from creation to their end."""

import http.client
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.gateway.stage import until

pytestmark = pytest.mark.integration
JSON = {"Content-Type": "application/json"}
OPEN = {"/api/health", "/api/openapi.json", "/api/asyncapi.json"}


async def calls(client):
    """Every call the service describes whose refusals have a body, with path parts still in braces."""
    _, document = await client.ask("GET", "/api/openapi.json")
    described = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    return [(method, path) for method, path in described if method != "HEAD"]


async def test_health_and_descriptions_need_no_token(stage):
    async with stage.client(None) as nobody:
        answers = [await nobody.ask("GET", path) for path in sorted(OPEN)]

    assert [status for status, _ in answers] == [200, 200, 200]
    assert answers[0][1]["asyncapi"].startswith("3.")
    assert answers[1][1]["service"] == "gateway"
    assert answers[2][1]["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    "header",
    [None, "Bearer", "Bearer spell_" + "x" * 43, "Basic YTpi", "Bearer " + "x" * 10_000, "Bearer spell_é"],
)
async def test_without_a_good_token_every_call_says_the_same(stage, header):
    async with stage.client(None) as nobody:
        headers = {} if header is None else {"Authorization": header}
        answers = set()
        for method, path in await calls(nobody):
            if path not in OPEN:
                filled = re.sub(r"\{[a-z]+\}", "1", path)
                async with nobody.session.request(method, filled, headers=headers) as response:
                    assert "Bearer" in response.headers["WWW-Authenticate"]
                    answers.add((response.status, await response.text()))

    assert len(answers) == 1
    assert answers.pop()[0] == 401


async def test_a_token_of_20_kb_is_refused_without_a_crash(stage):
    async with stage.client(None) as nobody:
        status, _ = await nobody.ask("GET", "/api/me", headers={"Authorization": "Bearer " + "x" * 20_000})

    assert 400 <= status < 500


async def test_what_is_another_users_is_not_there_whatever_the_verb(stage, client):
    run = await client.create()
    _, key = await client.ask("GET", "/api/keys")
    _, token = await client.ask("GET", "/api/tokens")
    ids = {"keys": key["keys"][0]["id"], "tokens": token["tokens"][0]["id"]}
    checked = 0
    async with stage.client("bob") as bob:
        for method, path in await calls(client):
            if not {"{id}", "{path}"} & set(path.split("/")):  # hosts and environments belong to nobody
                continue
            filled = path.replace("{file}", "1").replace("{id}", str(ids.get(path.split("/")[2], run["id"])))
            filled = filled.replace("{label}", "mine").replace("{path}", f"runs/{run['id']}")
            status, answer = await bob.ask(method, filled)
            assert status == 404, (method, filled, answer)
            assert answer["code"].endswith("_not_found")
            checked += 1
        _, verdict = await bob.ask("GET", "/api/verify", params={"run_id": run["id"]})
        assert verdict["code"] == "run_not_found"
        _, listed = await bob.ask("GET", "/api/runs")
        assert run["id"] not in [other["id"] for other in listed["runs"]]
        _, outcome = await bob.ask("POST", "/api/runs/kill", json={"run_ids": [run["id"]]})
        assert outcome["unknown"] == [run["id"]]
    _, after = await client.ask("GET", f"/api/runs/{run['id']}")

    assert checked >= 12
    assert (after["state"], after["intent"], after["labels"]) == ("requested", "run", [])


async def test_a_run_is_created_once_per_key(client):
    body = {"command": "true", "labels": ["b", "a", "b"], "env": {"A": "secret"}}
    headers = {"Idempotency-Key": "key of ada 1"}

    first = await client.ask("POST", "/api/runs", json=body, headers=headers)
    again = await client.ask("POST", "/api/runs", json=body, headers=headers)
    other = await client.ask("POST", "/api/runs", json=body | {"command": "false"}, headers=headers)

    assert (first[0], again[0], other[0]) == (201, 200, 409)
    assert first[1]["id"] == again[1]["id"]
    assert first[1]["labels"] == ["b", "a"]
    assert first[1]["spec"]["env"] == {"A": ""}
    assert first[1]["spec"]["machine_type"] == "CPU"
    assert other[1]["code"] == "idempotency_conflict"


async def test_a_commit_that_is_not_here_is_asked_for(client):
    code = {"commit": "a" * 40, "root_directory": "repo"}

    status, answer = await client.ask("POST", "/api/runs", json={"command": "true", "code": code})

    assert (status, answer["code"], answer["field"]) == (409, "commit_unknown", "code.commit")
    assert "push" in answer["hint"]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "json_invalid"),
        (b"{", 400, "json_invalid"),
        (b'{"command": "true"} x', 400, "json_invalid"),
        (b'{"command": "a", "command": "b"}', 400, "duplicate_key"),
        (b'\xef\xbb\xbf{"command": "true"}', 400, "json_invalid"),
        (b"[" * 10_000 + b"]" * 10_000, 400, "json_invalid"),
        (b'{"command": "true", "timeout_seconds": ' + b"9" * 5_000 + b"}", 400, "json_invalid"),
        (b'{"command": "\\ud800"}', 400, "json_invalid"),
        (b'{"command": "a\\u0000b"}', 422, "command_not_text"),
        (b'{"command": "  "}', 422, "command_empty"),
        (b'{"command": "' + b"x" * 70_000 + b'"}', 422, "command_too_long"),
        (b'{"command": "true", "cpus": "4"}', 422, "field_invalid"),
        (b'{"command": "true", "timeout_seconds": true}', 422, "field_invalid"),
        (b'{"command": "true", "timeout_seconds": 0}', 422, "number_out_of_range"),
        (b'{"command": null}', 422, "field_invalid"),
        (b"{}", 422, "field_invalid"),
        (b"[]", 422, "field_invalid"),
        (b'{"command": "true", "machine_type": "T5000"}', 422, "machine_type_unknown"),
        (b'{"command": "true", "environment": {"pip": ["-r x"]}}', 422, "pip_spec_invalid"),
        (b'{"command": "true", "env": {"SPELL_X": "1"}}', 422, "env_reserved"),
        (b'{"command": "true", "labels": ["a/b"]}', 422, "label_invalid"),
        (b'"' + b"x" * (1 << 20) + b'"', 413, "request_entity_too_large"),
    ],
)
async def test_a_bad_request_is_refused_with_its_field_and_makes_no_run(client, data, status, code):
    _, before = await client.ask("GET", "/api/runs", params={"limit": 1})

    answered, answer = await client.ask("POST", "/api/runs", data=data, headers=JSON)

    _, after = await client.ask("GET", "/api/runs", params={"limit": 1})
    assert (answered, answer["code"]) == (status, code), answer
    assert set(answer) == {"code", "field", "message", "hint"}
    assert [run["id"] for run in before["runs"]] == [run["id"] for run in after["runs"]]


async def test_all_wrong_fields_are_named_in_one_answer(client):
    body = {"command": 7, "timeout_seconds": "90", "bogus": 1}

    status, answer = await client.ask("POST", "/api/runs", json=body)

    assert status == 422
    assert all(name in answer["message"] for name in body)


@pytest.mark.parametrize("kilobytes", [20, 100])
async def test_a_header_that_is_too_long_is_refused_and_not_quoted(client, kilobytes):
    headers = {"Authorization": "Bearer " + "secret" * (kilobytes * 1024 // 6)}

    status, answer = await client.ask("GET", "/api/runs", headers=headers)

    assert status == 431
    assert answer["code"] == "header_too_large"
    assert "secret" not in str(answer)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json", "Idempotency-Key": "x" * 129}, 422),
        ({"Content-Type": "application/json", "Idempotency-Key": "ключ"}, 422),
    ],
)
async def test_a_header_that_makes_no_sense_is_refused(client, headers, status):
    answered, _ = await client.ask("POST", "/api/runs", data=b'{"command": "true"}', headers=headers)

    assert answered == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/runs/abc", 422),
        ("GET", "/api/runs/0", 422),
        ("GET", "/api/runs/99999999999999999999", 422),
        ("GET", "/api/runs/9007199254740992", 404),
        ("GET", "/api/runs/1/follow?offset=-1", 422),
        ("GET", "/api/runs/1/follow?follow=maybe", 422),
        ("GET", "/api/runs/1/follow?tail=99999999", 422),
        ("GET", "/api/runs/1/log?stream=both", 422),
        ("GET", "/api/runs?limit=many", 422),
        ("GET", "/api/runs?before=-1", 422),
        ("GET", "/api/runs?label=" + "x" * 65, 422),
        ("GET", "/api/events?after=not-a-cursor", 400),
        ("PUT", "/api/runs/1/labels/" + "x" * 65, 422),
        ("PUT", "/api/runs/1/labels/%00", 422),
        ("DELETE", "/api/tokens/x", 422),
        ("GET", "/api/nothing", 404),
        ("PATCH", "/api/runs", 405),
        ("HEAD", "/api/events", 405),
    ],
)
async def test_a_path_or_query_that_makes_no_sense_is_refused(client, method, path, status):
    answered, answer = await client.ask(method, path)

    assert answered == status, answer
    assert method == "HEAD" or set(answer) == {"code", "field", "message", "hint"}


@pytest.mark.parametrize(("limit", "most"), [("0", 1), ("-1", 1), ("1000000000", 1000), ("2", 2)])
async def test_a_limit_beyond_reason_is_brought_into_it(client, limit, most):
    for _ in range(3):
        await client.create()

    status, listed = await client.ask("GET", "/api/runs", params={"limit": limit})

    assert status == 200
    assert 1 <= len(listed["runs"]) <= most


async def test_pages_of_runs_join_without_gap(client):
    made = [(await client.create(labels=["paged"]))["id"] for _ in range(5)]
    seen, before = [], None
    while True:
        params = {"label": "paged", "limit": 2, **({"before": before} if before else {})}
        _, page = await client.ask("GET", "/api/runs", params=params)
        seen += [run["id"] for run in page["runs"]]
        if not page["more"]:
            break
        before = seen[-1]

    assert seen == made[::-1]


async def test_labels_come_and_go(client):
    run = await client.create()
    path = f"/api/runs/{run['id']}/labels/night%20shift"

    _, added = await client.ask("PUT", path)
    _, again = await client.ask("PUT", path)
    _, removed = await client.ask("DELETE", path)
    missing = await client.ask("DELETE", path)

    assert added["labels"] == again["labels"] == ["night shift"]
    assert removed["labels"] == []
    assert missing[0] == 404


async def test_several_runs_are_ended_together(client):
    runs = [(await client.create())["id"] for _ in range(3)]
    await client.ask("POST", f"/api/runs/{runs[0]}/kill")

    status, outcome = await client.ask("POST", "/api/runs/stop", json={"run_ids": [*runs, runs[1], 2**50]})
    too_many = await client.ask("POST", "/api/runs/stop", json={"run_ids": list(range(1, 1002))})

    assert status == 200
    assert outcome == {"ending": [], "ended": runs[1:], "already_final": [runs[0]], "unknown": [2**50]}
    assert too_many[0] == 422


async def test_the_output_of_a_run_is_served_in_parts(stage, client):
    async with stage.machine("logs") as machine:
        run = await client.create("logs")
        attempt = await machine.take(run["id"])
        await attempt.begin()
        attempt.write(1, b"0123456789" * 10)
        attempt.write(2, b"err")
        totals = attempt.seal()
        await attempt.store()
        await attempt.finish(totals)
        await client.until_final(run["id"])
    path = f"/api/runs/{run['id']}/log"

    whole = await client.ask("GET", path)
    errors = await client.ask("GET", path, params={"stream": "stderr"})
    part = await client.ask("GET", path, headers={"Range": "bytes=5-14"})
    async with client.session.get(path, headers={"Range": "bytes=999-"}) as response:
        beyond = response.status, response.headers["Content-Range"]
    async with client.session.head(path) as response:
        head = response.status, response.headers["Content-Length"]
    nothing = await client.ask("GET", f"/api/runs/{(await client.create())['id']}/log")

    assert whole == (200, b"0123456789" * 10 + b"err")
    assert errors == (200, b"err")
    assert part == (206, b"5678901234")
    assert beyond == (416, "bytes */103")
    assert head == (200, "103")
    assert nothing == (200, b"")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("command", "machine_type", "environment", "env", "code", "description", "labels", "timeout_seconds")
NEARLY = st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=8)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=ANY_JSON | NEARLY | st.binary(max_size=60))
def test_no_body_makes_the_server_stumble(stage, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode(errors="surrogatepass")
    connection = _connection(stage)
    headers = {"Authorization": f"Bearer {stage.tokens['ada']}", "Content-Type": "application/json"}

    connection.request("POST", "/api/runs", body=data, headers=headers)
    response = connection.getresponse()
    answer = response.read()

    assert response.status < 500, (data, answer)
    assert b"Traceback" not in answer


_CONNECTIONS = {}


def _connection(stage):
    """One connection for all examples: a new one each would mostly measure the kernel."""
    if stage.url not in _CONNECTIONS:
        _CONNECTIONS[stage.url] = http.client.HTTPConnection(stage.url.removeprefix("http://"), timeout=10)
    return _CONNECTIONS[stage.url]


async def test_a_new_type_of_machine_can_be_asked_for_at_once(stage, client):
    refused = await client.ask("POST", "/api/runs", json={"command": "true", "machine_type": "brand-new"})
    async with stage.machine("brand-new"):

        async def accepted():
            status, _ = await client.ask(
                "POST", "/api/runs", json={"command": "true", "machine_type": "Brand-New"}
            )
            return status == 201

        await until(accepted)

    assert refused[0] == 422
    assert "CPU" in refused[1]["message"]
