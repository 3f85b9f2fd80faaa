"""conda files through the real builder, rattler, uv and a channel on this disk: content, prefix, keys and refusals."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from spell_proto.errors import InvalidError
from support.conda_packages import VERSION

pytestmark = pytest.mark.integration
DEADLINE = 30.0


def conda(*packages: str, pip: tuple[str, ...] = (), channel: str = "local") -> str:
    lines = ["name: other", f"channels: [{channel}]", "dependencies:", *(f"  - {each}" for each in packages)]
    if pip:
        lines += ["  - pip:", *(f"    - {each}" for each in pip)]
    return "\n".join(lines) + "\n"


def said(answer, program: str, *words: str) -> str:
    path = Path(answer.ready["path"]) / "bin" / program
    return subprocess.check_output([path, *words], text=True).strip()


def version(answer, module: str) -> str:
    return said(answer, "python", "-c", f"import {module}; print({module}.VERSION)")


@pytest.fixture(autouse=True)
def _packages(channel, index):
    channel.add_python()
    channel.add("alpha", "1.0")
    channel.add("alpha", "2.0", conda=True)
    channel.add("beta", "1.0", depends=("alpha <2",))
    channel.add_data("data", "3.0", depends=("alpha",))
    index.add("delta", "1.0", requires=("alpha",))
    index.add("alpha", "9.0")


async def test_a_file_gives_its_packages_with_the_path_of_their_environment_written_into_them(builder):
    answer = await builder.ensure(conda=conda("beta", "data"))
    path = answer.ready["path"]

    assert version(answer, "alpha") == "1.0"
    assert said(answer, "data") == f"{path}/share"
    assert said(answer, "beta") == "beta 1.0"
    assert Path(path, "bin", "beta").read_text().startswith(f"#!{path}/bin/python")
    assert said(answer, "python", "-c", "import sys; print(sys.prefix)") == path
    assert not os.access(path, os.W_OK) or os.geteuid() == 0
    assert any("Installed 4 conda packages" in line for line in answer.lines)


async def test_packages_of_both_formats_are_installed_and_no_file_is_shared_with_the_cache(builder):
    answer = await builder.ensure(conda=conda("alpha=2.0"))
    files = [
        path for path in Path(answer.ready["path"]).rglob("*") if path.is_file() and not path.is_symlink()
    ]

    assert version(answer, "alpha") == "2.0"
    assert {path.stat().st_nlink for path in files} == {1}


async def test_an_equal_file_is_one_environment_and_reuses_its_resolution(builder, channel):
    first = await builder.ensure(conda=conda("alpha", "data"))
    channel.add("alpha", "3.0")
    equal = await builder.ensure(conda=f"# mine\n{conda('data', 'alpha')}prefix: /srv/me\n")
    latest = await builder.ensure(conda=conda("alpha", "data"), latest=True)

    assert equal.ready == {**first.ready, "cached": True}
    assert version(latest, "alpha") == "3.0"
    assert latest.ready["key"] != first.ready["key"]


async def test_pip_installs_on_top_what_conda_has_not_installed(builder):
    below = await builder.ensure(conda=conda("alpha=1.0"))
    answer = await builder.ensure(conda=conda("alpha=1.0", pip=("delta",)))

    assert version(answer, "delta") == "1.0"
    assert version(answer, "alpha") == "1.0"  # the one of conda, not 9.0 of the index
    assert answer.ready["key"] != below.ready["key"]


async def test_a_program_of_pip_finds_its_interpreter(builder, index):
    name = "tool"
    index.add(name, "1.0", entry_point=True)
    answer = await builder.ensure(conda=conda("python", pip=(name,)))

    assert said(answer, name) == "1.0"


async def test_a_lock_gives_the_same_environment_also_when_the_channel_has_more(builder, channel):
    first = await builder.ensure(conda=conda("beta", pip=("delta",)))
    lock = (await builder.call("GET", f"/environments/{first.ready['key']}"))["lock"]
    channel.add("beta", "2.0")

    again = await builder.ensure(conda=lock)

    assert "--conda-file FILE" in lock
    assert again.ready == {**first.ready, "cached": True}


async def test_a_damaged_environment_is_built_again_as_it_was(builder):
    builder.environment["SPELL_ENVIRONMENT_CHECK_SHARE"] = "1000"
    await builder.end()
    await builder.start()
    first = await builder.ensure(conda=conda("alpha=1.0"))
    module = next(Path(first.ready["path"]).rglob("alpha.py"))
    module.chmod(0o644)
    module.write_text("VERSION = 'evil'\n")

    again = await builder.ensure(conda=conda("alpha=1.0"))

    assert again.ready["key"] == first.ready["key"]
    assert version(again, "alpha") == "1.0"
    assert any("damaged" in line for line in again.lines)


async def test_twenty_equal_requests_are_one_build(builder):
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(builder.ensure(conda=conda("beta"), run_id=each)) for each in range(20)]
    answers = [task.result() for task in asked]

    assert len({answer.ready["key"] for answer in answers}) == 1
    assert sum("Installed" in line for line in answers[0].lines) == 1


async def test_a_build_that_is_killed_leaves_nothing_that_could_be_used(builder, index, tmp_path):
    gate = tmp_path / "gate"
    index.add_from_source("slow", "1.0", gate=gate)
    asked = asyncio.create_task(builder.ensure(conda=conda("alpha=1.0", pip=("slow",))))
    async with asyncio.timeout(DEADLINE):
        while not (gate / "started").exists():
            await asyncio.sleep(0.02)
    await builder.end(signal.SIGKILL)
    broken = await asked
    (gate / "go").touch()
    await builder.start()

    answer = await builder.ensure(conda=conda("alpha=1.0", pip=("slow",)))

    assert broken.outcome is None
    assert version(answer, "alpha") == "1.0"
    assert not [each for each in (builder.data / "environments").iterdir() if each.name.startswith(".")]


async def test_what_cannot_be_solved_is_told_with_its_package_and_line(builder):
    nowhere = await builder.ensure(conda=conda("alpha", "nowhere"))
    version_missing = await builder.ensure(conda=conda("alpha>=7"))
    conflict = await builder.ensure(conda=conda("beta", "alpha=2.0"))
    pip = await builder.ensure(conda=conda("alpha", pip=("missing",)))

    assert nowhere.failure == "conda: there is no package nowhere in the channels (line 5)"
    assert version_missing.failure == (
        "conda: there is no version of alpha that is >=7 in the channels (line 4)"
    )
    assert conflict.failure.startswith("conda: the packages do not go together")
    assert "beta" in conflict.failure
    assert "alpha" in conflict.failure
    assert pip.failure == "pip: there is no package missing in the package index (conda file, line 6)"


async def test_a_package_with_another_digest_than_its_channel_tells_is_not_installed(builder, channel):
    path = channel.directory / "noarch" / "alpha-1.0-0.tar.bz2"
    path.write_bytes((channel.directory / "noarch" / "beta-1.0-0.tar.bz2").read_bytes())

    answer = await builder.ensure(conda=conda("alpha=1.0"))

    assert answer.failure == (
        "conda: the packages cannot be had: alpha-1.0-0.tar.bz2 has another SHA-256 than it should have"
    )


@pytest.mark.parametrize("channel_name", ["defaults", "file:///", "https://evil.example/x", "file:///etc"])
async def test_only_channels_of_the_operators_list_are_used(builder, channel_name):
    with pytest.raises(
        InvalidError, match=r"line 2, column 12: the channel .* is not on the operator's list"
    ) as no:
        await builder.check(conda=conda("alpha", channel=channel_name))
    with pytest.raises(InvalidError, match="is not on the operator's list"):
        await builder.check(conda=f"dependencies: ['{channel_name}::alpha']")

    assert no.value.code == "conda_channel_not_allowed"
    assert "allowed: local" in no.value.message


async def test_a_package_may_name_its_channel_and_a_file_without_channels_uses_all(builder):
    named = await builder.ensure(conda="dependencies: ['local::alpha=1.0']")
    all_of_them = await builder.ensure(conda="dependencies: ['alpha=1.0']")

    assert named.ready["key"] == all_of_them.ready["key"]


async def test_the_python_is_the_one_the_file_asks_for(builder, channel):
    channel.add_python("3.2.1")

    answer = await builder.ensure(conda=conda("python=3.2.*", "data"))
    shown = await builder.call("GET", f"/environments/{answer.ready['key']}")

    assert shown["environment"]["python"] == "CPython 3.2.1"
    assert VERSION != "3.2.1"


async def test_a_package_that_was_published_again_is_not_taken_from_the_cache(builder, channel):
    first = await builder.ensure(conda=conda("alpha=1.0"))
    channel.add("alpha", "1.0", depends=("more",))
    channel.add_data("more", "1.0")

    again = await builder.ensure(conda=conda("alpha=1.0"), latest=True)
    second = await builder.ensure(key=first.ready["key"])

    assert again.ready["key"] != first.ready["key"]
    assert said(again, "python", "-c", "import alpha; print(alpha.DEPENDS)") == "('more',)"
    assert second.ready == {**first.ready, "cached": True}


async def test_a_channel_that_is_not_there_is_told(builder, channel):
    (channel.directory / "noarch" / "repodata.json").unlink()

    answer = await builder.ensure(conda=conda("alpha"))

    assert answer.failure.startswith("conda: the packages cannot be had: could not find subdir 'noarch'")


async def test_a_plan_tells_the_exact_packages_once_they_are_known(builder):
    asked = {"conda": conda("alpha=1.0")}
    before = await builder.call("POST", "/environments/plan", **asked)
    await builder.ensure(**asked)
    after = await builder.call("POST", "/environments/plan", **asked)

    assert (before["state"], before["python"]) == ("new", "the one of the conda file")
    assert (after["state"], after["python"]) == ("ready", f"CPython {VERSION}")
    assert sorted(after["packages"]) == ["alpha==1.0", f"python=={VERSION}"]
