"""Mounts as a person types them, where commands run in containers."""

import re
from pathlib import Path

import pytest

from support import docker
from support.standalone import prepared

pytestmark = pytest.mark.e2e
DATA = {"one.txt": "one\n", "deep/two.txt": "two\n", "gone.txt": "gone\n"}


@pytest.fixture(scope="module", name="stack")
def _stack():
    try:
        with docker.running() as daemon, prepared(docker_socket=daemon.socket) as stack:
            stack.up()
            yield stack
    except docker.NoDockerError as error:
        docker.absent(str(error))


@pytest.fixture(scope="module", name="project")
def _project(stack) -> Path:
    return stack.repository({"train.sh": "cat $1/one.txt\n"}, name="project")


def run(stack, project, *words: str):
    """A run in a container to its end, and its id."""
    result = stack.spell("run", "-f", "--from", docker.TINY, *words, cwd=project)
    assert result.rc == 0, result
    run_id = re.search(r"Casting spell #(\d+)", result.stdout)[1]
    assert stack.json("info", run_id)["engine"] == "docker"
    return result.stdout.splitlines(), run_id


def files(stack, resource: str) -> dict[str, str]:
    """What is in a resource now."""
    target = stack.work / f"fetched-{len(list(stack.work.iterdir()))}"
    copied = stack.spell("cp", resource, str(target))
    assert copied.rc == 0, copied
    return {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}


def test_what_a_run_writes_into_what_another_one_made_is_its_own(stack, project):
    make = (
        "mkdir -p data/deep; echo one > data/one.txt; echo two > data/deep/two.txt; echo gone > data/gone.txt"
    )
    _, first = run(stack, project, make)
    mount = f"runs/{first}/data:datasets"
    change = (
        "sh train.sh datasets; cat datasets/deep/two.txt; echo more >> datasets/one.txt; echo new > datasets/deep/new; "
        "rm datasets/gone.txt; ls datasets"
    )

    lines, second = run(stack, project, "--mount", mount, change)
    again, third = run(stack, project, "--mount", mount, "cat datasets/*.txt; touch datasets/one.txt")

    assert f"Mounting runs/{first}/data at /spell/project/datasets" in lines
    assert lines[lines.index("one") :][:4] == ["one", "two", "deep", "one.txt"]
    assert files(stack, f"runs/{second}") == {"datasets/one.txt": "one\nmore\n", "datasets/deep/new": "new\n"}
    assert files(stack, f"runs/{first}/data") == DATA
    assert again[again.index("gone") :][:2] == ["gone", "one"]
    assert stack.json("info", third)["saved_files"] == 0


def test_what_was_uploaded_appears_where_it_is_wanted_outside_the_workspace(stack, project):
    local = stack.work / "sets"
    for name, text in DATA.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text(text)
    assert stack.spell("upload", str(local)).rc == 0
    change = "sh train.sh /mnt/x; echo changed > /mnt/x/one.txt; rm -r /mnt/x/deep; cat /mnt/x/one.txt; echo kept > kept; ls /mnt"

    lines, changing = run(stack, project, "--mount", "uploads/sets:/mnt/x", change)
    again, _ = run(stack, project, "--mount", "uploads/sets:/mnt/x", "cat /mnt/x/one.txt /mnt/x/deep/two.txt")

    assert lines[lines.index("one") :][:3] == ["one", "changed", "x"]
    assert "💫 Not saved: what was written below /mnt/x, as only files below /spell are" in lines
    assert files(stack, f"runs/{changing}") == {"kept": "kept\n"}
    assert files(stack, "uploads/sets") == DATA
    assert again[again.index("one") :][:2] == ["one", "two"]
