"""`spell run --apt` as a person types it, against a whole stack, a real daemon, and package indexes of the test's own."""

import re
import time

import pytest

from support import docker as daemons
from support import web
from support.debian_packages import Repository
from support.packages import Index
from support.standalone import prepared

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", name="stack")
def _stack(docker, tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("debian") / "index")
    repository.add("cow", "1.0")
    repository.add("cow", "2.0")
    index = Index(tmp_path_factory.mktemp("packages") / "index")
    index.add("alpha", "1.0")
    image = f"spell-tests/typed:{time.time_ns()}"
    with web.files(repository.directory) as debian, web.files(index.directory) as python:
        docker.derive(image, daemons.BASE, {"etc/apt/sources.list": repository.sources(debian)})
        settings = {
            "docker_socket": str(docker.socket),
            "docker_image": image,
            "engine": "docker",
            "default_framework": "",
        }
        with prepared(**settings) as running:
            running.environment |= {"UV_DEFAULT_INDEX": f"http://127.0.0.1:{python}/simple"}
            running.up()
            yield running
        docker.ask("DELETE", f"/images/{image}?force=1")


@pytest.fixture(scope="module", name="project")
def _project(stack):
    return stack.repository({"in.txt": "in\n"}, name="project")


def number(result) -> str:
    return re.search(r"Casting spell #(\d+)", result.stdout)[1]


SHOW = "cow; cat in.txt; python -c 'import alpha; print(alpha.VERSION)'; echo out > out.txt"


def test_system_packages_and_pip_packages_are_there_and_what_was_made_is_saved(stack, project):
    result = stack.spell("run", "--apt", "cow", "--pip", "alpha", SHOW, cwd=project)

    assert result.rc == 0, result
    assert {"cow 2.0", "in", "1.0"} <= set(result.stdout.splitlines())
    told = stack.spell("info", number(result)).stdout
    assert re.search(r"Apt Packages +cow\n", told)
    assert stack.spell("ls", f"runs/{number(result)}").stdout.split()[-1] == "out.txt"


def test_a_version_may_be_named_and_a_rerun_gets_the_very_same(stack, project):
    first = stack.spell("run", "--apt", "cow<2", "cow", cwd=project)
    again = stack.spell("rerun", number(first))

    assert "cow 1.0" in first.stdout.splitlines()
    assert "cow 1.0" in again.stdout.splitlines()
    keys = {
        stack.json("env", "explain", each)["detail"]["environment"]["key"]
        for each in (number(first), number(again))
    }
    assert len(keys) == 1
    assert "# apt: cow=1.0 all sha256:" in stack.spell("env", "lock", number(first)).stdout


def test_a_package_that_is_not_there_fails_the_run_with_its_name(stack, project):
    result = stack.spell("run", "--apt", "cows", "true", cwd=project)

    assert result.rc == 70
    assert "apt: unable to locate package cows; did you mean cow?" in result.stdout + result.stderr


@pytest.mark.parametrize("wrong", ["hostname-", "-oX=1", "./x.deb", "curl;id", "libc.*", "cow=="])
def test_what_is_no_name_is_refused_before_anything_is_asked(stack, project, wrong):
    result = stack.spell("run", f"--apt={wrong}", "true", cwd=project)

    assert result.rc == 2, result
    assert "is not a Debian package" in result.stderr


def test_an_image_is_the_whole_environment(stack, project):
    result = stack.spell("run", "--apt", "cow", "--from", "alpine", "true", cwd=project)

    assert result.rc == 2, result
    assert "--apt, --pip, or --pip-req cannot be specified when --from is provided." in result.stderr
