"""Packages in git repositories, public and private: fetched by storage, built by uv, and no password anywhere."""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from spell_proto.errors import InvalidError, UnavailableError
from spell_proto.http import Caller
from support import git_https, stack, stores
from support.conda_packages import Channel
from support.sources import Source

pytestmark = pytest.mark.integration

PASSWORD = "hunter2-is-the-password"


class Storage:
    """A storage service that fetches from one host."""

    def __init__(self, directory: Path, database_url: str, host: git_https.GitHttps) -> None:
        self.address = f"unix://{directory}/storage.sock"
        self.log = directory / "storage.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "SPELL_DATA_DIR": str(directory / "storage"),
            "SPELL_LISTEN": self.address,
            "SPELL_DATABASE_URL": database_url,
            "SPELL_GATEWAY_URL": "unix:///nobody",
            **host.settings,
        }
        self._socket = directory / "storage.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spell_storage"], env=self._environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while not self._socket.exists():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._socket.unlink(missing_ok=True)

    async def know(self, host: str, username: str, password: str) -> None:
        async with Caller(self.address) as caller:
            body = {"username": username, "password": password}
            await caller.call("PUT", f"/git-credentials/{host}", TypeAdapter(dict), body=body)


@pytest.fixture(name="host", scope="module")
def _host(tmp_path_factory) -> Iterator[git_https.GitHttps]:
    with git_https.serving(tmp_path_factory.mktemp("host")) as server:
        yield server


@pytest.fixture(name="storage", scope="module")
def _storage(postgres, host) -> Iterator[Storage]:
    with stack.short_directory() as directory:
        stores.same_store(postgres.url("storage"), directory / "storage" / "blobs")
        made = Storage(directory, postgres.url("storage"), host)
        made.start()
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture(autouse=True)
async def _connected(builder, storage, host):
    host.logins.clear()
    host.odd.clear()
    builder.environment["SPELL_STORAGE_URL"] = storage.address
    await builder.end()
    await builder.start()


@pytest.fixture(name="hello")
def _hello(tmp_path: Path, host) -> Source:
    source = Source(tmp_path / "hello", "hello")
    source.commit("1.0")
    source.git("tag", "-a", "v1.0", "-m", "one")
    host.publish(source.path, "team/hello")
    return source


def told(answer, program: str) -> str:
    python = f"{answer.ready['path']}/bin/python"
    return subprocess.check_output([python, "-c", program], text=True).strip()


async def test_a_package_of_a_repository_is_resolved_to_its_commit_and_the_lock_gives_it_again(
    builder, index, host, hello
):
    index.add("alpha", "1.0")
    first = hello.commit("1.1", requires=("alpha",))
    host.publish(hello.path, "team/hello")
    text = f"hello @ git+{host.url('team/hello')}  # req.txt:1\n"

    answer = await builder.ensure(requirements=text)
    lock = (await builder.call("GET", f"/environments/{answer.ready['key']}"))["lock"]
    hello.commit("1.2")
    host.publish(hello.path, "team/hello")
    again = await builder.ensure(requirements=lock)
    same = await builder.ensure(requirements=text)
    latest = await builder.ensure(requirements=text, latest=True)

    assert f"hello @ git+{host.url('team/hello')}@{first}\n" in lock
    assert "alpha==1.0 \\\n    --hash=sha256:" in lock
    assert told(answer, "import hello, alpha; print(hello.VERSION, alpha.VERSION)") == "1.1 1.0"
    assert again.ready == same.ready == {**answer.ready, "cached": True}
    assert told(latest, "import hello; print(hello.VERSION)") == "1.2"
    assert latest.ready["key"] != answer.ready["key"]


async def test_branches_tags_hashes_and_subdirectories_are_found_with_history_and_tags(
    builder, host, hello, tmp_path
):
    last = hello.commit("2.0")
    hello.git("branch", "feature/x")
    host.publish(hello.path, "team/hello")
    deep = Source(tmp_path / "deep", "deep", "python/deep")
    deep.commit("3.0")
    host.publish(deep.path, "team/deep.git")
    url = host.url("team/hello")

    tagged = await builder.ensure(requirements=f"git+{url}@v1.0#egg=hello")
    branch = await builder.ensure(requirements=f"hello @ git+{url}@feature/x")
    part = await builder.ensure(requirements=f"git+{url}@{last[:9]}")
    below = await builder.ensure(
        requirements=f"git+{host.url('team/deep.git')}#egg=deep&subdirectory=python/deep"
    )

    assert told(tagged, "import hello; print(hello.VERSION, hello.DESCRIBED)") == "1.0 v1.0"
    assert told(branch, "import hello; print(hello.DESCRIBED)").startswith("v1.0-1-g")
    assert part.ready["key"] == branch.ready["key"]
    assert told(below, "import deep; print(deep.VERSION)") == "3.0"


async def test_a_private_package_is_had_with_the_stored_password_which_stands_nowhere(
    builder, host, hello, storage
):
    host.logins["team/hello"] = ("bot", PASSWORD)
    text = f"hello @ git+{host.url('team/hello')}@v1.0  # req.txt:7\n"
    # What a build can see of the world goes into the package.
    look = "files[NAME + '.py'] += 'SEEN = %r\\n' % ({k: v for k, v in os.environ.items()},)"
    commit = hello.commit("1.5", more=look)
    host.publish(hello.path, "team/hello")

    refused = await builder.ensure(requirements=text)
    await storage.know(host.host, "bot", PASSWORD)
    wrong = await builder.ensure(requirements=text.replace("v1.0", "nowhere"))
    answer = await builder.ensure(requirements=text.replace("@v1.0", f"@{commit}"))
    told_of_it = await builder.call("GET", f"/environments/{answer.ready['key']}")

    assert refused.failure == (
        f"pip: {host.url('team/hello')}: repository not found or private (req.txt, line 7)"
    )
    assert wrong.failure.startswith(
        f"pip: {host.url('team/hello')}: there is no branch, tag or commit 'nowhere'"
    )
    seen = told(answer, "import hello; print(hello.SEEN)")
    assert "protocol.allow" in seen
    lines = [*refused.lines, *wrong.lines, *answer.lines, str(told_of_it), seen]
    logs = [builder.log.read_text(), storage.log.read_text()]
    for secret in (PASSWORD, base64.b64encode(f"bot:{PASSWORD}".encode()).decode()):
        assert not [text for text in (*lines, *logs) if secret in text]
        for where in (builder.data, storage.log.parent):
            found = subprocess.run(["grep", "-rla", secret, str(where)], capture_output=True, check=False)
            assert found.stdout == b"", found.stdout


async def test_a_repository_that_another_package_needs_is_brought_too(builder, host, hello, tmp_path):
    needs = Source(tmp_path / "needs", "needs")
    needs.commit("1.0", requires=(f"hello @ git+{host.url('team/hello')}@v1.0",))
    host.publish(needs.path, "team/needs")

    alone = await builder.ensure(requirements=f"needs @ git+{host.url('team/needs')}")
    both = await builder.ensure(
        requirements=f"needs @ git+{host.url('team/needs')}\nhello @ git+{host.url('team/hello')}@v1.0"
    )

    assert told(alone, "import needs, hello; print(hello.VERSION)") == "1.0"
    assert both.ready["key"] == alone.ready["key"]


async def test_a_branch_that_another_package_needs_is_the_one_of_now(builder, host, hello, tmp_path):
    hello.git("branch", "moving")
    host.publish(hello.path, "team/hello")
    needs = Source(tmp_path / "needs", "needs")
    needs.commit("1.0", requires=(f"hello @ git+{host.url('team/hello')}@moving",))
    host.publish(needs.path, "team/needs-moving")
    text = f"needs @ git+{host.url('team/needs-moving')}"

    # The repository is there, and has been read at another branch.
    await builder.ensure(requirements=f"hello @ git+{host.url('team/hello')}")
    first = await builder.ensure(requirements=text)
    hello.git("checkout", "-q", "moving")
    hello.commit("1.7")
    hello.git("checkout", "-q", "main")
    host.publish(hello.path, "team/hello")
    latest = await builder.ensure(requirements=text, latest=True)

    assert told(first, "import hello; print(hello.VERSION)") == "1.0"
    assert told(latest, "import hello; print(hello.VERSION)") == "1.7"


async def test_two_branches_of_one_repository_are_each_had_for_whom_they_are(builder, host, hello, tmp_path):
    hello.commit("2.0")
    hello.git("branch", "other", "v1.0")
    host.publish(hello.path, "team/hello")
    needs = Source(tmp_path / "needs", "needs")
    # Its own build needs one, and who installs it another.
    needs.commit("1.0", more="import hello; files[NAME + '.py'] += f'BUILT_WITH = {hello.VERSION!r}\\n'")
    project = (needs.path / "pyproject.toml").read_text()
    built_with = f"requires = ['hello @ git+{host.url('team/hello')}@other']"
    (needs.path / "pyproject.toml").write_text(project.replace("requires = []", built_with))
    needs.git("commit", "-qam", "build")
    host.publish(needs.path, "team/needs-two")

    answer = await builder.ensure(
        requirements=f"needs @ git+{host.url('team/needs-two')}\nhello @ git+{host.url('team/hello')}@main"
    )

    assert told(answer, "import needs, hello; print(needs.BUILT_WITH, hello.VERSION)") == "1.0 2.0"
    left = [path.name for path in (builder.data / "git").iterdir() if path.name.startswith(".")]
    assert left == []


async def test_a_repository_is_not_taken_for_another_whose_url_begins_like_it(builder, host, hello, tmp_path):
    sources = {}
    for name in ("hello-core", "hello.git.more"):
        sources[name] = Source(tmp_path / name, name.replace(".", "_").replace("-", "_"))
        sources[name].commit("5.0", requires=(f"hello @ git+{host.url('team/hello')}",))
        host.publish(sources[name].path, f"team/{name}")
    hello.commit("6.0", requires=(f"hello_core @ git+{host.url('team/hello-core')}",))
    host.publish(hello.path, "team/hello")

    answer = await builder.ensure(requirements=f"hello @ git+{host.url('team/hello')}")
    other = await builder.ensure(requirements=f"hello_git_more @ git+{host.url('team/hello.git.more')}")

    assert told(answer, "import hello, hello_core; print(hello.VERSION, hello_core.VERSION)") == "6.0 5.0"
    assert told(other, "import hello_git_more as m, hello; print(m.VERSION, hello.VERSION)") == "5.0 6.0"


async def test_a_url_with_escapes_reads_no_other_repository(builder, host, hello, tmp_path):
    secret = Source(tmp_path / "secret", "secret")
    secret.commit("9.0")
    host.publish(secret.path, "team/secret")
    await builder.ensure(requirements=f"secret @ git+{host.url('team/secret')}")
    (there,) = (builder.data / "git").glob("*.git")
    url = f"{host.url('team/hello')}%2f..%2f..%2f{there.name}"
    needs = Source(tmp_path / "needs", "needs")
    # Said by its build only.
    needs.commit("1.0", requires=(f"hello @ git+{host.url('team/hello')}", f"secret @ git+{url}"))
    host.publish(needs.path, "team/needs-escapes")

    answer = await builder.ensure(requirements=f"needs @ git+{host.url('team/needs-escapes')}")

    assert answer.failure == f"pip: a package needs {url}, which cannot be had"
    assert str(builder.data) not in answer.failure


async def test_no_address_is_asked_that_a_package_names_in_what_it_says_of_itself(builder, host, tmp_path):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        url = f"http://bot:{PASSWORD}@127.0.0.1:{port}/x-1.0-py3-none-any.whl"
        failures = []
        for key in ("project", "build-system"):
            source = Source(tmp_path / key, "static")
            source.commit("1.0")
            project = (source.path / "pyproject.toml").read_text()
            if key == "project":
                project += f'[project]\nname = "static"\nversion = "1.0"\ndependencies = ["x @ {url}"]\n'
            else:
                project = project.replace("requires = []", f'requires = ["x @ {url}"]')
            (source.path / "pyproject.toml").write_text(project)
            source.git("commit", "-qam", "static")
            host.publish(source.path, f"team/static-{key}")
            answer = await builder.ensure(requirements=f"static @ git+{host.url(f'team/static-{key}')}")
            failures.append(answer.failure)
        with contextlib.suppress(TimeoutError):
            asked.append(await asyncio.to_thread(server.accept))

    assert asked == []
    assert set(failures) == {
        (
            f"pip: x would come from http://…@127.0.0.1:{port}/x-1.0-py3-none-any.whl; "
            "a package index and git+https:// are allowed"
        )
    }


async def test_what_a_build_prints_does_not_say_what_is_fetched(builder, host, hello, tmp_path):
    private = host.url("team/hello")
    line = f"git fetch --force 'x' '{private}' '+refs/heads/main:refs/x' transport 'https' not allowed"
    line = line.replace("'x' ", "")
    bad = Source(tmp_path / "bad", "bad")
    bad.commit("1.0", more=f"import sys; sys.stderr.write({line!r} + chr(10)); raise SystemExit(3)")
    host.publish(bad.path, "team/bad")
    host.requests.clear()

    answer = await builder.ensure(requirements=f"bad @ git+{host.url('team/bad')}")

    assert "cannot be built" in answer.failure or "bad" in answer.failure
    assert not [request for request in host.requests if "team/hello" in request]


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        (
            "x @ git+https://10.0.0.1/x",
            "pip: a package needs https://10.0.0.1/x, and 10.0.0.1 is not on the operator's",
        ),
        ("x @ git+ssh://git@10.0.0.1/x", "pip: "),
        ("x @ git+file:///etc", "pip: "),
    ],
)
async def test_a_package_that_needs_what_is_not_allowed_is_refused(builder, host, tmp_path, needed, said):
    needs = Source(tmp_path / "needs", "needs")
    needs.commit("1.0", requires=(needed,))
    name = f"team/needs-{abs(hash(needed))}"
    host.publish(needs.path, name)

    answer = await builder.ensure(requirements=f"needs @ git+{host.url(name)}")

    assert answer.failure.startswith(said)


async def test_a_package_with_a_submodule_is_refused_with_its_address(builder, host, hello, tmp_path):
    source = Source(tmp_path / "sub", "sub")
    (source.path / ".gitmodules").write_text(
        f'[submodule "inner"]\n\tpath = inner\n\turl = {host.url("team/hello")}\n'
    )
    (source.path / "inner").mkdir()
    source.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},inner")
    source.commit("1.0")
    host.publish(source.path, "team/sub")

    answer = await builder.ensure(requirements=f"sub @ git+{host.url('team/sub')} # req.txt:2")

    assert answer.failure == (
        f"pip: sub has a submodule ({host.url('team/hello')}), and those are not fetched (req.txt, line 2)"
    )


async def test_only_hosts_of_the_operators_list_are_asked(builder, host):
    line = "x @ git+https://169.254.169.254/latest # req.txt:3"

    with pytest.raises(InvalidError) as refused:
        await builder.check(requirements=line)
    built = await builder.ensure(requirements=line)

    assert refused.value.code == "pip_url_not_allowed"
    assert (
        refused.value.message
        == built.failure
        == (
            "--pip-req: req.txt, line 3: the host '169.254.169.254' is not on the operator's list (SPELL_GIT_HOSTS); "
            f"allowed: {host.host}"
        )
    )


async def test_a_package_of_a_repository_goes_over_conda_packages(
    builder, host, hello, channel: Channel, index
):
    channel.add_python()
    channel.add("alpha", "1.0")
    hello.commit("4.0", requires=("alpha",))
    host.publish(hello.path, "team/hello")
    index.add("alpha", "9.0")
    file = f"dependencies:\n- alpha\n- pip:\n  - hello @ git+{host.url('team/hello')}\n"

    answer = await builder.ensure(conda=file)
    lock = (await builder.call("GET", f"/environments/{answer.ready['key']}"))["lock"]
    again = await builder.ensure(conda=lock)

    assert told(answer, "import hello, alpha; print(hello.VERSION, alpha.VERSION)") == "4.0 1.0"
    assert again.ready["key"] == answer.ready["key"]


async def test_an_environment_is_made_again_from_its_commits_where_nothing_of_it_is_left(
    builder, host, hello
):
    answer = await builder.ensure(requirements=f"hello @ git+{host.url('team/hello')}@v1.0")
    await builder.end()
    for part in ("git", "uv-cache", "environments"):
        subprocess.run(["rm", "-rf", builder.data / part], check=True)
    await builder.start()

    again = await builder.ensure(requirements=f"hello @ git+{host.url('team/hello')}@v1.0")

    assert again.ready == {**answer.ready, "cached": False}


async def test_while_storage_is_away_nothing_is_refused_for_ever(builder, host, hello, storage):
    storage.stop()
    try:
        with pytest.raises(UnavailableError):
            await builder.check(requirements=f"hello @ git+{host.url('team/hello')}")
        broken_off = await builder.ensure(requirements=f"hello @ git+{host.url('team/hello')}")
    finally:
        storage.start()

    assert broken_off.outcome is None
    assert (await builder.ensure(requirements=f"hello @ git+{host.url('team/hello')}")).ready
