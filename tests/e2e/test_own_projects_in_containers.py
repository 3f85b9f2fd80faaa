"""`-e .` where commands run in containers: the image has what the project needs, and the project is the run's own."""

import pytest

from support import docker, web
from support.packages import Index
from support.standalone import prepared

pytestmark = pytest.mark.e2e

PROJECT = """
[project]
name = "my-pkg"
version = "1.5"
dependencies = ["alpha"]
[project.scripts]
my-tool = "my_pkg.cli:main"
"""
CLI = "import alpha\ndef main():\n    print('tool', alpha.VERSION, __file__)\n    return 3\n"


@pytest.fixture(scope="module", name="stack")
def _stack(tmp_path_factory):
    index = Index(tmp_path_factory.mktemp("packages") / "index")
    index.add("alpha", "1.0")
    try:
        with docker.running() as daemon, web.files(index.directory) as port:
            settings = {"docker_socket": daemon.socket, "docker_image": docker.BASE, "engine": "docker"}
            # The one of ours needs packages that this index does not have.
            settings["default_framework"] = ""
            with prepared(**settings, index_url=f"http://127.0.0.1:{port}/simple") as stack:
                stack.up()
                yield stack
    except docker.NoDockerError as error:
        docker.absent(str(error))


def test_a_run_imports_its_own_project_and_starts_its_program(stack):
    files = {"pyproject.toml": PROJECT, "src/my_pkg/cli.py": CLI, "req.txt": "-e .\n"}
    project = stack.repository(files, name="project")
    look = "my-tool; echo $?; cd / && python -c 'import my_pkg.cli, sys; print(sys.path[-1])'"

    result = stack.spell("run", "--force", "--pip-req", "req.txt", look, cwd=project, seconds=300)

    assert result.rc == 0, f"{result}\n{stack.logs()}"
    lines = result.stdout.splitlines()
    assert "tool 1.0 /spell/project/src/my_pkg/cli.py" in lines
    assert "3" in lines
    assert "/spell/project/src" in lines
