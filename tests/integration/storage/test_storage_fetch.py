"""Code that is fetched from other hosts: a real git server over https, public and private, well and unwell."""

import asyncio
import hashlib
import itertools
import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import TypeAdapter

from integration.storage.git_people import ENVIRONMENT, REPOSITORIES, files_of, pack_of
from spell_proto.errors import RefusedError
from spell_proto.http import Caller
from spell_proto.views import Commit, GitCredentialsList, GitCredentialsView, GitHosts, Repository
from support import git_https, stack

pytestmark = pytest.mark.integration

_owners = itertools.count(9_000)
HOSTS = TypeAdapter(GitHosts)
VIEW = TypeAdapter(GitCredentialsView)
VIEWS = TypeAdapter(GitCredentialsList)
NOTHING = TypeAdapter(dict)
PASSWORD = "s3cret-of-a-test"


@dataclass
class Source:
    """A repository on somebody's disk that is published elsewhere."""

    work: Path

    def git(self, *arguments):
        return git_https.GitHttps.git("-C", str(self.work), *arguments).strip()

    def commit(self, **files):
        for name, data in files.items():
            (self.work / name).write_bytes(data)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def source(tmp_path):
    made = Source(tmp_path / "source")
    git_https.GitHttps.git("init", "-q", "-b", "main", str(made.work))
    return made


@pytest.fixture(scope="module")
def host():
    with stack.short_directory() as directory, git_https.serving(directory) as server:
        yield server


@pytest.fixture(scope="module")
def fetching(postgres, host, module_storage):
    """A service that may fetch from that host, and gives up soon."""
    return module_storage(
        postgres.url("storage"),
        **host.settings,
        SPELL_GIT_SILENT_SECONDS_MAX="2",
        SPELL_GIT_FETCH_BYTES_MAX=str(20 << 20),
    )


@dataclass
class Owner:
    """Somebody who asks for code."""

    api: Caller
    owner_id: int = field(default_factory=lambda: next(_owners))

    async def told(self, url, ref=None):
        """Everything that is said about a fetch."""
        body = json.dumps({"url": url, "ref": ref}).encode()
        async with self.api.open(
            "POST",
            f"/code/{self.owner_id}/fetch",
            data=body,
            headers={"Content-Type": "application/json"},
            stream=True,
        ) as response:
            assert response.content_type == "application/x-ndjson"
            return [json.loads(line) for line in (await response.read()).splitlines()]

    async def fetch(self, url, ref=None):
        last = (await self.told(url, ref))[-1]
        assert "ready" in last, last
        return Commit.model_validate(last["ready"])

    async def refused(self, url, ref=None):
        """Code and sentence of why it cannot be fetched."""
        last = (await self.told(url, ref))[-1]
        assert "failed" in last, last
        return last["failed"]["code"], last["failed"]["message"]

    async def repositories(self):
        path = f"/code/{self.owner_id}/repositories"
        return (await self.api.call("GET", path, REPOSITORIES)).repositories

    async def files(self, commit):
        at = Repository.model_construct(id=commit.repository_id)
        return await files_of(self.api, self, at, commit.commit)


@pytest.fixture
async def owner(fetching):
    async with fetching.client() as api:
        yield Owner(api)


async def test_a_branch_a_tag_and_a_hash_are_fetched_with_their_history(host, source, owner):
    first = source.commit(a=b"1")
    source.git("tag", "-a", "v1", "-m", "one")
    source.git("tag", "light")
    source.git("checkout", "-q", "-b", "feature/x")
    second = source.commit(a=b"2")
    url = host.publish(source.work, "team/refs.git")

    found = {
        ref: (await owner.fetch(url, ref)).commit
        for ref in ("main", "feature/x", "v1", "light", "refs/tags/v1", first, second[:9], "HEAD")
    }
    commit = await owner.fetch(url, "feature/x")
    head, _ = await pack_of(owner.api, owner, Repository.model_construct(id=commit.repository_id), second)

    assert found == {
        "main": first,
        "feature/x": second,
        "v1": first,
        "light": first,
        "refs/tags/v1": first,
        first: first,
        second[:9]: second,
        "HEAD": second,
    }
    assert commit.repository == "refs"
    assert await owner.files(commit) == {b"a": ("100644", b"2")}
    assert [name for name, _ in head.tags] == ["v1"]


async def test_without_a_ref_it_is_master_and_otherwise_the_default_branch(host, source, owner):
    main = source.commit(a=b"1")
    url = host.publish(source.work, "team/default")
    of_main = await owner.fetch(url)
    source.git("checkout", "-q", "-b", "master")
    master = source.commit(a=b"2")
    source.git("checkout", "-q", "main")
    host.publish(source.work, "team/default")

    of_master = await owner.fetch(url)

    assert (of_main.commit, of_master.commit) == (main, master)


async def test_a_full_hash_that_is_here_needs_no_network_and_a_branch_is_asked_for_anew(host, source, owner):
    first = source.commit(a=b"1")
    url = host.publish(source.work, "team/cached")
    await owner.fetch(url, "main")
    host.requests.clear()

    again = await owner.fetch(url, first)
    asked_for_hash = list(host.requests)
    same = await owner.fetch(url, "main")
    asked_for_same = list(host.requests)
    second = source.commit(a=b"2")
    host.publish(source.work, "team/cached")
    moved = await owner.fetch(url, "main")

    assert asked_for_hash == []
    assert (again.commit, same.commit, moved.commit) == (first, first, second)
    # Its refs, but no objects.
    assert len(asked_for_same) == 2
    assert await owner.files(again) == {b"a": ("100644", b"1")}


async def test_a_branch_that_was_rewritten_or_replaced_by_a_directory_is_followed(host, source, owner):
    source.commit(a=b"1")
    source.git("branch", "topic")
    url = host.publish(source.work, "team/rewritten")
    old = await owner.fetch(url, "topic")
    source.git("commit", "-q", "--amend", "-m", "another")
    source.git("branch", "-D", "topic")
    source.git("branch", "topic/deeper")
    new = source.git("rev-parse", "HEAD")
    host.publish(source.work, "team/rewritten")

    fetched = await owner.fetch(url, "topic/deeper")

    assert fetched.commit == new
    assert await owner.files(old) == {b"a": ("100644", b"1")}
    assert (await owner.refused(url, "topic"))[0] == "ref_not_found"


async def test_a_commit_on_no_branch_is_fetched_by_its_hash(host, source, owner):
    source.commit(a=b"1")
    lost = source.commit(a=b"lost")
    source.git("branch", "gone")
    url = host.publish(source.work, "team/lost")
    source.git("checkout", "-q", "-B", "main", "HEAD~")
    source.git("branch", "-D", "gone")
    host.publish(source.work, "team/lost")

    assert (await owner.fetch(url, lost)).commit == lost
    code, message = await owner.refused(url, "5" * 40)
    assert (code, message) == ("ref_not_found", f"{url}: there is no commit {'5' * 40}")


async def test_a_beginning_of_several_hashes_is_ambiguous(host, source, owner):
    source.commit(a=b"1")
    tree = source.git("rev-parse", "HEAD^{tree}")
    texts = [
        f"tree {tree}\nauthor x <x@y> {second} +0000\ncommitter x <x@y> {second} +0000\n\nx\n".encode()
        for second in range(2_000)
    ]
    names = [hashlib.sha1(b"commit %d\0" % len(text) + text).hexdigest() for text in texts]
    starts = Counter(name[:4] for name in names)
    start = next(start for start, count in starts.items() if count == 2)
    for text, name in zip(texts, names, strict=True):
        if name.startswith(start):
            subprocess.run(
                ["git", "-C", source.work, "hash-object", "-t", "commit", "-w", "--stdin"],
                input=text,
                env=ENVIRONMENT,
                check=True,
                capture_output=True,
            )
            source.git("branch", f"b{name}", name)
    url = host.publish(source.work, "team/ambiguous")

    code, message = await owner.refused(url, start)

    assert (code, message) == ("ref_ambiguous", f"{url}: 2 commits begin with {start}")
    assert (await owner.refused(url, "0000"))[0] == "ref_not_found"


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
    assert listed.credentials == (stored,)
    assert await owner.files(commit) == {b"a": ("100644", b"1")}
    assert removed_twice.value.code == "credentials_not_found"
    assert PASSWORD not in fetching.log


async def test_a_password_is_in_no_argument_no_environment_and_no_file(host, source, owner, fetching):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/watched")
    seen, asked = [], asyncio.Event()
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


async def test_those_who_ask_at_once_share_one_fetch(host, source, owner):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/shared")
    host.requests.clear()

    commits = await asyncio.gather(*(owner.fetch(url, "main") for _ in range(8)))

    assert len(set(commits)) == 1
    assert sum("git-upload-pack" in line for line in host.requests if "team/shared" in line) <= 6


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


async def test_fetched_repositories_are_listed_with_their_address(host, source, owner):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/listed.git")
    commit = await owner.fetch(url)

    (listed,) = await owner.repositories()

    assert (listed.id, listed.name, listed.url, listed.remote_url, listed.root_commit) == (
        commit.repository_id,
        "listed",
        url,
        "",
        None,
    )
    # What was fetched was not pushed: the command line goes on to push its own.
    with pytest.raises(RefusedError) as refused:
        await owner.api.call("GET", f"/code/{owner.owner_id}/commits/{commit.commit}", TypeAdapter(Commit))
    assert refused.value.code == "commit_unknown"


async def test_the_hosts_are_told(host, owner):
    assert (await owner.api.call("GET", "/git-hosts", HOSTS)).hosts == (host.host,)
