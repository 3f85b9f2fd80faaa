"""The house style that a linter does not check: sizes, imports, first sentences, and that every package is shipped."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 420
FUNCTION_LINES_MAX = 60
SOURCE_DIRECTORIES = ("proto", "cli", "services")
SOURCES = sorted(path for name in SOURCE_DIRECTORIES for path in (ROOT / name).rglob("*.py"))
BANNED_NAMES = {"utils", "util", "common", "helpers", "models", "manager"}
# Where a bare task is safe: something else holds and awaits it.
TASKS_ALLOWED = {"create_task"}


def _names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", SOURCES, ids=_names(SOURCES))
def test_a_source_file_keeps_to_the_house_style(path):
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    problems = []
    if not ast.get_docstring(tree):
        problems.append("no sentence that says what the module is responsible for")
    if text.count("\n") > FILE_LINES_MAX:
        problems.append(f"{text.count(chr(10))} lines: find the missing concept")
    if path.stem in BANNED_NAMES:
        problems.append(f"a module called {path.stem} says nothing")
    if path.name == "__init__.py" and len(tree.body) > 1:
        problems.append("code in __init__.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                problems.append(f"line {node.lineno}: {node.name} has {lines} lines")
            inner = [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
            problems += [f"line {child.lineno}: an import inside a function" for child in inner]
        if isinstance(node, ast.ImportFrom) and node.level:
            problems.append(f"line {node.lineno}: a relative import")
    if re.search(r"\b(TO" + r"DO|FIX" + r"ME|XXX)\b(?!.*#\d+)", text):
        problems.append("an unfinished note without an issue number")
    if re.search(r"\bTYPE_CHECKING\b", text):
        problems.append("TYPE_CHECKING: move the shared thing down")

    assert problems == []


def test_every_package_is_shipped():
    """A package that the build does not list is silently missing from the wheel."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    shipped = set(config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    packages = {
        str(path.parent.relative_to(ROOT))
        for name in SOURCE_DIRECTORIES
        for path in (ROOT / name).rglob("__init__.py")
        if not (path.parent.parent / "__init__.py").exists()
    }

    assert shipped == packages


def test_test_files_have_unique_names():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_nothing_names_a_machine_or_a_registry():
    """No absolute home or build paths, and no package index hosts, in what is shipped."""
    banned = re.compile(r"/root/|/home/[a-z]+/|/work/main|pypi\.org|pythonhosted|registry\.npmjs")
    # What people may name in their requirements has to be told somewhere.
    named_by_people = ROOT / "services/builder/spell_builder/hosts.py"
    offenders = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if (
            not path.is_file()
            or path == named_by_people
            or parts[0] in {".git", ".venv", "out"}
            or any(p.startswith(".") and p != ".ci" for p in parts[:1])
        ):
            continue
        if (
            path.suffix in {".py", ".md", ".toml", ".sql", ".json", ".yaml", ".lock"}
            or path.name == "Makefile"
        ):
            if path == Path(__file__):
                continue
            if match := banned.search(path.read_text("utf-8", errors="replace")):
                offenders.append(f"{path.relative_to(ROOT)}: {match[0]}")

    assert offenders == []
