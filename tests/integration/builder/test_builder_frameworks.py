"""Frameworks of an operator's own file, resolved and installed from an index on this disk."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from spell_proto.errors import InvalidError
from support import web
from support.authority import loopback
from support.packages import Index

pytestmark = pytest.mark.integration
TABLE = """
common = ["shared"]

[frameworks.greek]
summary = "Letters"
aliases = ["letters"]
packages = ["alpha", "beta"]
note = "alpha 0.1 is gone"
cuda = { packages = ["alpha-cuda"] }

[frameworks.old]
summary = "Needs a Python that nobody has"
packages = ["alpha"]
python = "<3.0,>2.9"

[frameworks.heavy]
summary = "Needs more than Python"
packages = ["alpha"]
apt = ["libalpha1"]

[frameworks.boxed]
summary = "An image"
image = "boxed/boxed:1"

[frameworks.far]
summary = "Has an index that nobody can reach"
packages = ["alpha"]
indexes = ["https://127.0.0.1:9/simple"]
"""


@pytest.fixture(name="own")
async def _own(builder, index, tmp_path) -> Path:
    for name in ("alpha", "beta", "shared", "alpha-cuda"):
        index.add(name, "1.0")
    index.add("alpha", "2.0")
    own = tmp_path / "own.toml"
    own.write_text(TABLE)
    await _with(builder, own)
    return own


async def _with(builder, own: Path) -> None:
    builder.environment["SPELL_FRAMEWORKS"] = str(own)
    await builder.end()
    await builder.start()


def versions(path: str, *modules: str) -> list[str]:
    program = f"import {', '.join(modules)}; print({', '.join(f'{each}.VERSION' for each in modules)})"
    return subprocess.check_output([f"{path}/bin/python", "-c", program], text=True).split()


@pytest.mark.usefixtures("own")
async def test_a_framework_is_its_packages_with_more_of_ones_own(builder, index):
    index.add("extra", "1.0", requires=("alpha<2",))

    plain = await builder.ensure(framework="letters")
    more = await builder.ensure("extra", framework="greek")
    file = await builder.ensure(requirements="alpha==1.0\n", framework="greek")

    assert versions(plain.ready["path"], "alpha", "beta", "shared") == ["2.0", "1.0", "1.0"]
    assert "--framework greek: alpha 0.1 is gone" in plain.lines
    assert versions(more.ready["path"], "alpha", "beta", "extra") == ["1.0", "1.0", "1.0"]
    assert versions(file.ready["path"], "alpha", "beta") == ["1.0", "1.0"]


@pytest.mark.usefixtures("own")
async def test_a_version_is_chosen_and_one_that_is_not_there_is_named(builder):
    old = await builder.ensure(framework="greek==1.0")
    none = await builder.ensure(framework="greek==7.0")

    assert versions(old.ready["path"], "alpha") == ["1.0"]
    assert "alpha 0.1 is gone" not in " ".join(old.lines)
    assert none.failure == (
        "pip: there is no version of alpha==7.0 in the package index for this Python (--framework greek)"
    )


@pytest.mark.usefixtures("own")
async def test_a_machine_with_gpus_gets_its_variant(builder):
    answer = await builder.ensure(framework="greek", accelerator="cuda")

    assert versions(answer.ready["path"], "alpha_cuda", "shared") == ["1.0", "1.0"]


@pytest.mark.usefixtures("own")
async def test_equal_packages_are_one_environment_whatever_they_were_asked_as(builder):
    named = await builder.ensure(framework="greek")
    listed = await builder.ensure("alpha", "beta", "shared")

    assert listed.ready == {**named.ready, "cached": True}


async def test_a_table_that_says_something_else_is_resolved_again(builder, own):
    before = await builder.ensure(framework="greek")
    other = await builder.ensure(framework="far")
    own.write_text(TABLE.replace('"alpha", "beta"', '"beta"'))
    await _with(builder, own)

    await builder.call("POST", "/environments/plan", framework="greek")
    after = await builder.ensure(framework="greek")
    same = await builder.ensure(framework="far")

    assert after.ready["key"] != before.ready["key"]
    assert same.ready == {**other.ready, "cached": True}


@pytest.mark.usefixtures("own")
async def test_an_index_of_a_framework_that_cannot_be_reached_is_done_without(builder):
    answer = await builder.ensure(framework="far")

    assert versions(answer.ready["path"], "alpha") == ["2.0"]
    assert "https://127.0.0.1:9/simple cannot be read; going on without it" in answer.lines


async def test_of_all_indexes_of_a_framework_the_newest_version_counts_also_in_its_lock(
    builder, own, tmp_path
):
    other = Index(tmp_path / "other")
    other.add("alpha", "2.0+cpu", text="small")
    other.add("beta", "0.5")
    trusted, context = loopback(tmp_path)
    with web.files(other.directory, context) as port:
        own.write_text(
            TABLE.replace(
                '"alpha", "beta"]', f'"alpha", "beta"]\nindexes = ["https://127.0.0.1:{port}/simple"]'
            )
        )
        builder.environment |= {"SPELL_INDEX_HOSTS": f"127.0.0.1:{port}", "SPELL_CA_BUNDLE": str(trusted)}
        await _with(builder, own)

        named = await builder.ensure(framework="greek")
        lock = (await builder.call("GET", f"/environments/{named.ready['key']}"))["lock"]
        again = await builder.ensure(requirements=lock)

    assert versions(named.ready["path"], "alpha", "beta") == ["2.0+cpu", "1.0"]
    assert again.ready == {**named.ready, "cached": True}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("asked", "code", "sentence"),
    [
        (
            {"framework": "greak"},
            "framework_unknown",
            "there is no framework greak. There is: default, boxed,",
        ),
        (
            {"framework": "old"},
            "python_unknown",
            "--framework old: it needs Python <3.0,>2.9, and there is none",
        ),
        (
            {"framework": "boxed", "pip": ["x"], "python": "3.12"},
            "flags_conflict",
            "boxed is an image with everything in it, so --pip and --python cannot be specified with it",
        ),
    ],
)
async def test_what_cannot_be_had_is_refused_before_anything_starts(builder, asked, code, sentence):
    with pytest.raises(InvalidError) as refused:
        await builder.check(**asked)

    assert refused.value.code == code
    assert sentence in refused.value.message
    assert refused.value.field == "environment.framework" or code == "python_unknown"


async def test_a_framework_with_system_packages_is_refused_where_they_cannot_be_put_over_the_machine(
    builder, own, tmp_path
):
    programs = tmp_path / "programs"
    programs.mkdir()
    for path in (*os.get_exec_path(), *os.get_exec_path({"PATH": os.defpath})):
        for program in Path(path).glob("*"):
            if program.name != "bwrap" and not (programs / program.name).is_symlink():
                (programs / program.name).symlink_to(program)
    builder.environment["PATH"] = str(programs)
    await _with(builder, own)

    with pytest.raises(InvalidError) as refused:
        await builder.check(framework="heavy")

    assert (refused.value.code, refused.value.field) == ("environment_unsupported", "environment.framework")
    assert "libalpha1: system packages need Docker here, because" in refused.value.message


@pytest.mark.usefixtures("own")
async def test_a_python_that_was_asked_for_comes_before_the_range_of_the_table(builder):
    answer = await builder.ensure(framework="old", python=platform.python_version())

    assert versions(answer.ready["path"], "alpha") == ["2.0"]


@pytest.mark.usefixtures("own")
async def test_a_plan_names_the_framework_and_its_image(builder):
    new = await builder.call("POST", "/environments/plan", framework="greek==1.0")
    boxed = await builder.call("POST", "/environments/plan", framework="boxed")

    assert (new["state"], new["framework"], new["image"]) == ("new", "greek==1.0", None)
    assert (boxed["state"], boxed["image"]) == ("image", "docker.io/boxed/boxed:1")
    assert await builder.call("POST", "/environments/check", framework="boxed") == {
        "image": "docker.io/boxed/boxed:1"
    }


@pytest.mark.usefixtures("own")
async def test_the_table_can_be_read(builder):
    listed = (await builder.call("GET", "/frameworks"))["frameworks"]
    (greek,) = (each for each in listed if each["name"] == "greek")

    assert listed[0]["name"] == "default"
    assert greek["packages"] == ["alpha", "beta", "shared"]
    assert (greek["aliases"], greek["image"]) == (["letters"], None)


async def test_a_builder_does_not_start_with_a_mistake_in_the_file(builder, own):
    own.write_text(TABLE.replace("packages", "package", 1))

    builder.environment["SPELL_FRAMEWORKS"] = str(own)
    started = subprocess.run(
        [sys.executable, "-m", "spell_builder"],
        check=False,
        env=builder._settings | builder.environment,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert started.returncode == 78
    assert (
        "own.toml: [frameworks.greek] package: there is no such field; there are aliases," in started.stderr
    )
