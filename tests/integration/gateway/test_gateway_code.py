"""Code over HTTP: which URLs are taken, who may store credentials, and what uncommitted changes a run has."""

import orjson
import pytest

from integration.gateway.test_gateway_bad_input import JSON, MARKER, newest, numbered, sensible
from spell_proto import database
from support.spawned import children

pytestmark = pytest.mark.integration
GITHUB = "https://github.com/spellrun/examples.git"


def github(url=GITHUB, **given):
    return {"command": "true", "github": {"url": url} | given}


# Row of the catalogue, body of the request, code, field, what the message must hold.
SOURCES = [
    *(
        ("B32", github(url), "github_url_scheme", "github.url", "only https:// is allowed")
        for url in (
            "file:///etc/passwd",
            f"ext::sh -c {MARKER}",
            f"EXT::sh -c {MARKER}",
            f"ssh://-oProxyCommand={MARKER}/y",
            f"-u {MARKER}",
            f"--upload-pack={MARKER}",
            "git@github.com:a/b",
            "http://github.com/a/b",
            "HTTPS://github.com/a/b",
            "github.com/a/b",
            "",
        )
    ),
    *(
        ("B33", github(url), "url_not_public", "github.url", "code is not fetched from there; allowed: github.com")
        for url in (
            "https://169.254.169.254/latest/meta-data",
            "https://localhost/a/b",
            "https://10.0.0.1/a/b",
            "https://127.1/a/b",
            "https://2130706433/a/b",
            "https://0x7f000001/a/b",
            "https://017700000001/a/b",
            "https://metadata/x",
            "https://github.com:8443/a/b",
            "https://github.com.example.org/a/b",
        )
    ),
    ("B33", github("https://[::1]/a/b"), "github_url_invalid", "github.url", "is not a URL like"),
    ("B33", github("https://[::ffff:127.0.0.1]/a/b"), "github_url_invalid", "github.url", "is not a URL like"),
    *(
        ("B34", github(url), "url_has_credentials", "github.url", "it holds credentials; an administrator can store")
        for url in ("https://ada:hunter2@github.com/a/b", "https://hunter2@github.com/a/b", "https://@github.com/a/b")
    ),
    *(
        ("B35", github(url), "github_url_invalid", "github.url", "is not a URL like https://github.com/owner")
        for url in (
            "https://github.com/a\r\nb",
            "https://github.com/a%0ab",
            "https://github.com/a b",
            "https:///host",
            "https://",
            "https://github.com",
            "https://github.com/",
            "https://github.com/../x",
            "https://github.com/a/.git",
            "https://github.com/a/b?x=1",
            "https://github.com/a/b#x",
            "https://github.com:0/a/b",
            "https://github.com:99999/a/b",
            "https://github.com/a\x00b",
            "https://gіthub.com/a/b",
        )
    ),
    ("B35", github("https://github.com/" + "x" * 5_000), "github_url_invalid", "github.url", "above 2,048 characters"),
    *(
        ("B37", github(ref=ref), "ref_invalid", "github.ref", "is not a branch, a tag or a commit hash")
        for ref in (
            f"--upload-pack={MARKER}",
            "-h",
            "a..b",
            "@{u}",
            "x y",
            "*",
            "a:b",
            "a^",
            "HEAD~1",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a.lock",
            "a\n",
            "a\x00",
            "",
            "x" * 300,
        )
    ),
    ("B39", {"command": "true", "github": {"ref": "main"}}, "field_invalid", "github.url", "github.url: Field required"),
    (
        "B08",
        github() | {"code": {"commit": "a" * 40, "root_directory": "r"}},
        "flags_conflict",
        "github",
        "not from both",
    ),
    ("B40", {"command": "true", "code": {"commit": "a" * 40, "snapshot": "x", "root_directory": "r"}},
     "commit_invalid", "code.snapshot", "'x' is not a full commit hash"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "body", "code", "field", "holds"), SOURCES, ids=numbered(SOURCES))
async def test_code_that_cannot_be_fetched_is_refused_and_nothing_comes_of_it(
    stage, client, row, body, code, field, holds
):
    pids = [stage.gateway.pid, stage.scheduler.process.pid, stage.storage.pid]
    before, started = await newest(client), [children(pid) for pid in pids]

    status, answer = await client.ask("POST", "/api/runs", data=orjson.dumps(body), headers=JSON)

    assert (status, answer["code"], answer["field"]) == (422, code, field), (row, answer)
    assert holds in answer["message"], (row, answer)
    assert "hunter2" not in orjson.dumps(answer).decode()
    sensible(answer)
    assert await newest(client) == before
    assert [children(pid) for pid in pids] == started


async def test_a_url_of_an_allowed_host_makes_a_run_whose_code_is_not_known_yet(client):
    """The host may be written in any case, and the path may end in a slash."""
    run = await client.create(github={"url": "https://GitHub.com/spellrun/examples.git/"})
    await client.ask("POST", f"/api/runs/{run['id']}/kill")

    assert run["spec"]["github"] == {"url": GITHUB, "ref": None}
    assert run["spec"]["code"] is None


async def test_a_snapshot_that_is_not_known_is_asked_for(client):
    code = {"commit": "a" * 40, "snapshot": "b" * 40, "root_directory": "r"}
    status, answer = await client.ask("POST", "/api/runs", json={"command": "true", "code": code})

    assert (status, answer["code"], answer["field"]) == (409, "commit_unknown", "code.snapshot")


async def test_a_run_without_uncommitted_changes_has_an_empty_patch_and_none_for_others(stage, client):
    run = await client.create()
    async with stage.client("bob") as bob:
        for asking, number in ((bob, run["id"]), (client, 10**15)):
            status, answer = await asking.ask("GET", f"/api/runs/{number}/patch")
            assert (status, answer["code"]) == (404, "run_not_found")
    async with client.session.get(f"/api/runs/{run['id']}/patch") as response:
        assert (response.status, response.content_type) == (200, "text/x-diff")
        assert await response.read() == b""
    await client.ask("POST", f"/api/runs/{run['id']}/kill")


async def test_credentials_are_for_administrators_and_never_shown_again(stage, client):
    """Stored, listed without the password, recorded, deleted; nobody else may even look."""
    secret = {"username": "robot", "password": "hunter2-hunter2"}
    async with stage.client("bob") as bob:
        for method, path, given in (
            ("GET", "/api/git-credentials", {}),
            ("PUT", "/api/git-credentials/github.com", {"json": secret}),
            ("DELETE", "/api/git-credentials/github.com", {}),
        ):
            status, answer = await bob.ask(method, path, **given)
            assert (status, answer["code"]) == (403, "admin_only")

    status, stored = await client.ask("PUT", "/api/git-credentials/GitHub.com", json=secret)
    assert (status, stored["host"], stored["username"]) == (200, "github.com", "robot")
    _, listed = await client.ask("GET", "/api/git-credentials")
    assert listed == {"credentials": [stored]}
    assert "hunter2" not in orjson.dumps([stored, listed]).decode()
    assert (await client.ask("DELETE", "/api/git-credentials/github.com"))[0] == 204
    status, answer = await client.ask("DELETE", "/api/git-credentials/github.com")
    assert (status, answer["code"]) == (404, "credentials_not_found")
    async with database.pool(stage.postgres.url("gateway"), "gateway") as connections:
        rows = await connections.fetch("SELECT action FROM audit WHERE subject = 'github.com' ORDER BY id")
    assert [row["action"] for row in rows] == [
        "git credentials sent",
        "git credentials withdrawn",
        "git credentials withdrawn",
    ]


@pytest.mark.parametrize(
    ("host", "body", "code", "field"),
    [
        ("a%20b", {"username": "a", "password": "b"}, "host_invalid", "host"),
        ("a%0ab", {"username": "a", "password": "b"}, "host_invalid", "host"),
        ("-oProxy", {"username": "a", "password": "b"}, "host_invalid", "host"),
        ("a:b", {"username": "a", "password": "b"}, "host_invalid", "host"),
        ("x" * 300, {"username": "a", "password": "b"}, "host_invalid", "host"),
        ("github.com", {"username": "", "password": "b"}, "secret_invalid", "username"),
        ("github.com", {"username": "a", "password": "b\nc"}, "secret_invalid", "password"),
        ("github.com", {"username": "a", "password": "x" * 2000}, "secret_invalid", "password"),
        ("github.com", {"username": "a"}, "field_invalid", "password"),
    ],
)
async def test_credentials_that_make_no_sense_are_refused(client, host, body, code, field):
    status, answer = await client.ask("PUT", f"/api/git-credentials/{host}", json=body)

    assert (status, answer["code"], answer["field"]) == (422, code, field), answer
    sensible(answer)
    assert (await client.ask("GET", "/api/git-credentials"))[1] == {"credentials": []}
