"""Requirements files through the real builder, uv and an index: versions, hashes, constraints, and what is refused."""

import subprocess

import pytest

from spell_proto.errors import InvalidError
from support.builder_process import Answer

pytestmark = pytest.mark.integration


def version(answer: Answer, module: str) -> str:
    python = f"{answer.ready['path']}/bin/python"
    return subprocess.check_output(
        [python, "-c", f"import {module}; print({module}.VERSION)"], text=True
    ).strip()


@pytest.fixture(autouse=True)
def _packages(index):
    index.add("alpha", "1.0")
    index.add("alpha", "2.0")
    index.add("beta", "1.0", requires=("alpha<2",))
    index.add("gamma", "1.0")
    index.add("gamma", "2.0")


async def test_a_requirements_file_goes_together_with_packages_that_are_named(builder):
    answer = await builder.ensure("gamma<2", requirements="beta  # for training\n# nothing\n\n")

    assert version(answer, "alpha") == "1.0"
    assert version(answer, "beta") == "1.0"
    assert version(answer, "gamma") == "1.0"


async def test_equal_content_is_one_environment_whatever_its_order_comments_and_spaces(builder):
    one = await builder.ensure(requirements="alpha==1.0\ngamma")
    other = await builder.ensure(requirements="# both\ngamma   # req.txt:7\nalpha  ==  1.0")
    named = await builder.ensure("alpha==1.0", "gamma")

    assert other.ready == {**one.ready, "cached": True}
    assert named.ready == {**one.ready, "cached": True}  # another request, the same versions


async def test_constraints_choose_versions_and_install_nothing(builder):
    answer = await builder.ensure(requirements="gamma", constraints="gamma<2\nalpha<2")

    assert version(answer, "gamma") == "1.0"
    with pytest.raises(subprocess.CalledProcessError):
        version(answer, "alpha")


async def test_a_conflict_between_the_file_and_a_named_package_names_both(builder):
    answer = await builder.ensure("alpha>=2", requirements="beta")

    assert answer.failure.startswith("pip: the packages do not go together: ")
    assert "beta" in answer.failure
    assert "alpha" in answer.failure


async def test_a_package_that_does_not_exist_is_told_with_the_line_that_names_it(builder):
    answer = await builder.ensure(requirements="alpha\nnowhere>1  # sub/base.txt:12\n")

    assert answer.failure == ("pip: there is no package nowhere in the package index (sub/base.txt, line 12)")


async def test_hashes_are_kept_and_a_file_with_another_hash_is_never_installed(builder, index):
    (wheel,) = (index.directory / "simple" / "alpha").glob("alpha-1.0-*")
    digest = subprocess.check_output(["sha256sum", wheel], text=True).split()[0]

    right = await builder.ensure(requirements=f"alpha==1.0 --hash=sha256:{digest}")
    wrong = await builder.ensure(requirements=f"alpha==1.0 --hash=sha256:{'0' * 64} # req.txt:3")

    assert version(right, "alpha") == "1.0"
    assert wrong.failure == (
        "pip: no file of alpha==1.0 in the package index has a --hash of req.txt, line 3"
    )


async def test_where_hashes_are_given_nothing_else_is_installed(builder, index):
    (wheel,) = (index.directory / "simple" / "beta").glob("beta-1.0-*")
    digest = subprocess.check_output(["sha256sum", wheel], text=True).split()[0]

    answer = await builder.ensure(requirements=f"beta==1.0 --hash=sha256:{digest}")

    assert answer.failure == (
        "pip: alpha==1.0 is needed by another package and has no --hash in the requirements file"
    )


async def test_sklearn_in_a_file_is_corrected_too(builder, index):
    index.add("scikit-learn", "1.9")

    answer = await builder.ensure(requirements="sklearn")

    assert version(answer, "scikit_learn") == "1.9"
    assert "sklearn is called scikit-learn in the package index; installing scikit-learn" in answer.lines


async def test_only_indexes_of_the_operators_list_may_be_named(builder):
    line = "--extra-index-url https://Wheels.example:8443/simple # req.txt:1\nalpha"
    with pytest.raises(
        InvalidError, match=r"req\.txt, line 1: --extra-index-url: the host 'wheels\.example:8443' is"
    ):
        await builder.check(requirements=line)
    refused = await builder.ensure(requirements=line)
    builder.environment["SPELL_INDEX_HOSTS"] = "other.example, wheels.example:8443"
    await builder.end()
    await builder.start()

    await builder.check(requirements=line)

    assert "is not on the operator's list (SPELL_INDEX_HOSTS)" in refused.failure
