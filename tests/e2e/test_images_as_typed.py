"""Docker images as a person asks for them, against a whole stack and a daemon."""

import pytest

from support import docker
from support.standalone import prepared

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", name="stack")
def _stack():
    try:
        with docker.running() as daemon, prepared(docker_socket=str(daemon.socket)) as stack:
            stack.up()
            yield stack
    except docker.NoDockerError as error:
        docker.absent(str(error))


@pytest.mark.parametrize("flag", ["--docker-image", "--docker_image", "--from"])
def test_each_name_of_the_flag_runs_the_command_in_the_image(stack, flag):
    project = stack.repository({"in.txt": "in\n"}, name=f"project{flag.strip('-').replace('_', '')}")

    result = stack.spell("run", "-f", flag, docker.TINY, "cat in.txt; readlink /bin/sh", cwd=project)

    assert result.rc == 0, result
    assert "in\nbusybox\n" in result.stdout


def test_an_image_and_packages_exclude_each_other_in_the_words_of_the_contract(stack):
    project = stack.repository({"env.yml": "dependencies: [python]\n"}, name="exclusive")
    one = "Only one of the following options can be specified: --framework, --from, --conda-file"

    for more, sentence in (
        (("--conda-file", "env.yml"), one),
        (("--framework", "jax"), one),
        (("--pip", "six"), "--apt, --pip, or --pip-req cannot be specified when --from is provided."),
    ):
        result = stack.spell("run", "-f", "--from", docker.TINY, *more, "true", cwd=project)

        assert result.rc == 2, result
        assert sentence in " ".join(result.stderr.split())


def test_a_plan_says_with_what_a_run_in_an_image_would_be_run(stack):
    project = stack.repository({"x": ""}, name="planned")
    result = stack.spell("run", "--dry-run", "--from", docker.TINY, "true", cwd=project)

    assert "docker local" in result.stdout, result
    assert "docker local" in stack.spell("machine-types").stdout
