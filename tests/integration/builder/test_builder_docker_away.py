"""A Docker daemon that refuses, does not answer, or answers what nobody expects, seen by a real builder."""

import re
from functools import partial

import pytest

from spell_builder.docker import Docker, Work
from spell_builder.flight import GivenUpError
from spell_proto import docker as proto_docker
from support import docker as daemons
from support.authority import loopback
from support.docker_gate import gate
from support.stack import short_directory

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="function")]


async def _ask(builder, **more):
    return await builder.ensure(engine="docker", **more)


async def test_what_the_daemon_refuses_fails_the_run_with_its_words(builder, docker, tmp_path):
    trusted, _ = loopback(tmp_path)
    builder.environment |= {
        "SPELL_DOCKER_SOCKET": str(docker.socket),
        "SPELL_DOCKER_IMAGE": daemons.BASE,
        "SPELL_CA_BUNDLE": str(trusted),
    }
    await builder.end()
    await builder.start()
    for copy in (builder.data / "ca").iterdir():
        copy.unlink()  # as a daemon on another machine sees it

    answer = await _ask(builder, python="3.11", apt=["cow"])

    assert answer.failure.startswith("the Docker daemon refused: invalid mount config")


async def test_what_nobody_expects_is_tried_again_and_not_for_ever(builder, docker):
    with short_directory() as directory:
        async with gate(docker.socket, directory / "g.sock") as between:
            between.odd = re.compile(rb"GET \S*/images/\S+/json")
            builder.environment |= {
                "SPELL_DOCKER_SOCKET": str(directory / "g.sock"),
                "SPELL_DOCKER_IMAGE": daemons.BASE,
            }
            await builder.end()
            await builder.start()

            answers = [await _ask(builder, apt=["cow"], latest=True) for _ in range(3)]

    assert [answer.outcome for answer in answers[:2]] == [None, None], "asked again by whoever needs it"
    assert answers[2].failure.startswith("it was tried 3 times, and always there was a bug or a broken disk")


async def test_a_daemon_that_does_not_answer_is_no_build_that_takes_too_long(docker, monkeypatch):
    short = proto_docker.CONTROL.__class__(total=0.5)
    monkeypatch.setattr(proto_docker, "CONTROL", short)
    with short_directory() as directory:
        socket = directory / "g.sock"
        async with gate(docker.socket, socket) as between, proto_docker.clients(str(socket)) as both:
            builds = Docker(both, str(socket), "tests", "tests", partial(_no_login))
            between.hung = re.compile(rb"POST \S*/start")
            with pytest.raises(GivenUpError, match="does not answer"):
                await builds.run(Work(daemons.BASE, "true\n", 60.0), lambda _line, _failing: None)
            between.hung = None
            with pytest.raises(TimeoutError):
                await builds.run(Work(daemons.BASE, "sleep 60\n", 0.5), lambda _line, _failing: None)


async def _no_login(_registry: str) -> None:
    pass
