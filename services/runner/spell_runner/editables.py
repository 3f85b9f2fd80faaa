"""Projects of a run's own code (`-e`): importable from where they stand, with their programs and metadata (shell).

Environments are shared, so nothing of a project is in one. Each run gets a small directory beside its workspace:

    bin/<program>                   starts a program of a project with the Python of the environment
    lib/sitecustomize.py            puts the projects behind everything that can be imported
    lib/<name>-<version>.dist-info  lets importlib.metadata find them, and what they plug in

`bin` is first in PATH and `lib` last in PYTHONPATH. What the run changes in its code is what it imports.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from spell_proto import projects
from spell_proto.errors import shown
from spell_proto.projects import NoProjectError, Project
from spell_proto.requirements import Editable
from spell_proto.spec import AttemptSpec
from spell_proto.state import Reason
from spell_runner.errors import AttemptError

DIRECTORY = "projects"
_SITE = '''"""The projects of this run's own code can be imported, behind everything that is installed."""

import importlib.machinery
import importlib.util
import os
import sys

sys.path.extend(path for path in {roots!r} if path not in sys.path)


def _another():
    """Modules of this name that ours stands before."""
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [path for path in sys.path if os.path.abspath(path) != here]
    found = importlib.machinery.PathFinder.find_spec(__name__, paths)
    if found is not None and found.loader is not None:
        found.loader.exec_module(importlib.util.module_from_spec(found))


_another()
'''
#: The first line may be too long for the kernel, and a path may hold a space: so the shell starts Python.
_PROGRAM = """#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
import sys
from {module} import {first}
if __name__ == "__main__":
    sys.exit({attribute}())
"""


@dataclass(frozen=True, slots=True)
class Made:
    """What was made for a run: its directory, and where the run sees it."""

    directory: Path
    seen_at: str

    def within(self, env: Mapping[str, str]) -> dict[str, str]:
        """Variables with which a run finds it, besides what it has asked for itself."""
        python = env.get("PYTHONPATH")
        library = f"{self.seen_at}/lib"
        return {
            "PATH": f"{self.seen_at}/bin:{env['PATH']}",
            "PYTHONPATH": f"{python}:{library}" if python else library,
        }


def make(spec: AttemptSpec, lower: Path, directory: Path, root: str, python: str, seen_at: str) -> Made:
    """Make the directory anew. `lower` is what is laid out at `root`; `python` is the interpreter as the run sees it.

    Raises:
        AttemptError: a project is none, or the disk is full.
    """
    code = spec.spec.code
    assert code is not None
    top = Path(code.root_directory)
    try:
        shutil.rmtree(directory, ignore_errors=True)
        for part in ("bin", "lib"):
            (directory / part).mkdir(parents=True)
        roots: list[str] = []
        for editable in spec.spec.environment.editables:
            project = _read(lower, top / editable.path, editable)
            _describe(directory / "lib", project)
            for name, module, attribute in project.programs():
                _program(directory / "bin" / name, python, module, attribute)
            place = lower / top / editable.path
            there = {name for name in os.listdir(place) if (place / name).is_dir()}  # noqa: PTH208 -- names
            seen = f"{root}/{top}/{editable.path}"
            roots += [os.path.normpath(f"{seen}/{path}") for path in project.where(there.__contains__)]
        (directory / "lib/sitecustomize.py").write_text(_SITE.format(roots=list(dict.fromkeys(roots))))
    except OSError as error:
        raise AttemptError(Reason.START_FAILED, f"its projects could not be prepared: {error}") from error
    except ValueError as error:  # the same files would raise it for ever
        raise AttemptError(Reason.BUILD_FAILED, f"pip: its projects cannot be used: {error}") from error
    return Made(directory, seen_at)


def _read(lower: Path, place: Path, editable: Editable) -> Project:
    try:
        return projects.read(lambda name: _content(lower, place / name))
    except NoProjectError as error:
        raise AttemptError(Reason.BUILD_FAILED, f"pip: {editable.text()}: {error}") from None


def _content(lower: Path, path: Path) -> str | None:
    """A file of the code; nothing else of this machine, wherever a link leads."""
    real = Path(os.path.realpath(lower / path))
    try:
        if not real.is_relative_to(os.path.realpath(lower)) or not real.is_file():
            return None
    except OSError as error:
        raise NoProjectError(f"{shown(path.name)} cannot be read: {error.strerror}") from None
    with real.open("rb") as file:
        raw = file.read(projects.BYTES_MAX + 1)
    if len(raw) > projects.BYTES_MAX:
        raise NoProjectError(f"{path.name} is above 1 MiB")
    return raw.decode("utf-8-sig", "replace")


def _describe(library: Path, project: Project) -> None:
    version = project.version if re.fullmatch(r"[A-Za-z0-9.!+_-]{1,100}", project.version) else "0"
    name = canonicalize_name(project.name).replace("-", "_")
    about = library / f"{name}-{version}.dist-info"
    if about.parent != library:  # whatever a name may look like one day
        raise ValueError(f"{shown(project.name)} is no name of a project")
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project.name}\nVersion: {version}\n")
    (about / "INSTALLER").write_text("spell\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
        for group, values in project.entry_points.items()
    )
    (about / "entry_points.txt").write_text("\n".join(groups))


def _program(path: Path, python: str, module: str, attribute: str) -> None:
    quoted = "'" + python.replace("'", "'\"'\"'") + "'"
    text = _PROGRAM.format(
        python=quoted, module=module, first=attribute.partition(".")[0], attribute=attribute
    )
    path.write_text(text)
    path.chmod(0o755)
