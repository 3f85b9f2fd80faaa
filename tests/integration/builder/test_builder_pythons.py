"""Environments for another Python than the default one: only those that are on the machine."""

import platform
import subprocess
import sys

import pytest

from spell_proto.errors import InvalidError

pytestmark = pytest.mark.integration

PRINT = "import platform, alpha; print(platform.python_version(), alpha.VERSION)"


def python_in(path: str, program: str) -> str:
    return subprocess.check_output([f"{path}/bin/python", "-c", program], text=True).strip()


@pytest.fixture
async def others(builder) -> list[str]:
    """The versions on this machine, besides the default one, as a refusal lists them."""
    with pytest.raises(InvalidError) as refused:
        await builder.check(python="2.999")
    listed = refused.value.message.partition("There is: ")[2].split(", ")
    return [each for each in listed if each != platform.python_version() and each > "3.10"]


async def test_the_default_python_by_its_version_is_the_same_environment(builder, index):
    index.add("alpha", "1.0")

    plain = await builder.ensure("alpha")
    named = [
        await builder.ensure("alpha", python=version)
        for version in (platform.python_version(), "%d.%d" % sys.version_info[:2])  # noqa: UP031
    ]

    assert [answer.ready for answer in named] == [{**plain.ready, "cached": True}] * 2


async def test_a_version_that_is_not_there_is_refused_with_those_that_are(builder):
    with pytest.raises(
        InvalidError, match=r"there is no Python 3\.99 on this machine\. There is: "
    ) as refused:
        await builder.check(python="3.99")

    assert platform.python_version() in refused.value.message
    assert refused.value.field == "environment.python"
    assert (await builder.ensure(python="3.99")).failure == refused.value.message


async def test_another_python_makes_another_environment_that_is_reused_after_a_restart(
    builder, index, others
):
    if not others:
        pytest.skip("this machine has one version of Python")
    index.add("alpha", "1.0")

    plain = await builder.ensure("alpha")
    other = await builder.ensure("alpha", python=others[-1])
    await builder.end()
    await builder.start()
    again = await builder.ensure("alpha", python=others[-1])

    assert python_in(other.ready["path"], PRINT) == f"{others[-1]} 1.0"
    assert other.ready["key"] != plain.ready["key"]
    assert again.ready == {**other.ready, "cached": True}


async def test_another_python_without_packages_is_an_environment_too(builder, others):
    if not others:
        pytest.skip("this machine has one version of Python")

    answer = await builder.ensure(python=others[0])

    assert python_in(answer.ready["path"], "import platform; print(platform.python_version())") == others[0]
