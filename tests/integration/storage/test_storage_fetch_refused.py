"""Code that cannot be fetched, credentials for what is private, and hosts that are not well."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from integration.storage.fetching import NOTHING, PASSWORD, VIEW, VIEWS
from spell_proto.errors import RefusedError
from support import git_https
from support.git_https import ENVIRONMENT

pytestmark = pytest.mark.integration


async def test_what_is_not_there_is_said_in_one_sentence(host, source, owner):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/there")
    empty = host.url("team/empty")
    git_https.GitHttps.git("init", "-q", "--bare", str(host.repository("team/empty")))

    assert await owner.refused(url, "nowhere") == (
        "ref_not_found",
        f"{url}: there is no branch, tag or commit 'nowhere'",
    )
    missing = host.url("team/missing")
    assert await owner.refused(missing) == (
        "repository_not_found",
        f"{missing}: repository not found or private",
    )
    assert await owner.refused(empty) == ("ref_not_found", f"{empty}: the repository has no commits")
    # Nothing is listed that was never fetched.
    assert await owner.repositories() == ()


async def test_a_host_that_is_not_on_the_list_is_refused(host, owner):
    url = f"https://localhost:{host.host.partition(':')[2]}/team/x"
    host.requests.clear()

    code, message = await owner.refused(url)

    assert code == "host_not_allowed"
    assert host.host in message
    assert host.requests == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/x", "file:///etc", "https://u:p@127.0.0.1/x", "ext::sh -c id"]
)
async def test_an_address_that_is_not_plain_https_is_refused(owner, url):
    with pytest.raises(RefusedError) as refused:
        await owner.told(url)

    assert refused.value.status == 422
    assert "u:p" not in refused.value.message


async def test_a_redirect_is_not_followed(host, source, owner):
    source.commit(a=b"1")
    real = host.publish(source.work, "team/real")

    async def elsewhere(request):
        raise web.HTTPFound(real + request.path_qs.removeprefix("/team/moved"))

    host.odd["team/moved"] = elsewhere
    host.requests.clear()
    url = host.url("team/moved")

    code, message = await owner.refused(url, "main")

    assert code == "fetch_failed"
    assert message == f"{url}: it has moved to another address, which is not followed"
    assert not any("team/real" in request for request in host.requests)


async def test_a_private_repository_needs_the_credentials_of_its_host(host, source, owner, fetching):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/private")
    host.logins["team/private"] = ("robot", PASSWORD)
    path = f"/git-credentials/{host.host}"
    private = await owner.refused(url)

    wrong = await owner.api.call("PUT", path, VIEW, body={"username": "robot", "password": "wrong"})
    still_private = await owner.refused(url)
    stored = await owner.api.call("PUT", path, VIEW, body={"username": "robot", "password": PASSWORD})
    commit = await owner.fetch(url)
    listed = await owner.api.call("GET", "/git-credentials", VIEWS)
    await owner.api.call("DELETE", path, NOTHING)
    with pytest.raises(RefusedError) as removed_twice:
        await owner.api.call("DELETE", path, NOTHING)

    assert (
        private
        == still_private
        == (
            "repository_not_found",
            f"{url}: repository not found or private",
        )
    )
    assert (wrong.host, wrong.username) == (host.host, "robot")
    assert [view for view in listed.credentials if view.host == host.host] == [stored]
    assert await owner.files(commit) == {b"a": ("100644", b"1")}
    assert removed_twice.value.code == "credentials_not_found"
    assert PASSWORD not in fetching.log


async def test_a_password_is_in_no_argument_no_environment_and_no_file(host, source, owner, fetching):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/watched")
    seen, limits, asked = [], [], asyncio.Event()
    loop = asyncio.get_running_loop()

    async def watched(request):
        """Looks at all processes while git waits for an answer to what it was told."""
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    seen.append((process / name).read_bytes())
                except OSError:
                    continue
                if name == "cmdline" and b"remote-https" in seen[-1] and host.host.encode() in seen[-1]:
                    limits.append((process / "limits").read_text())
        loop.call_soon_threadsafe(asked.set)
        return web.Response(status=404)

    host.odd["team/watched"] = watched
    path = f"/git-credentials/{host.host}"
    await owner.api.call("PUT", path, VIEW, body={"username": "robot", "password": PASSWORD})

    await owner.refused(url)
    files = {
        file: file.read_bytes()
        for file in fetching.directory.rglob("*")
        if file.is_file() and not file.is_socket()
    }
    await owner.api.call("DELETE", path, NOTHING)

    assert asked.is_set()
    assert any(b"git-remote-https" in text or b"remote-https" in text for text in seen)
    assert not any(PASSWORD.encode() in text for text in seen)
    cores = [line.split()[4:6] for text in limits for line in text.splitlines() if "core file" in line]
    assert set(map(tuple, cores)) == {("0", "0")}
    assert [file for file, data in files.items() if PASSWORD.encode() in data] == []
    key = fetching.data / "git-credentials.key"
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("host_name", "body", "code"),
    [
        ("example.com", {"username": "u", "password": "p"}, "host_not_allowed"),
        (None, {"username": "", "password": "p"}, "credentials_invalid"),
        (None, {"username": "u", "password": "p\nhost=evil"}, "credentials_invalid"),
        (None, {"username": "u"}, "field_invalid"),
    ],
)
async def test_credentials_that_make_no_sense_are_refused(host, owner, host_name, body, code):
    with pytest.raises(RefusedError) as refused:
        await owner.api.call("PUT", f"/git-credentials/{host_name or host.host}", VIEW, body=body)

    assert refused.value.code == code
    assert "evil" not in refused.value.message


async def test_a_repository_above_the_limit_is_given_up_and_leaves_nothing(host, source, owner, fetching):
    source.commit(**{f"f{number}": os.urandom(4 << 20) for number in range(8)})
    url = host.publish(source.work, "team/large")

    code, message = await owner.refused(url)

    assert code == "repo_too_large"
    assert message == f"{url}: it has more than 20 MiB of history"
    (kept,) = (fetching.data / "git" / str(owner.owner_id)).iterdir()
    assert sum(file.stat().st_size for file in kept.rglob("*") if file.is_file()) < 1 << 20


async def test_a_host_that_falls_silent_is_given_up(host, owner):
    async def silent(_request):
        await asyncio.sleep(60)
        return web.Response()

    host.odd["team/silent"] = silent
    url = host.url("team/silent")

    told = await asyncio.wait_for(owner.told(url), 40)

    assert told[-1]["failed"]["code"] == "fetch_failed"
    assert {} in told or any("trying again" in line.get("line", "") for line in told)


async def test_a_host_that_fails_for_a_moment_is_asked_again(host, source, owner):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/flaky")
    tries = []

    async def flaky(_request):
        tries.append(1)
        del host.odd["team/flaky"]
        return web.Response(status=503)

    host.odd["team/flaky"] = flaky

    assert (await owner.fetch(url)).repository == "flaky"
    assert tries == [1]


async def test_objects_that_git_does_not_accept_are_not_fetched(host, source, owner):
    source.commit(a=b"1")
    blob = source.git("rev-parse", "HEAD:a")
    tree = (
        subprocess.run(
            ["git", "-C", source.work, "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
            input=b"100644 .git\0" + bytes.fromhex(blob),
            env=ENVIRONMENT,
            check=True,
            capture_output=True,
        )
        .stdout.decode()
        .strip()
    )
    source.git("update-ref", "refs/heads/main", source.git("commit-tree", "-m", "evil", tree))
    url = host.publish(source.work, "team/evil")

    assert await owner.refused(url) == (
        "fetch_failed",
        f"{url}: it holds objects that git does not accept",
    )
