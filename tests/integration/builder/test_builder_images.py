"""Environments of the docker engine through the real builder and a real daemon: layers, their reuse, and their loss."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from spell_builder.docker import BUILD
from spell_proto.docker import MANAGED
from spell_proto.errors import ConflictError, NotFoundError
from support import docker as daemons
from support import web
from support.builder_process import Answer, BuilderProcess
from support.debian_packages import Repository

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="function")]

PYTHON = "3.11.2"


@pytest.fixture
def repository(tmp_path) -> Repository:
    made = Repository(tmp_path / "debian")
    made.add("cow", "1.0")
    made.add("cow", "2.0")
    made.add("farm", "1:1.0", Depends="cow (>= 2)")
    made.add("wolf", "1.0", Conflicts="cow")
    return made


@pytest.fixture
def base(docker, repository) -> Iterator[str]:
    """An image with packages of the test's own for apt."""
    with web.files(repository.directory) as port:
        image = f"spell-tests/own:{time.time_ns()}"
        docker.derive(image, daemons.BASE, {"etc/apt/sources.list": repository.sources(port)})
        try:
            yield image
        finally:
            with contextlib.suppress(RuntimeError):
                docker.ask("DELETE", f"/images/{image}?force=1")


@pytest.fixture
async def builder(builder, docker, base, index) -> AsyncIterator[BuilderProcess]:
    """A builder with a daemon. What it has made there goes with it."""
    index.add("alpha", "1.0", entry_point=True)
    index.add("alpha", "2.0", entry_point=True)
    index.add("beta", "1.0", requires=("alpha<2",))
    with web.files(index.directory) as port:
        await builder.end(signal.SIGTERM)
        builder.environment |= {
            "UV_DEFAULT_INDEX": f"http://127.0.0.1:{port}/simple",
            "SPELL_DOCKER_SOCKET": str(docker.socket),
            "SPELL_DOCKER_IMAGE": base,
        }
        await builder.start()
        try:
            yield builder
        finally:
            await builder.end(signal.SIGTERM)
            for name in made(builder, docker):
                docker.ask("DELETE", f"/images/{name}?force=1")


async def ask(builder: BuilderProcess, *pip: str, **more) -> Answer:
    return await builder.ensure(*pip, engine="docker", **more)


def parts(docker, image: str) -> list[str]:
    """The layers that an image consists of."""
    return docker.ask("GET", f"/images/{image}/json")["RootFS"]["Layers"]


def made(builder, docker) -> set[str]:
    return set(docker.images(builder.label))


def left(builder, docker) -> list[str]:
    return [found["Id"] for found in docker.containers(builder.label) if found["Labels"][MANAGED] == BUILD]


def busy(builder, docker, command: str) -> bool:
    """Whether a build is at a command."""
    for container in left(builder, docker):
        with contextlib.suppress(RuntimeError):
            if command in str(docker.ask("GET", f"/containers/{container}/top")):
                return True
    return False


async def test_system_and_pip_packages_are_in_an_image_with_python_on_its_path(builder, docker):
    answer = await ask(builder, "beta", apt=["farm"])
    image = answer.ready["path"]

    said = docker.said(
        image,
        "which python pip; pip --version; farm; cow; alpha; python -c 'import beta; print(beta.VERSION)'",
    ).splitlines()
    assert said[:2] == ["/opt/spell/environment/bin/python", "/opt/spell/environment/bin/pip"]
    assert said[2].startswith("pip ")
    assert said[3:] == ["farm 1:1.0", "cow 2.0", "1.0", "1.0"]
    assert docker.ask("GET", "/images/spell-environment:" + answer.ready["key"] + "/json")["Id"] == image
    assert any("beta==1.0" in line for line in answer.lines)
    assert (await builder.verify()).ok
    assert not left(builder, docker)


async def test_a_request_that_names_no_framework_gets_the_default_one(builder, docker, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[frameworks.greek]\nsummary = "Letters"\npackages = ["alpha"]\ncommon = false\n')
    builder.environment |= {"SPELL_FRAMEWORKS": str(own), "SPELL_DEFAULT_FRAMEWORK": "greek==1.0"}
    await builder.end()
    await builder.start()

    plan = await builder.call("POST", "/environments/plan?engine=docker", pip=["beta"])
    plain = await ask(builder)
    named = await ask(builder, framework="greek==2.0")

    assert plan["framework"] == "greek"
    assert docker.said(plain.ready["path"], "alpha").strip() == "1.0"
    assert docker.said(named.ready["path"], "alpha").strip() == "2.0"


async def test_what_an_image_says_of_itself_is_what_its_base_says_and_holds_no_secret(builder, docker, base):
    builder.environment["SPELL_HTTP_PROXY"] = "http://user:secret@127.0.0.1:9/"
    builder.environment["SPELL_NO_PROXY"] = "127.0.0.1"
    await builder.end()
    await builder.start()
    image = (await ask(builder, "alpha", apt=["cow"])).ready["path"]

    about, before = (docker.ask("GET", f"/images/{name}/json") for name in (image, base))
    assert about["Config"]["Cmd"] == before["Config"]["Cmd"]
    assert not about["Config"]["Entrypoint"]
    assert "secret" not in str(about) + str(docker.ask("GET", f"/images/{image}/history"))
    assert (
        docker.said(
            image,
            "find / -xdev -path /proc -prune -o -type f -newer /etc/os-release -print0 | xargs -0 grep -l user:secret",
        )
        == ""
    )


async def test_layers_are_shared_and_one_more_package_builds_nothing_below(builder, docker):
    one = (await ask(builder, "alpha<2", apt=["cow"])).ready["path"]
    other = await ask(builder, "alpha<2", "beta", apt=["cow"])
    none = (await ask(builder, apt=["cow"])).ready

    assert none["cached"]
    assert parts(docker, one)[:-1] == parts(docker, other.ready["path"])[:-1] == parts(docker, none["path"])
    assert builder.log.read_text().count('"event":"environment built"') == 4  # bare, apt, and two with pip
    assert not any("cow" in line for line in other.lines), "the system packages are not even looked at again"


async def test_an_equal_request_is_answered_at_once_and_gets_the_same_versions(builder, repository):
    first = (await ask(builder, apt=["cow"])).ready
    repository.add("cow", "3.0")

    begun = time.monotonic()
    again = (await ask(builder, apt=["cow"])).ready
    seconds = time.monotonic() - begun
    latest = (await ask(builder, apt=["cow"], latest=True)).ready

    assert again == {**first, "cached": True}
    assert seconds < 1.0
    assert latest["key"] != first["key"]
    lock = (await builder.call("GET", f"/environments/{latest['key']}"))["lock"]
    assert "# apt: cow=3.0 all sha256:" in lock


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["cows"], "apt: unable to locate package cows; did you mean cow?"),
        (["nosuchpkg"], "apt: unable to locate package nosuchpkg"),
        (["cow>2.0"], "apt: there is no version of cow that is >2.0; there is: 2.0, 1.0"),
        (["cow==2.0", "cow<2"], "apt: there is no version of cow that is ==2.0 and <2; there is: 2.0, 1.0"),
        (["cow", "wolf"], "apt: the packages do not go together: wolf: Conflicts: cow"),
        (["farm", "cow==1.0"], "apt: the packages do not go together: farm: Depends: cow (>= 2)"),
    ],
)
async def test_what_apt_cannot_do_is_told_in_one_sentence(builder, docker, asked, sentence):
    assert (await ask(builder, apt=asked)).failure.startswith(sentence)
    assert not left(builder, docker)


async def test_a_package_that_fails_while_it_is_installed_leaves_nothing(builder, docker, repository):
    await ask(builder)
    before = made(builder, docker)
    repository.add("broken", "1.0", script="echo the cow jumped over the moon >&2; exit 3")

    answer = await ask(builder, apt=["broken"], latest=True)

    assert answer.failure.startswith("apt: Sub-process /usr/bin/dpkg returned an error code")
    assert any("the cow jumped over the moon" in line for line in answer.lines)
    assert made(builder, docker) == before
    assert not left(builder, docker)


async def test_pip_complains_as_it_does_elsewhere(builder):
    assert (await ask(builder, "nosuch")).failure == "pip: there is no package nosuch in the package index"


async def test_equal_requests_at_once_are_one_build(builder):
    answers = await asyncio.gather(*(ask(builder, "alpha", apt=["cow"], run_id=n) for n in range(8)))

    assert len({answer.ready["path"] for answer in answers}) == 1
    assert builder.log.read_text().count('"event":"environment built"') == 3  # bare, apt, pip
    assert all(any("alpha==2.0" in line for line in answer.lines) for answer in answers)


async def test_a_builder_that_is_killed_leaves_nothing_and_builds_again(builder, docker, repository):
    await ask(builder)
    before = made(builder, docker)
    repository.add("slow", "1.0", script="sleep 300")
    asking = asyncio.create_task(ask(builder, apt=["slow"], latest=True))
    await _until(lambda: busy(builder, docker, "sleep 300"))

    await builder.end(signal.SIGKILL)
    await asking
    assert left(builder, docker), "the daemon goes on"
    repository.lose("slow")
    repository.add("slow", "1.0")
    await builder.start()

    assert not left(builder, docker)
    assert made(builder, docker) == before
    answer = await ask(builder, apt=["slow"], latest=True)
    assert docker.said(answer.ready["path"], "slow") == "slow 1.0\n"


async def test_a_build_that_nobody_waits_for_any_more_is_ended(builder, docker, repository):
    builder.environment["SPELL_UNAWAITED_SECONDS"] = "0.2"
    await builder.end()
    await builder.start()
    await ask(builder)
    repository.add("slow", "1.0", script="sleep 300")
    asking = asyncio.create_task(ask(builder, apt=["slow"], latest=True))
    await _until(lambda: busy(builder, docker, "sleep 300"))

    asking.cancel()

    await _until(lambda: not left(builder, docker))


@pytest.mark.parametrize("loss", ["removed", "replaced"])
async def test_an_image_that_is_gone_or_not_what_was_built_is_built_again(builder, docker, base, loss):
    first = (await ask(builder, "alpha", apt=["cow"])).ready
    name = f"spell-environment:{first['key']}"
    if loss == "removed":
        docker.ask("DELETE", f"/images/{name}?force=1")
    else:
        repository, _, tag = name.partition(":")
        docker.ask("POST", f"/images/{base}/tag?repo={repository}&tag={tag}")

    with pytest.raises(NotFoundError):
        await builder.resolved("alpha", engine="docker", apt=("cow",))
    again = await ask(builder, "alpha", apt=["cow"])

    assert again.ready["key"] == first["key"]
    assert again.ready["cached"] is False
    assert docker.said(again.ready["path"], "alpha; cow") == "2.0\ncow 2.0\n"
    assert (await builder.verify()).ok


@pytest.mark.parametrize(("variable", "believed"), [("LC_TIME=C", False), ("", True)])
async def test_an_image_of_another_builder_counts_if_it_is_configured_as_ours_would_be(
    builder, docker, variable, believed
):
    first = (await ask(builder, "alpha")).ready
    name = f"spell-environment:{first['key']}"
    about = docker.ask("GET", f"/images/{name}/json")["Config"]
    config = {"Labels": {**about["Labels"], "com.spellrun.builder": "another"}}
    config["Env"] = [*about["Env"], *filter(None, [variable])]
    container = docker.ask("POST", "/containers/create", {"Image": name})["Id"]
    theirs = docker.ask(
        "POST", f"/commit?container={container}&repo=spell-environment&tag={first['key']}", config
    )
    docker.ask("DELETE", f"/containers/{container}?v=1")
    try:
        again = (await ask(builder, "alpha")).ready
    finally:
        with contextlib.suppress(RuntimeError):
            docker.ask("DELETE", f"/images/{theirs['Id']}?force=1")

    assert again["cached"] is believed
    assert (again["path"] == theirs["Id"]) is believed
    assert (await builder.verify()).ok


async def test_a_lock_brings_the_same_image_back_although_newer_versions_exist(
    builder, docker, repository, index
):
    first = (await ask(builder, "alpha", apt=["cow"])).ready
    docker.ask("DELETE", f"/images/{first['path']}?force=1")
    repository.add("cow", "3.0")
    index.add("alpha", "3.0", entry_point=True)

    exactly = await ask(builder, "alpha", apt=["cow"], key=first["key"])

    assert exactly.ready["key"] == first["key"]
    assert docker.said(exactly.ready["path"], "alpha; cow") == "2.0\ncow 2.0\n"


async def test_conda_packages_and_pip_over_them_are_layers_too(builder, docker, channel):
    channel.add_python(PYTHON, real="/usr/bin/python3.11")
    channel.add("gamma", "1.5", conda=True)
    channel.add_data("data", "3.0")
    text = "dependencies:\n  - python\n  - gamma\n  - data\n  - pip:\n    - beta\n"

    image = (await ask(builder, conda=text, apt=["cow"])).ready["path"]

    said = docker.said(image, "which python; gamma; data; alpha; cow; echo $CONDA_PREFIX $CONDA_DEFAULT_ENV")
    assert said.splitlines() == [
        "/opt/spell/conda/bin/python",
        "gamma 1.5",
        "/opt/spell/conda/share",
        "1.0",
        "cow 2.0",
        "/opt/spell/conda spell",
    ]


async def test_what_a_base_image_lacks_is_added_from_its_own_index(builder, docker, base, repository):
    docker.derive(f"{base}-bare", base, {}, without=("/usr/bin/git",))
    repository.add("git", "9:1.0")
    builder.environment["SPELL_DOCKER_IMAGE"] = f"{base}-bare"
    await builder.end()
    await builder.start()

    ready = (await ask(builder)).ready

    assert docker.said(ready["path"], "git") == "git 9:1.0\n"
    assert "# base: git=9:1.0 all" in (await builder.call("GET", f"/environments/{ready['key']}"))["lock"]


async def test_a_python_that_is_not_there_is_refused_with_those_that_are(builder):
    assert "there is no Python 3.19" in (await ask(builder, python="3.19")).failure
    assert (await ask(builder, python="3.11")).ready


async def test_layers_are_listed_measured_and_only_removed_when_nothing_stands_on_them(
    builder, docker, active
):
    active |= {1, 2}
    top = (await ask(builder, "alpha", apt=["cow"])).ready["key"]
    apt = (await ask(builder, apt=["cow"], run_id=2)).ready["key"]
    listed = {each["key"]: each for each in (await builder.call("GET", "/environments"))["environments"]}
    assert listed[top]["ready"]
    assert listed[apt]["ready"]

    with pytest.raises(ConflictError, match="used by run"):
        await builder.call("DELETE", f"/environments/{apt}")
    active.clear()
    with pytest.raises(ConflictError, match="a layer of others"):
        await builder.call("DELETE", f"/environments/{apt}")
    assert (await builder.call("DELETE", f"/environments/{top}"))["keys"] == [top]
    removed = await builder.call("POST", "/environments/collect?everything=1")

    assert apt in removed["keys"]
    assert not any(name.endswith(apt) for name in made(builder, docker))


async def test_without_a_daemon_it_is_said_what_is_missing(builder):
    builder.environment["SPELL_DOCKER_SOCKET"] = "/nowhere/docker.sock"
    await builder.end()
    await builder.start()

    answer = await ask(builder, apt=["cow"])

    assert "no Docker daemon answers at /nowhere/docker.sock" in answer.failure


async def _until(true, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.05)
