"""The directory of a run's own projects: written where it should be, and nowhere else, whatever the files of a run say."""

import subprocess
import sys
from pathlib import Path

import pytest

from spell_proto.spec import CodeLocation, EnvironmentRequest
from spell_proto.state import Reason
from spell_runner import editables
from spell_runner.errors import AttemptError
from support.specs import an_attempt

CODE = CodeLocation(
    repository_id=1, repository="r", commit="a" * 40, tree="a" * 40, root_directory="top", cwd="."
)


@pytest.fixture(name="lower")
def _lower(tmp_path: Path) -> Path:
    (tmp_path / "lower/top/lib/mine").mkdir(parents=True)
    (tmp_path / "lower/top/lib/mine/__init__.py").write_text("def main():\n    print('mine')\n    return 3\n")
    return tmp_path / "lower"


def made(lower: Path, *, line: str = "-e .", **files: str) -> Path:
    for name, text in files.items():
        (lower / "top" / {"cfg": "setup.cfg", "pyproject": "pyproject.toml"}[name]).write_text(text)
    spec = an_attempt(code=CODE, environment=EnvironmentRequest(requirements=line))
    directory = lower.parent / "projects"
    editables.make(spec, lower, directory, str(lower), sys.executable, str(directory))
    return directory


def below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


CFG = """
[metadata]
name = My.Project
version = 1.5
[options]
package_dir =
    = lib
[options.entry_points]
console_scripts =
    tool = mine:main
    ../../out = mine:main
    /tmp/out = mine:main
    odd = mine:main; import os
"""


@pytest.mark.parametrize(
    "files",
    [
        {"cfg": CFG},
        {
            "pyproject": "[project]\nname = 'My.Project'\nversion = '1.5'\n"
            "[project.scripts]\ntool = 'mine:main'\n'../../out' = 'mine:main'\nodd = 'mine:main; import os'\n"
            "[tool.setuptools.package-dir]\n'' = 'lib'\n"
        },
    ],
)
def test_a_project_gets_its_programs_and_metadata_and_is_imported_from_where_it_stands(lower, files):
    directory = made(lower, **files)

    about = "lib/my_project-1.5.dist-info"
    assert below(directory) == [
        "bin/tool",
        *(f"{about}/{name}" for name in ("INSTALLER", "METADATA", "entry_points.txt")),
        "lib/sitecustomize.py",
    ]
    look = "import mine, importlib.metadata as m; print(mine.__file__, m.version('my-project'))"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(directory / "lib")}
    told = subprocess.check_output([sys.executable, "-c", look], env=environment, text=True)
    tool = subprocess.run(
        [directory / "bin/tool"], env=environment, capture_output=True, text=True, check=False
    )
    assert told.split() == [str(lower / "top/lib/mine/__init__.py"), "1.5"]
    assert (tool.stdout, tool.returncode) == ("mine\n", 3)


@pytest.mark.parametrize("name", ["{outside}", "../../outside/x", "a/../../../outside/x", "a\0b", "."])
def test_no_name_of_a_project_leads_out_of_its_directory(lower, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()

    with pytest.raises(AttemptError) as refused:
        made(lower, cfg=f"[metadata]\nname = {name.format(outside=outside / 'x')}\nversion = 1\n")

    assert refused.value.reason is Reason.BUILD_FAILED
    assert refused.value.message.startswith("pip: -e .: its setup.cfg gives it no name: ")
    assert list(outside.iterdir()) == []
    assert below(tmp_path / "projects") == []


@pytest.mark.parametrize(
    "pyproject",
    [
        "[project]\nname = 'x'\nversion = " + "1" * 5000,
        "[project]\nname = 'x'\n[tool.setuptools.package-dir]\n'' = " + "[" * 5000,
        "[project]\nname = 'x'\ndynamic = ['dependencies']\n[tool.setuptools.dynamic]\ndependencies = {file = 'a\\u0000b'}",
        f"[project]\nname = 'x'\ndynamic = ['dependencies']\n[tool.setuptools.dynamic]\ndependencies = {{file = '{'a' * 300}'}}",
    ],
)
def test_what_cannot_be_read_ends_the_run_instead_of_being_tried_for_ever(lower, pyproject):
    with pytest.raises(AttemptError) as refused:
        made(lower, pyproject=pyproject)

    assert refused.value.reason is Reason.BUILD_FAILED
    assert refused.value.message.startswith("pip: -e .: ")


def test_a_link_out_of_the_code_is_no_project(lower, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/pyproject.toml").write_text("[project]\nname = 'x'\nversion = 'secret'\n")
    (lower / "top/link").symlink_to(tmp_path / "secret")

    with pytest.raises(AttemptError, match=r"there is no pyproject\.toml"):
        made(lower, line="-e link")
