"""Whatever a field, a part of a path, a member of a query or a header holds: an answer below 500, within a second."""

import http.client
import json
import time
from urllib.parse import quote, quote_from_bytes

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spell_gateway.shapes import Batch, KeyRequest, RepositoryRequest, TokenRequest
from spell_proto.spec import RunRequest
from spell_proto.state import FINAL
from support.spawned import children

pytestmark = pytest.mark.integration
SECONDS_MAX = 1.0
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False, database=None
)
NASTY = [
    "", " ", "\0", "a\0b", "\x1b]52;c;x\x07", "\u202e", "\ud800", "..", "../..", "/etc/passwd", "-", "--help", "-rx",
    "$(id)", "`id`", "${HOME}", ";id", "|id", "%00", "%2e%2e%2f", "'", '"', "\\", "\r\n\r\nX: y", "null", "NaN", "-1",
    "1e999", "１２", "0x10", "9" * 400, "{}", "[]", "true", "x" * 5_000, "é" * 3_000, "\uffff", "\U0010ffff", "ǅ",
    "a@b", "foo @ file:///etc/passwd", "foo==${X}", "SPELL_X", "LD_PRELOAD", "A=B", "runs/1/../2", "s3://x",
]  # fmt: skip
TEXT = (
    st.sampled_from(NASTY)
    | st.text(max_size=60)
    | st.text(alphabet="-=./@:%${}[]<>!~;,'\"\\ ab1", max_size=40)
)
NUMBER = st.integers() | st.floats() | st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**400, -(2**63)])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
#: Values that come close, so that more than the type is looked at.
NEAR = {
    "environment": st.fixed_dictionaries({"pip": st.lists(TEXT, max_size=4)}) | st.dictionaries(TEXT, ANY, max_size=3),
    "env": st.dictionaries(TEXT, TEXT, max_size=5),
    "code": st.fixed_dictionaries(
        {}, optional={"commit": TEXT | st.just("a" * 40), "snapshot": TEXT, "root_directory": TEXT, "cwd": TEXT}
    ),
    "github": st.fixed_dictionaries({}, optional={"url": TEXT | TEXT.map("https://github.com/".__add__), "ref": TEXT}),
    "labels": st.lists(TEXT, max_size=4),
    "run_ids": st.lists(NUMBER | TEXT, max_size=4),
    "timeout_seconds": NUMBER,
    "expires_in_seconds": NUMBER,
}  # fmt: skip
BODIES = [
    ("POST", "/api/runs", RunRequest, {"command": "true", "machine_type": "fuzzed"}),
    ("POST", "/api/runs/kill", Batch, {"run_ids": [2**52]}),
    ("POST", "/api/tokens", TokenRequest, {"name": "x"}),
    ("POST", "/api/keys", KeyRequest, {"public_key": "x"}),
    ("PUT", "/api/repositories", RepositoryRequest, {"root_commit": "x", "name": "x"}),
]
FIELDS = [(method, path, field, rest) for method, path, shape, rest in BODIES for field in shape.model_fields]


class Asker:
    """One connection for all examples: a new one each would mostly measure the kernel."""

    def __init__(self, stage):
        self.pids = [stage.gateway.pid, stage.scheduler.process.pid]
        self.headers = {"Authorization": f"Bearer {stage.tokens['ada']}", "Connection": "keep-alive"}
        self.connection = http.client.HTTPConnection(stage.url.removeprefix("http://"), timeout=10)

    def ask(self, method, path, data=None, **headers):
        """The status; what must hold for every answer is looked at here."""
        started, begun = [children(pid) for pid in self.pids], time.monotonic()
        self.connection.request(method, path, body=data, headers=self.headers | headers)
        response = self.connection.getresponse()
        answer = response.read()
        took = time.monotonic() - begun

        assert response.status < 500, (method, path, data, answer)
        assert b"Traceback" not in answer
        assert took < SECONDS_MAX, (method, path, data)
        assert [children(pid) for pid in self.pids] == started
        if response.status >= 400 and method != "HEAD":
            refused = orjson.loads(answer)
            assert set(refused) == {"code", "field", "message", "hint"}
            assert refused["message"].isprintable()
            assert len(refused["message"]) < 4_000
        return response.status, answer

    def tidy(self):
        """End what was accepted, so that the next example finds the same limits."""
        _, listed = self.ask("GET", "/api/runs?limit=1000")
        waiting = [run["id"] for run in orjson.loads(listed)["runs"] if run["state"] not in FINAL]
        if waiting:
            self.ask(
                "POST",
                "/api/runs/kill",
                orjson.dumps({"run_ids": waiting}),
                **{"Content-Type": "application/json"},
            )


@pytest.fixture(scope="module")
def asker(stage):
    made = Asker(stage)
    yield made
    made.tidy()
    made.connection.close()


@pytest.mark.parametrize(
    ("method", "path", "field", "rest"), FIELDS, ids=[f"{path} {field}" for _, path, field, _ in FIELDS]
)
def test_no_value_of_a_field_makes_the_server_stumble(asker, method, path, field, rest):
    @FUZZ
    @given(value=NEAR.get(field, TEXT) | ANY)
    def holds(value):
        # A lone surrogate is written as \ud800, as any JSON writer does.
        data = json.dumps(rest | {field: value}).encode()
        status, answer = asker.ask(method, path, data, **{"Content-Type": "application/json"})

        assert status in {200, 201, 400, 409, 422}, answer

    holds()


PARTS = [
    ("GET", "/api/runs/{}"),
    ("GET", "/api/runs/{}/transitions"),
    ("GET", "/api/runs/{}/log"),
    ("GET", "/api/runs/{}/follow?follow=0"),
    ("POST", "/api/runs/{}/stop"),
    ("POST", "/api/runs/{}/kill"),
    ("PUT", "/api/runs/{}/labels/x"),
    ("DELETE", "/api/runs/{}/labels/x"),
    ("PUT", "/api/runs/9007199254740992/labels/{}"),
    ("DELETE", "/api/runs/9007199254740992/labels/{}"),
    ("GET", "/api/files/{}"),
    ("HEAD", "/api/files/{}"),
    ("GET", "/api/files/runs/{}/x"),
    ("GET", "/api/resources/{}"),
    ("GET", "/api/resources/runs/{}?recursive=1"),
    ("GET", "/api/usage/{}"),
    ("DELETE", "/api/resources/{}"),
    ("GET", "/api/links/{}"),
    ("PUT", "/api/links/{}"),
    ("DELETE", "/api/links/{}"),
    ("GET", "/api/uploads/{}"),
    ("POST", "/api/uploads/{}/files"),
    ("POST", "/api/uploads/{}/complete"),
    ("PATCH", "/api/uploads/9007199254740992/files/{}"),
    ("DELETE", "/api/uploads/9007199254740992/files/{}"),
    ("DELETE", "/api/tokens/{}"),
    ("DELETE", "/api/keys/{}"),
    ("GET", "/api/{}"),
]
MEMBERS = [
    ("/api/runs", "limit"),
    ("/api/runs", "label"),
    ("/api/runs", "repository"),
    ("/api/runs", "before"),
    ("/api/runs/9007199254740992/follow", "offset"),
    ("/api/runs/9007199254740992/follow", "version"),
    ("/api/runs/9007199254740992/follow", "tail"),
    ("/api/runs/9007199254740992/follow", "follow"),
    ("/api/runs/9007199254740992/log", "stream"),
    ("/api/events", "after"),
    ("/api/resources", "recursive"),
    ("/api/verify", "run_id"),
    ("/api/uploads/9007199254740992", "public"),
    ("/api/buckets/list", "url"),
    ("/api/buckets/object", "etag"),
]
SENT = TEXT.map(lambda text: quote(text.encode(errors="surrogatepass"), safe="")) | st.binary(
    max_size=40
).map(lambda data: quote_from_bytes(data, safe=""))
#: Never the id of a run, token or key that is there.
STRANGE = SENT.filter(lambda sent: not sent.isdigit())


@pytest.mark.parametrize(("method", "path"), PARTS, ids=[f"{method} {path}" for method, path in PARTS])
def test_no_part_of_a_path_makes_the_server_stumble(asker, method, path):
    @FUZZ
    @given(part=STRANGE)
    def holds(part):
        asker.ask(method, path.replace("{}", part))

    holds()


@pytest.mark.parametrize(("path", "name"), MEMBERS, ids=[f"{path}?{name}" for path, name in MEMBERS])
def test_no_member_of_a_query_makes_the_server_stumble(asker, path, name):
    @FUZZ
    @given(value=SENT, more=st.none() | SENT)
    def holds(value, more):
        asker.ask("GET", f"{path}?{name}={value}" + ("" if more is None else f"&{more}={value}"))

    holds()


async def test_every_member_of_every_query_is_fuzzed(client):
    _, document = await client.ask("GET", "/api/openapi.json")
    described = {
        item["name"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for item in operation.get("parameters", [])
        if item["in"] == "query"
    }

    assert described <= {name for _, name in MEMBERS}


LATIN = st.text(
    alphabet=st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Range", "/api/runs/1/log"),
        ("Range", "/api/files/runs/1/x"),
        ("If-None-Match", "/api/files/runs/1/x"),
        ("Accept", "/api/runs/1/follow?follow=0"),
        ("Authorization", "/api/me"),
        ("Idempotency-Key", "/api/runs"),
        ("Content-Type", "/api/runs"),
    ],
)
def test_no_value_of_a_header_makes_the_server_stumble(asker, name, path):
    @FUZZ
    @given(value=LATIN | st.sampled_from(["bytes=0-", "bytes=-0", "bytes=9-1", "bytes=0-1,3-4", "x" * 9_000]))
    def holds(value):
        method = "POST" if path == "/api/runs" else "GET"
        headers = {"Content-Type": "application/json"} | {name: value.strip()}
        asker.ask(method, path, b'{"command": ""}' if method == "POST" else None, **headers)

    holds()
