"""Projects of the repository that a requirements file names (`-e`): what they need, as the commit says that is run."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spell_cli.repository import Repository, Snapshot, start
from spell_proto import projects
from spell_proto.errors import InvalidError
from spell_proto.projects import NoProjectError, Project
from spell_proto.requirements import Editable, Line, parse, refused

_CODE = "pip_project_invalid"


def with_needs(
    body: dict[str, Any], repository: Repository | None, snapshot: Snapshot | None
) -> dict[str, Any]:
    """The request with what its projects need, if it names any.

    Raises:
        InvalidError: one of them is no project that can be used as it stands.
    """
    environment = body.get("environment", {})
    text = environment.get("requirements") or ""
    if not any(line.startswith("-e ") for line in text.splitlines()):
        return body
    lines: list[Line] = []
    for editable in parse(_lines(text)).editables:
        if repository is None:
            raise refused(
                "pip_option_not_allowed",
                editable.origin,
                f"{editable.text()} means the code of the repository you stand in, and no such code goes with the run",
            )
        lines += _needs(editable, repository, snapshot)
    # Also what a project needs is not taken from anywhere.
    parse(lines)
    more = "".join(f"{line.text} # {line.origin}\n" for line in lines)
    return body | {"environment": environment | {"requirements": text + more}}


def _lines(text: str) -> Iterator[Line]:
    # As `spell_cli.requirements` has written them: each with its origin.
    for line in text.splitlines():
        content, _, origin = line.rpartition(" # ")
        yield Line(content, origin)


def _needs(editable: Editable, repository: Repository, snapshot: Snapshot | None) -> Iterator[Line]:
    def content(name: str) -> str | None:
        return _content(repository, snapshot, _within(editable.path, name), editable)

    try:
        project = projects.read(content)
        found = project.needs(editable.extras)
    except NoProjectError as error:
        raise refused(_CODE, editable.origin, f"{editable.text()}: {error}") from None
    told = content(project.file) or ""
    for text in found:
        yield Line(text, f"{_within(editable.path, project.file)[-200:]}:{_number(told, text, project)}")


def _within(path: str, name: str) -> str:
    return name if path == "." else f"{path}/{name}"


def _number(told: str, text: str, project: Project) -> int:
    """The line on which something is needed, as far as it can be found."""
    lines = list(enumerate(told.splitlines(), start=1))
    written = [number for number, line in lines if text in line]
    return (written or [number for number, line in lines if project.name in line] or [1])[0]


def _content(repository: Repository, snapshot: Snapshot | None, path: str, editable: Editable) -> str | None:
    """A file of the commit that is run; none where there is none."""
    commit = repository.commit if snapshot is None else snapshot.commit
    environ = {} if snapshot is None else {"GIT_OBJECT_DIRECTORY": str(snapshot.objects)}
    process = start(repository.directory, "cat-file", "blob", f"{commit}:{path}", **environ)
    assert process.stdout is not None
    with process:
        raw = process.stdout.read(projects.BYTES_MAX + 1)
    if len(raw) > projects.BYTES_MAX:
        raise refused(_CODE, editable.origin, f"{editable.text()}: {path} is above 1 MiB")
    if process.returncode != 0:
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise refused(_CODE, editable.origin, f"{editable.text()}: {path} is no UTF-8 text") from None


def from_top(value: str, directory: Path, origin: str) -> str:
    """`./sub[extra]` as it is seen from the top of the repository that `directory` is in.

    Raises:
        InvalidError: it is in no repository, or outside of it.
    """
    given, bracket, extras = value.partition("[")
    place = Path(os.path.normpath(directory / given.strip()))
    here = Path(os.path.normpath(directory))
    top = next((parent for parent in (here, *here.parents) if (parent / ".git").exists()), None)
    if top is None:
        raise _outside(
            value, origin, "you stand in no git repository, and only the code of one goes with a run"
        )
    if not place.is_relative_to(top):
        raise _outside(value, origin, f"it is outside of {top}, whose code goes with the run")
    return f"{place.relative_to(top).as_posix()}{bracket}{extras}"


def _outside(value: str, origin: str, why: str) -> InvalidError:
    return refused("pip_option_not_allowed", origin, f"-e {value}: {why}")
