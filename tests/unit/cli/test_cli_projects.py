"""`-e` in a requirements file: the project of the commit that is run, seen from the top of its repository."""

import subprocess
from pathlib import Path

import pytest

from spell_cli.projects import with_needs
from spell_cli.repository import Inspection
from spell_cli.requirements import read
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest

PROJECT = '[project]\nname = "mine"\ndependencies = [\n  "six>=1",\n]\n[project.optional-dependencies]\ndev = ["pytest"]\n'


@pytest.fixture(name="top")
def _top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "deep" / "inner").mkdir(parents=True)
    git(top, "init", "-q")
    (top / "pyproject.toml").write_text(PROJECT)
    (top / "sub/setup.py").write_text("")
    (top / "deep/pyproject.toml").write_text(
        PROJECT.replace("mine", "deep").replace("six>=1", "git+https://x/y")
    )
    (top / "req.txt").write_text("numpy\n-e .\n")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "x")
    return top


def git(top: Path, *words: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@y")
    subprocess.run(["git", "-C", str(top), *who, *words], check=True, capture_output=True)


def expanded(top: Path, text: str) -> str:
    (top / "req.txt").write_text(text)
    found = read("req.txt", top)
    body = {"command": "x", "environment": {"requirements": found.requirements}}
    return with_needs(body, Inspection(str(top)).result(), None)["environment"]["requirements"]


def test_what_the_project_needs_goes_with_the_request_and_names_its_line(top):
    text = expanded(top, "numpy\n-e .[dev]\n")

    assert text == (
        "-e .[dev] # req.txt:2\nnumpy # req.txt:1\nsix>=1 # pyproject.toml:4\npytest # pyproject.toml:7\n"
    )
    request = EnvironmentRequest(requirements=text)
    assert [each.path for each in request.editables] == ["."]
    # No environment depends on the project itself.
    same = EnvironmentRequest(requirements="six>=1\npytest\nnumpy")
    assert request.digest() == same.digest()


@pytest.mark.parametrize(
    ("stand", "value"), [(".", "deep"), (".", "./deep/"), ("deep", "."), ("deep/inner", "..")]
)
def test_the_path_is_relative_to_where_you_stand(top, stand, value):
    (top / "deep/pyproject.toml").write_text('[project]\nname = "deep"\n')
    (top / "r.txt").write_text(f"-e {value}\n")

    assert read(f"{top}/r.txt", top / stand).requirements.startswith("-e deep # ")


def test_the_commit_counts_and_not_what_lies_there(top):
    (top / "pyproject.toml").write_text(PROJECT.replace("six>=1", "other"))

    assert "six>=1" in expanded(top, "-e .\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "-e ./sub",
            "-e sub: only setup.py knows what it needs, and it is not run before: list them under [project]",
        ),
        (
            "-e ./nowhere",
            "-e nowhere: there is no pyproject.toml with [project] in it; only files that git knows",
        ),
        ("-e .[no]", "-e .[no]: it has no extra 'no'; there are: dev"),
        ("-e ..", "-e ..: it is outside of "),
        ("-e ../other", "-e ../other: it is outside of "),
        ("-e /etc", "-e '/etc': a directory of the repository is allowed, as in -e . or -e ./sub[extra]"),
        ("-e ~/x", "-e '~/x': a directory of the repository is allowed"),
        ("-e file:.", "-e 'file:.': a directory of the repository is allowed"),
        ("-e", "-e '': a directory of the repository is allowed"),
        ("--editable=git+ssh://x/y", "'git+ssh' is not allowed, only git+https is"),
        (
            f"-e .\nsix==1 --hash=sha256:{'a' * 64}",
            "-e .: a directory has no --hash, and other lines have one",
        ),
        (f"-e . --hash=sha256:{'a' * 64}", "a directory of the repository is allowed"),
        ("-c limits.txt", "-e . is not allowed here: constraints choose versions and install nothing"),
    ],
)
def test_what_is_no_project_of_the_repository_is_refused_with_its_line(top, line, said):
    (top / "limits.txt").write_text("\n\n-e .")

    with pytest.raises(InvalidError) as refused:
        expanded(top, f"numpy\n\n{line}\n")

    assert said in refused.value.message
    assert ", line 3: " in refused.value.message


def test_what_a_project_needs_is_not_taken_from_anywhere(top):
    (top / "deep/pyproject.toml").write_text(
        PROJECT.replace("mine", "deep").replace("six>=1", "x @ file:///etc/passwd")
    )
    git(top, "commit", "-qam", "y")

    with pytest.raises(
        InvalidError, match=r"--pip-req: deep/pyproject\.toml, line 4: .* no path and no URL but"
    ):
        expanded(top, "-e ./deep\n")


def test_without_the_code_of_a_repository_there_is_no_project(top):
    body = {"environment": {"requirements": "-e . # req.txt:2\n"}}

    with pytest.raises(InvalidError, match="no such code goes with the run"):
        with_needs(body, None, None)


def test_a_requirements_file_without_projects_is_sent_as_it_is():
    body = {"environment": {"requirements": "six # req.txt:1\n"}}

    assert with_needs(body, None, None) is body
