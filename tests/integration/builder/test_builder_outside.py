"""Builds behind a company's own certificates and its proxy: packages of pip and of conda."""

import subprocess
from pathlib import Path

import pytest

from support import web
from support.authority import loopback

pytestmark = pytest.mark.integration

SECRET = "s3cret-of-the-proxy"
INDEX, CONDA = "index.example.test", "conda.example.test"
FILE = "dependencies: [tiny]\n"


@pytest.fixture(name="served")
def _served(tmp_path: Path, index, channel):
    """The file with the authority, and the ports of index and channel."""
    index.add("alpha", "1.0")
    channel.add_python()
    channel.add("tiny", "1.0")
    trusted, context = loopback(tmp_path, INDEX, CONDA)
    with web.files(index.directory, context) as packages, web.files(channel.directory, context) as conda:
        yield trusted, packages, conda


async def restarted(builder, **settings: str) -> None:
    await builder.end()
    del builder.environment["UV_DEFAULT_INDEX"]
    builder.environment |= settings
    await builder.start()


async def test_certificates_of_the_operator_are_trusted_for_packages_and_channels(builder, served):
    trusted, packages, conda = served
    await restarted(
        builder,
        SPELL_CA_BUNDLE=str(trusted),
        SPELL_INDEX_URL=f"https://127.0.0.1:{packages}/simple",
        SPELL_CONDA_CHANNELS=f"local=https://127.0.0.1:{conda}",
    )

    pip = await builder.ensure("alpha")
    tiny = await builder.ensure(conda=FILE)

    assert subprocess.check_output([f"{pip.ready['path']}/bin/python", "-c", "import alpha"]) == b""
    assert subprocess.check_output([f"{tiny.ready['path']}/bin/tiny"], text=True) == "tiny 1.0\n"


async def test_without_them_a_build_fails_with_a_sentence_that_says_so(builder, served):
    _, packages, conda = served
    index = f"https://127.0.0.1:{packages}/simple"
    await restarted(builder, SPELL_INDEX_URL=index, SPELL_CONDA_CHANNELS=f"local=https://127.0.0.1:{conda}")

    pip = await builder.ensure("alpha")
    tiny = await builder.ensure(conda=FILE)

    assert pip.failure.startswith(f"pip: the package index cannot be read ({index}/alpha/): ")
    assert tiny.failure.startswith("conda: the packages cannot be had: ")
    for failure in (pip.failure, tiny.failure):
        assert "certificate" in failure
        assert failure.endswith("(certificates of an own authority can be set with SPELL_CA_BUNDLE)")


async def test_everything_goes_through_the_proxy_whose_password_is_in_no_log(builder, served):
    trusted, packages, conda = served
    ports = {f"{INDEX}:443": packages, f"{CONDA}:443": conda}
    with web.proxy(ports, f"bot:{SECRET}") as between:
        await restarted(
            builder,
            SPELL_CA_BUNDLE=str(trusted),
            SPELL_INDEX_URL=f"https://{INDEX}/simple",
            SPELL_HTTPS_PROXY=between.url,
            SPELL_CONDA_CHANNELS=f"local=https://{CONDA}",
        )

        pip = await builder.ensure("alpha")
        tiny = await builder.ensure(conda=FILE)
        nothing = await builder.ensure("nowhere")
        locks = [await builder.call("GET", f"/environments/{each.ready['key']}") for each in (pip, tiny)]

    assert between.connects[f"{INDEX}:443"]
    assert between.connects[f"{CONDA}:443"]
    assert nothing.failure == "pip: there is no package nowhere in the package index"
    told = [*pip.lines, *tiny.lines, *nothing.lines, str(locks), builder.log.read_text()]
    assert not [text for text in told if SECRET in text]
    found = subprocess.run(
        ["grep", "-rl", SECRET, str(builder.data)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


async def test_a_proxy_that_refuses_is_told(builder, served):
    trusted, packages, _ = served
    with web.proxy({f"{INDEX}:443": packages}, "bot:other") as between:
        await restarted(
            builder,
            SPELL_CA_BUNDLE=str(trusted),
            SPELL_INDEX_URL=f"https://{INDEX}/simple",
            SPELL_HTTPS_PROXY=between.url.replace("bot:other", f"bot:{SECRET}"),
        )

        refused = await builder.ensure("alpha")

    assert refused.failure.startswith(
        f"pip: the package index cannot be read (https://{INDEX}/simple/alpha/): "
    )
    assert SECRET not in refused.failure + "".join(refused.lines)
