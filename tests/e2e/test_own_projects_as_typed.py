"""`-e .` as a person has it: the run imports its own code, starts its programs, and sees what it changes."""

import shutil
import tempfile
from pathlib import Path

import pytest

from support.packages import Index
from support.standalone import Stack, until

pytestmark = pytest.mark.e2e

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "my-pkg"
version = "1.5"
dependencies = ["alpha"]
[project.scripts]
my-tool = "my_pkg.cli:main"
[project.entry-points."my.plugins"]
one = "my_pkg.cli"
[project.optional-dependencies]
more = ["beta"]
"""
CLI = "import alpha\ndef main():\n    print('tool', alpha.VERSION, __file__)\n    return 3\n"
FILES = {
    "pyproject.toml": PROJECT,
    "src/my_pkg/__init__.py": "VALUE = 'committed'\n",
    "src/my_pkg/cli.py": CLI,
    "tests/logging.py": "raise RuntimeError('this is not the one')\n",
    "flat/pyproject.toml": '[project]\nname = "flat"\nversion = "2"\n',
    "flat/flat/__init__.py": "VALUE = 'flat'\n",
    "req.txt": "-e .[more]\n-e ./flat\n",
    "none.txt": "-e ./flat\n",
}


@pytest.fixture(scope="module", name="stack", params=["auto", "none"])
def _stack(request, tmp_path_factory):
    index = Index(tmp_path_factory.mktemp("packages") / "index")
    index.add("alpha", "1.0")
    index.add("beta", "2.0")
    # Not below /tmp, which is a run's own.
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    made = Stack(directory, {"SPELL_ISOLATION": request.param, "UV_DEFAULT_INDEX": index.url})
    try:
        made.up()
        yield made
    finally:
        made.clean_up()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module", name="project")
def _project(stack) -> Path:
    return stack.repository(FILES, name="project")


def said(result) -> list[str]:
    assert result.rc == 0, result
    return result.stdout.splitlines()


def test_a_run_imports_its_own_projects_with_what_they_need(stack, project):
    look = "import my_pkg, flat, alpha, beta, logging; print(my_pkg.VALUE, flat.VALUE, alpha.VERSION, beta.VERSION)"
    about = "import importlib.metadata as m; print(m.version('my-pkg'), *m.entry_points(group='my.plugins'))"
    (project / "deep").mkdir(exist_ok=True)

    result = stack.spell(
        "run",
        "--force",
        "--pip-req",
        "req.txt",
        f'cd / && python -c "{look}" && python -c "{about}"',
        cwd=project,
    )

    lines = said(result)
    assert "committed flat 1.0 2.0" in lines
    assert any(line.startswith("1.5 EntryPoint(name='one', value='my_pkg.cli'") for line in lines), lines


def test_programs_of_the_project_are_there_and_tell_their_exit_code(stack, project):
    result = stack.spell("run", "--force", "--pip-req", "req.txt", "my-tool", cwd=project)

    assert result.rc == 3, result
    assert "/project/src/my_pkg/cli.py" in result.stdout, result
    assert "tool 1.0 " in result.stdout, result


def test_what_a_run_changes_in_its_code_is_what_it_imports_and_nothing_of_ours_is_saved(stack, project):
    change = "echo \"VALUE = 'changed'\" > src/my_pkg/__init__.py && python -c 'import my_pkg; print(my_pkg.VALUE)'"

    run_id = stack.cast("--pip-req", "req.txt", change, cwd=project)
    run = stack.until_final(run_id)
    until(lambda: stack.run(run_id)["state"] == "complete", 20, lambda: str(run))

    assert "changed" in stack.spell("logs", str(run_id)).stdout.splitlines()
    assert stack.spell("cp", f"runs/{run_id}", "saved").rc == 0
    saved = [path.name for path in (stack.work / "saved").rglob("*") if path.is_file()]
    shutil.rmtree(stack.work / "saved")
    assert saved == ["__init__.py"]


def test_uncommitted_changes_count_in_what_a_project_says_of_itself(stack, project):
    (project / "flat/pyproject.toml").write_text('[project]\nname = "flat"\ndependencies = ["beta"]\n')
    try:
        result = stack.spell(
            "run",
            "--force",
            "--pip-req",
            "none.txt",
            "python -c 'import flat, beta; print(beta.VERSION)'",
            cwd=project,
        )
    finally:
        (project / "flat/pyproject.toml").write_text(FILES["flat/pyproject.toml"])

    assert "2.0" in said(result)


def test_variables_of_the_run_and_another_sitecustomize_stay_what_they_are(stack, project):
    stack.commit(project, {"mine/sitecustomize.py": "import sys; sys.mine = 'mine'\n"})
    root = "$SPELL_WORKSPACE/project/mine"
    other = f"PYTHONPATH=$PYTHONPATH:{root} python -c 'import sys, flat; print(sys.mine, flat.VALUE)'"

    ours_last = stack.spell("run", "--force", "--pip-req", "none.txt", other, cwd=project)
    given = stack.spell(
        "run", "--force", "--pip-req", "none.txt", "--env", "PYTHONPATH=/nowhere",
        "python -c 'import flat, sys; print(sys.path[1], flat.VALUE)'", cwd=project,
    )  # fmt: skip

    assert "mine flat" in said(ours_last)
    assert "/nowhere flat" in said(given)


def test_projects_share_the_environment_of_what_they_need_and_are_there_in_a_rerun(stack, project):
    first = stack.cast("--pip-req", "req.txt", "my-tool", cwd=project)
    stack.until_final(first)
    plain = stack.cast("--pip", "alpha", "--pip", "beta", "true", cwd=project)
    stack.until_final(plain)

    again = stack.spell("rerun", str(first))

    assert again.rc == 3, again
    keys = {
        stack.json("env", "explain", str(run_id))["detail"]["environment"]["key"] for run_id in (first, plain)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "-e ./tests",
            "--pip-req: bad.txt, line 2: -e tests: there is no pyproject.toml with [project] in it",
        ),
        ("-e ..", "--pip-req: bad.txt, line 2: -e ..: it is outside of"),
    ],
)
def test_what_is_no_project_is_refused_before_anything_is_made(stack, project, line, sentence):
    (project / "bad.txt").write_text(f"alpha\n{line}\n")
    try:
        result = stack.spell("run", "--force", "--pip-req", "bad.txt", "true", cwd=project)
    finally:
        (project / "bad.txt").unlink()

    assert result.rc == 2, result
    assert sentence in result.stderr


def test_with_code_from_a_url_there_is_no_project_to_read(stack, project):
    result = stack.spell(
        "run",
        "--force",
        "--pip-req",
        "none.txt",
        "--github-url",
        "https://github.com/o/r",
        "true",
        cwd=project,
    )

    assert result.rc == 2, result
    assert "none.txt, line 1: -e flat means the code of the repository you stand in" in result.stderr
