"""The catalogue of bad input over HTTP: what is refused, in which words, and that nothing comes of it."""

import asyncio
import gzip
import time

import orjson
import pytest

from support.spawned import children

pytestmark = pytest.mark.integration
JSON = {"Content-Type": "application/json"}
MARKER = "zqmarker"


def run(**given):
    return "POST", "/api/runs", orjson.dumps({"command": f"true {MARKER}"} | given)


def raw(data):
    return "POST", "/api/runs", data


def pip(*specs):
    return run(environment={"pip": list(specs)})


def code(**given):
    return run(code={"commit": "a" * 40, "root_directory": "repo"} | given)


# Row of the catalogue, request, status, code, field, what the message must hold.
BODIES = [
    ("B01", run(command=""), 422, "command_empty", "command", "command: it is empty. Give a command"),
    ("B01", run(command=" \t\n "), 422, "command_empty", "command", "command: it is empty"),
    ("B02", run(command="x" * 70_000), 422, "command_too_long", "command", "70000 bytes, at most 64 KiB"),
    ("B02", run(command="é" * 40_000), 422, "command_too_long", "command", "80000 bytes, at most 64 KiB"),
    ("B02", run(command="x" * (2 << 20)), 413, "request_entity_too_large", None, "/api/runs"),
    ("B03", run(command="a\0b"), 422, "command_not_text", "command", "command: a NUL byte at position 1"),
    ("B03", raw(b'{"command": "a\xff"}'), 400, "json_invalid", None, "body"),
    ("B05", run(machine_type="T5000"), 422, "machine_type_unknown", "machine_type", "(choose from CPU"),
    ("B05", run(machine_type=""), 422, "machine_type_unknown", "machine_type", "--machine-type: invalid choice: ''"),
    ("B05", run(machine_type="cpu "), 422, "machine_type_unknown", "machine_type", "'cpu '. (choose from CPU"),
    ("B05", run(machine_type="x" * 100_000), 422, "machine_type_unknown", "machine_type", "xxx…'. (choose from"),
    ("B09", pip(f"--index-url=http://{MARKER}"), 422, "pip_spec_invalid", "environment.pip", "--pip: '--index-url"),
    ("B09", pip("-r x"), 422, "pip_spec_invalid", "environment.pip", "--pip: '-r x': an option of pip is no package"),
    ("B09", pip(" -r x"), 422, "pip_spec_invalid", "environment.pip", "--pip"),
    ("B09", pip(""), 422, "pip_spec_invalid", "environment.pip", "--pip: '' is not a package"),
    ("B10", pip("foo @ file:///etc/passwd"), 422, "pip_url_not_allowed", "environment.pip", "no URL and no path"),
    ("B10", pip("foo@file:///etc/passwd"), 422, "pip_url_not_allowed", "environment.pip", "no URL and no path"),
    ("B10", pip(f"git+ssh://{MARKER}/x"), 422, "pip_url_not_allowed", "environment.pip", "no URL and no path"),
    ("B10", pip("./x"), 422, "pip_url_not_allowed", "environment.pip", "--pip: './x'"),
    ("B10", pip("/etc/x"), 422, "pip_url_not_allowed", "environment.pip", "--pip: '/etc/x'"),
    ("B10", pip("..\\x"), 422, "pip_url_not_allowed", "environment.pip", "--pip"),
    ("B11", pip("foo=="), 422, "pip_spec_invalid", "environment.pip", "--pip: 'foo=='"),
    ("B12", pip("${HOME}"), 422, "pip_spec_invalid", "environment.pip", "--pip: '${HOME}'"),
    ("B12", pip("foo==${HOME}"), 422, "pip_spec_invalid", "environment.pip", "--pip: 'foo==${HOME}'"),
    ("B12", pip("foo; import os"), 422, "pip_spec_invalid", "environment.pip", "--pip"),
    ("B12", pip("foo\nbar"), 422, "pip_spec_invalid", "environment.pip", "--pip: 'foo\\nbar'"),
    ("B12", pip("foo\0"), 422, "pip_spec_invalid", "environment.pip", "--pip: 'foo\\x00'"),
    ("B13", pip(*["six"] * 10_000), 422, "too_many_packages", "environment.pip", "10000 packages, at most 500"),
    ("B13", pip("x" * 1_000_000), 422, "pip_spec_too_long", "environment.pip", "above 1,000 characters"),
    ("B29", run(env={"": "x"}), 422, "env_name_invalid", "env", "--env: '' is not a variable name"),
    ("B29", run(env={"1A": "x"}), 422, "env_name_invalid", "env", "--env: '1A' is not a variable name"),
    ("B29", run(env={"A B": "x"}), 422, "env_name_invalid", "env", "letters, digits and _ are allowed"),
    ("B29", run(env={"A=B": "x"}), 422, "env_name_invalid", "env", "--env: 'A=B'"),
    ("B29", run(env={"A\n": "x"}), 422, "env_name_invalid", "env", "--env: 'A\\n'"),
    *(
        ("B30", run(env={name: "x"}), 422, "env_reserved", "env", f"--env: {name} is set by the platform")
        for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "NVIDIA_VISIBLE_DEVICES", "DOCKER_HOST", "SPELL_X")
    ),
    ("B31", run(env={"A": "x" * 40_000}), 422, "env_too_large", "env", "--env: the value of A is above 32 KiB"),
    ("B31", run(env={"A": "a\0"}), 422, "env_not_text", "env", "--env A: a NUL byte at position 1"),
    ("B31", run(env={f"A{n}": "" for n in range(1001)}), 422, "too_many_env", "env", "at most 1,000 are allowed"),
    *(
        ("B50", run(save_every_seconds=value), 422, "number_out_of_range", "save_every_seconds", "from 10s to 30d")
        for value in (-1, 0, 9, 30 * 86_400 + 1)
    ),
    *(
        ("B50", run(timeout_seconds=value), 422, "number_out_of_range", "timeout_seconds", "from 1s to 366d")
        for value in (-1, 0, 10**9)
    ),
    *(
        ("B50", run(timeout_seconds=value), 422, "field_invalid", "timeout_seconds", "timeout_seconds: Input should be")
        for value in ("1", True, 1.5, [], {}, "NaN")
    ),
    *(
        ("B45", run(docker_image=value), 422, "image_ref_invalid", "docker_image", "is not the name of an image")
        for value in ("A/B:Tag", "x:", "x@sha256:zz", "x" * 300, "", "x\0")
    ),
    *(
        ("B46", run(docker_image=value), 422, "registry_not_allowed", "docker_image", "images do not come from")
        for value in ("localhost:5000/x", "10.0.0.1/x", "metadata.internal/x")
    ),
    *(
        ("B47", run(docker_image="python", environment=environment), 422, "flags_conflict", "docker_image", sentence)
        for environment, sentence in (
            ({"pip": ["six"]}, "--apt, --pip, or --pip-req cannot be specified when --from is provided. Please"),
            ({"apt": ["git"]}, "--apt, --pip, or --pip-req cannot be specified when --from is provided. Please"),
            ({"requirements": "six"}, "--apt, --pip, or --pip-req cannot be specified when --from is provided."),
            ({"conda": "dependencies: [python]"}, "Only one of the following options can be specified: --framework, "),
            ({"framework": "jax"}, "specified: --framework, --from, --conda-file"),
            ({"python": "3.12"}, "--python cannot be specified when --from is provided"),
            ({"key": "0" * 64}, "an image is the whole environment"),
        )
    ),
    ("B50", raw(b'{"command": "a", "timeout_seconds": NaN}'), 422, "field_invalid", "timeout_seconds", "found 'nan'"),
    ("B51", run(description="x" * 10_000), 422, "description_too_long", "description", "at most 4,096 are allowed"),
    ("B51", run(labels=["x" * 65]), 422, "label_too_long", "labels", "--label: 'xxx"),
    ("B51", run(labels=["a\x07"]), 422, "label_invalid", "labels", "--label: 'a\\x07': 1 to 64 characters"),
    ("B51", run(labels=["a\u202eb"]), 422, "label_invalid", "labels", "--label: 'a\\u202eb'"),
    ("B51", run(labels=["a,b"]), 422, "label_invalid", "labels", "--label: 'a,b'"),
    ("B51", run(labels=[""]), 422, "label_invalid", "labels", "--label: ''"),
    ("B51", run(labels=[str(n) for n in range(1000)]), 422, "too_many_labels", "labels", "1000 labels, at most 50"),
    ("B40", code(commit="HEAD"), 422, "commit_invalid", "code.commit", "'HEAD' is not a full commit hash"),
    ("B40", code(commit=f"--upload-pack={MARKER}"), 422, "commit_invalid", "code.commit", "code.commit"),
    ("B40", code(commit="A" * 40), 422, "commit_invalid", "code.commit", "code.commit"),
    *(
        ("B44", code(root_directory=value), 422, "root_directory_invalid", "code.root_directory", "code.root_directory")
        for value in ("", ".", "..", ".git", "a/b", "x" * 256)
    ),
    ("B44", code(root_directory="a\0"), 422, "root_directory_not_text", "code.root_directory", "NUL byte"),
    *(
        ("B44", code(cwd=value), 422, "cwd_invalid", "code.cwd", "code.cwd")
        for value in ("", "..", "a/../b", "/etc", "a//b", "x/" * 3000)
    ),
    ("B55", raw(b""), 400, "json_invalid", None, "char 0"),
    ("B55", raw(b'{"command": "a",'), 400, "json_invalid", None, "char 1"),
    ("B55", raw(b'{"command": "a"} x'), 400, "json_invalid", None, "char 17"),
    ("B55", raw(b'\xef\xbb\xbf{"command": "a"}'), 400, "json_invalid", None, "body"),
    ("B55", raw('{"command": "a"}'.encode("utf-16")), 400, "json_invalid", None, "body"),
    ("B55", raw(b'{"command": "a", "command": "b"}'), 400, "duplicate_key", None, "'command' is there twice"),
    ("B55", raw(b'{"command": "a", "env": {"A": "1", "A": "2"}}'), 400, "duplicate_key", None, "'A' is there twice"),
    ("B56", run(cpus="4"), 422, "field_invalid", "cpus", "cpus: Extra inputs are not permitted (found '4')"),
    ("B56", run(command=7), 422, "field_invalid", "command", "command: Input should be a valid string (found '7')"),
    ("B56", run(command=None), 422, "field_invalid", "command", "command: Input should be a valid string"),
    ("B56", run(env=[]), 422, "field_invalid", "env", "env: Input should be"),
    ("B56", run(env={"A": 1}), 422, "field_invalid", "env.A", "env.A: Input should be a valid string"),
    ("B56", run(labels="x"), 422, "field_invalid", "labels", "labels: Input should be"),
    ("B56", run(labels=[1]), 422, "field_invalid", "labels.0", "labels.0: Input should be a valid string"),
    ("B56", run(environment={"pipp": []}), 422, "field_invalid", "environment.pipp", "environment.pipp"),
    ("B56", run(environment=None), 422, "field_invalid", "environment", "environment: Input should be"),
    ("B56", run(**{"x" * 100_000: 1}), 422, "field_invalid", "x" * 79 + "…", "xxx…: Extra inputs"),
    ("B56", run(**{"a\nb\x1b": 1}), 422, "field_invalid", "a\\nb\\x1b", "a\\nb\\x1b: Extra inputs"),
    ("B56", raw(b"{}"), 422, "field_invalid", "command", "command: Field required"),
    ("B56", raw(b"[]"), 422, "field_invalid", None, "body: Input should be an object"),
    ("B56", raw(b"null"), 422, "field_invalid", None, "body: Input should be an object"),
    ("B57", raw(b"[" * 10_000 + b"]" * 10_000), 400, "json_invalid", None, "nested too deep"),
    ("B57", raw(b'{"command": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}"), 400, "json_invalid", None, "deep"),
    ("B57", raw(b'{"timeout_seconds": ' + b"9" * 5_000 + b"}"), 400, "json_invalid", None, "body"),
    ("B57", raw(b'{"command": "\\ud800"}'), 400, "json_invalid", None, "body"),
    ("B57", raw(b'{"\\ud800": 1}'), 400, "json_invalid", None, "body"),
    ("B53", ("POST", "/api/runs/kill", b'{"run_ids": []}'), 422, "field_invalid", "run_ids", "run_ids"),
    ("B53", ("POST", "/api/runs/kill", b'{"run_ids": [0]}'), 422, "field_invalid", "run_ids.0", "greater than or"),
    ("B53", ("POST", "/api/runs/kill", b'{"run_ids": ["1"]}'), 422, "field_invalid", "run_ids.0", "valid integer"),
    ("B53", ("POST", "/api/runs/stop", b'{"run_ids": [true]}'), 422, "field_invalid", "run_ids.0", "valid integer"),
    ("B53", ("POST", "/api/runs/stop", b'{"run_ids": [9007199254740993]}'), 422, "field_invalid", "run_ids.0", "less"),
    ("B60", ("POST", "/api/tokens", b'{"name": " "}'), 422, "name_invalid", "name", "name: ' ': 1 to 64 characters"),
    ("B60", ("POST", "/api/tokens", b'{"name": "' + b"x" * 9000 + b'"}'), 422, "name_invalid", "name", "1 to 64"),
    ("B60", ("POST", "/api/tokens", b'{"name": "a", "expires_in_seconds": 0}'), 422, "field_invalid",
     "expires_in_seconds", "greater than or equal to 1"),
    ("B60", ("POST", "/api/keys", b'{"public_key": "ssh-ed25519 x"}'), 422, "public_key_invalid", "public_key", "base64"),
    ("B60", ("POST", "/api/keys", b'{"public_key": "a\\nb"}'), 422, "public_key_invalid", "public_key", "one line"),
    ("B60", ("POST", "/api/keys", b'{"public_key": "x", "title": "' + b"x" * 5000 + b'"}'), 422, "title_invalid",
     "title", "title: 'xxx"),
    ("B51", ("PUT", "/api/repositories", b'{"root_commit": "x", "name": "a"}'), 422, "commit_invalid", "root_commit",
     "root_commit: 'x' is not a full commit hash"),
    ("B51", ("PUT", "/api/repositories", orjson.dumps({"root_commit": "a" * 40, "name": "x" * 5000})), 422,
     "name_invalid", "name", "name: 'xxx"),
]  # fmt: skip


@pytest.fixture
def pids(stage):
    return [stage.gateway.pid, stage.scheduler.process.pid, stage.storage.pid]


async def newest(client):
    _, listed = await client.ask("GET", "/api/runs", params={"limit": 1})
    return [run["id"] for run in listed["runs"]]


def numbered(rows):
    return [f"{row[0]}-{number}" for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("row", "request_", "status", "code", "field", "holds"), BODIES, ids=numbered(BODIES)
)
async def test_a_bad_body_is_refused_by_its_field_and_nothing_comes_of_it(
    client, pids, row, request_, status, code, field, holds
):
    before, started, begun = await newest(client), [children(pid) for pid in pids], time.monotonic()
    method, path, data = request_

    answered, answer = await client.ask(method, path, data=data, headers=JSON)

    took = time.monotonic() - begun
    assert (answered, answer["code"], answer["field"]) == (status, code, field), (row, answer)
    assert holds in answer["message"], (row, answer)
    sensible(answer)
    assert took < 1
    assert await newest(client) == before
    assert [children(pid) for pid in pids] == started


def sensible(answer):
    """A refusal in its one shape, short, and nothing in it that could act on a terminal."""
    assert set(answer) == {"code", "field", "message", "hint"}
    assert len(answer["message"]) < 600
    assert answer["message"].isprintable(), answer
    assert answer["field"] is None or (len(answer["field"]) <= 80 and answer["field"].isprintable())
    assert "Traceback" not in answer["message"]


@pytest.mark.parametrize("typed", ["cpus", " cpu", "CUP"])
async def test_a_type_of_machine_that_nearly_exists_is_suggested(client, typed):
    _, answer = await client.ask("POST", "/api/runs", json={"command": "true", "machine_type": typed})

    assert answer["hint"] == "Did you mean CPU?"


@pytest.mark.parametrize(
    ("headers", "data", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415, "content_type"),
        ({}, b"{}", 415, "content_type"),
        ({"Content-Type": ";0*"}, b"{}", 415, "content_type"),
        ({"Content-Type": ""}, b"{}", 415, "content_type"),
        (JSON | {"Content-Encoding": "gzip"}, gzip.compress(b" " * (64 << 20)), 415, "content_encoding"),
        (JSON | {"Content-Encoding": "deflate"}, b"x", 415, "content_encoding"),
        (JSON | {"Idempotency-Key": "x" * 129}, b"{}", 422, "idempotency_key_invalid"),
        (JSON | {"Idempotency-Key": ""}, b"{}", 422, "idempotency_key_invalid"),
        (JSON | {"Idempotency-Key": "ключ"}, b"{}", 422, "idempotency_key_invalid"),
    ],
)
async def test_a_bad_header_is_refused(client, pids, headers, data, status, code):
    before, started, begun = await newest(client), [children(pid) for pid in pids], time.monotonic()
    # aiohttp would add a type of its own where there is none.
    sent = {"Content-Type": "application/octet-stream"} | headers

    answered, answer = await client.ask("POST", "/api/runs", data=data, headers=sent)

    assert (answered, answer["code"]) == (status, code)
    sensible(answer)
    assert time.monotonic() - begun < 1
    assert await newest(client) == before
    assert [children(pid) for pid in pids] == started


# Row, method, path with query, status, code, field, what the message must hold.
PATHS = [
    *(
        ("B53", method, f"/api/runs/{bad}{rest}", 422, "run_id_invalid", "run_id", "a whole number from 1 is")
        for bad in ("abc", "0", "-1", "9e99", "1;drop", "%31%00", "%EF%BC%91", "1" * 400, "+1", "0x1")
        for method, rest in (("GET", ""), ("POST", "/stop"), ("POST", "/kill"), ("GET", "/log"), ("GET", "/follow"),
                             ("GET", "/transitions"), ("PUT", "/labels/x"))
    ),
    ("B53", "POST", "/api/runs/9007199254740992/stop", 404, "run_not_found", "run_id", "9007199254740992"),
    *(
        ("B51", "PUT", f"/api/runs/1/labels/{bad}", 422, "label_invalid", "label", "--label")
        for bad in ("%00", "a%2Cb", "a%2Fb", "%20", "%1B", "%E2%80%AE")
    ),
    ("B51", "PUT", "/api/runs/1/labels/" + "x" * 65, 422, "label_too_long", "label", "--label"),
    ("B59", "GET", "/api/runs?limit=many", 422, "number_out_of_range", "limit", "from 1 to 1000"),
    ("B59", "GET", "/api/runs?limit=", 422, "number_out_of_range", "limit", "from 1 to 1000"),
    ("B59", "GET", "/api/runs?limit=%EF%BC%91", 422, "number_out_of_range", "limit", "from 1 to 1000"),
    ("B59", "GET", "/api/runs?before=-1", 422, "number_out_of_range", "before", "before: '-1'"),
    ("B59", "GET", "/api/runs?before=1%00", 422, "number_out_of_range", "before", "before"),
    ("B59", "GET", "/api/runs?label=" + "x" * 65, 422, "label_too_long", "label", "--label"),
    ("B59", "GET", "/api/runs?" + "&".join(f"label={n}" for n in range(51)), 422, "too_many_values", "label", "most 50"),
    ("B59", "GET", "/api/runs?repository=", 422, "repository_invalid", "repository", "repository: ''"),
    ("B59", "GET", "/api/runs?repository=" + "x" * 6000, 422, "repository_invalid", "repository", "1 to 255"),
    ("B59", "GET", "/api/runs?limit=1&limit=2", 422, "query_repeated", "limit", "limit: it is given 2 times"),
    *(
        ("B59", "GET", f"/api/events?after={bad}", 400, "cursor_invalid", "after", "is no cursor")
        for bad in ("x", "1-2", "1--2-3", "-1-1-1", "1-1-1%00", "%EF%BC%91-1-1", "1-1-1" + "0" * 400,
                    "99999999999999999999-1-1", "1-99999999999999999999-1", "1-1-9999999999", "1" * 9000)
    ),
    ("B59", "GET", "/api/runs/1/follow?offset=-1", 422, "number_out_of_range", "offset", "offset: '-1'"),
    ("B59", "GET", "/api/runs/1/follow?version=1e3", 422, "number_out_of_range", "version", "version: '1e3'"),
    ("B59", "GET", "/api/runs/1/follow?tail=99999999", 422, "number_out_of_range", "tail", "tail: '99999999'"),
    ("B59", "GET", "/api/runs/1/follow?follow=maybe", 422, "flag_invalid", "follow", "follow: 'maybe': 0 or 1"),
    ("B59", "GET", "/api/runs/1/log?stream=both", 422, "choice_invalid", "stream", "all, stdout, stderr are allowed"),
    ("B59", "GET", "/api/resources?recursive=2", 422, "flag_invalid", "recursive", "recursive: '2': 0 or 1"),
    ("B59", "GET", "/api/verify?run_id=x", 422, "number_out_of_range", "run_id", "run_id: 'x'"),
    *(
        ("B60", "DELETE", f"/api/{what}/{bad}", 422, "id_invalid", "id", "a whole number is")
        for what in ("tokens", "keys") for bad in ("x", "-1", "1" * 17, "%EF%BC%91", "1%00")
    ),
    *(
        ("B23", "GET", f"/api/{what}/{bad}", 422, "path_invalid", "path", "no '..'")
        for what in ("files", "resources")
        for bad in ("runs/1/..%2F..%2Fx", "runs%2F1%2F%2E%2E%2Fx", "runs/1/a%00b", "runs//1")
    ),
    *(
        ("B23", "GET", f"/api/{what}/runs/1/" + "x" * 5000, 422, "path_invalid", "path", "at most 4096 bytes")
        for what in ("files", "resources")
    ),
    *(
        ("B22", "GET", f"/api/{what}/{bad}", 404, "resource_not_found", "path", "no such file or resource")
        for what in ("files", "resources") for bad in ("uploads/1", "public/x/y", "etc/passwd", "%EF%BC%91/1")
    ),
    *(
        ("B22", "GET", f"/api/{what}/{bad}", 422, "path_invalid", "path", "after 'runs/' comes the number of a run")
        for what in ("files", "resources") for bad in ("runs/abc", "runs/01/x")
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "method", "path", "status", "code", "field", "holds"), PATHS, ids=numbered(PATHS)
)
async def test_a_bad_path_or_query_is_refused_by_its_member(
    client, pids, row, method, path, status, code, field, holds
):
    started, begun = [children(pid) for pid in pids], time.monotonic()

    # The path goes as it is written: a client that tidies it up would send another one.
    answered, answer = await raw_request(client, method, path)

    assert (answered, answer["code"], answer["field"]) == (status, code, field), (row, answer)
    assert holds in answer["message"], (row, answer)
    sensible(answer)
    assert time.monotonic() - begun < 1
    assert [children(pid) for pid in pids] == started


async def raw_request(client, method, path):
    """A request whose target is not tidied up on its way."""
    host, port = client.session._base_url.host, client.session._base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    bearer = client.session.headers["Authorization"]
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nConnection: close\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), orjson.loads(body)


@pytest.mark.parametrize(("limit", "used"), [("0", 1), ("-1", 1), ("1000000000", 1000), ("9" * 100, 1000)])
async def test_a_limit_out_of_range_is_brought_into_it_with_a_note(client, limit, used):
    async with client.session.get("/api/runs", params={"limit": limit}) as response:
        assert response.status == 200
        assert response.headers["Spell-Note"] == f"limit: {used} is used, 1 to 1000 are allowed"
