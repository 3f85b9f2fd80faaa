"""What a project says of itself in `pyproject.toml` or `setup.cfg`: its dependencies, programs, and where its modules are.

Only what stands there is read. What a build would have to find out is refused: nothing is built for a run of one's own
code.
"""

import configparser
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spell_proto.errors import shown
from spell_proto.requirements import logical_lines

PYPROJECT, SETUP_CFG, SETUP_PY = "pyproject.toml", "setup.cfg", "setup.py"
#: A file that says what a project is.
BYTES_MAX = 1 << 20
_PROGRAMS = ("console_scripts", "gui_scripts")
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
#: It becomes the name of a directory of the machine that the run is on.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
_ENTRY = re.compile(r"(?P<module>\w+(\.\w+)*)\s*:\s*(?P<attribute>\w+(\.\w+)*)\s*(\[[^\]]*\])?")
_COMPILERS = ("maturin", "scikit_build_core", "mesonpy", "setuptools_rust", "py_build_cmake", "sipbuild")
_WHAT_TO_DO = "list them under [project] in pyproject.toml, or in the requirements file in the place of -e"

Table = Mapping[str, Any]
#: The text of a file of the project, none where it has no such file.
Content = Callable[[str], str | None]
#: Whether the project has a directory.
Has = Callable[[str], bool]


class NoProjectError(ValueError):
    """Why a directory cannot be used as a project, in words that go on behind its name."""


@dataclass(frozen=True, slots=True)
class Project:
    """What was read. `roots` are directories to import from, empty where they have to be guessed."""

    name: str
    version: str
    dependencies: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    entry_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    file: str = PYPROJECT

    def needs(self, extras: tuple[str, ...]) -> tuple[str, ...]:
        """The dependencies with those of extras, which may be made of other extras of the project.

        Raises:
            NoProjectError: there is no such extra.
        """
        found = list(self.dependencies)
        wanted, seen = list(extras), set[str]()
        while wanted:
            extra = canonicalize_name(wanted.pop(0))
            if extra in seen:
                continue
            seen.add(extra)
            if extra not in self.extras:
                there = ", ".join(sorted(self.extras)) or "none"
                raise NoProjectError(f"it has no extra {shown(extra)}; there are: {there}")
            for text in self.extras[extra]:
                own = Requirement(text)
                if canonicalize_name(own.name) == canonicalize_name(self.name) and own.url is None:
                    wanted += sorted(own.extras)
                else:
                    found.append(text)
        return tuple(dict.fromkeys(found))

    def programs(self) -> Iterator[tuple[str, str, str]]:
        """Name, module and attribute of each program."""
        for group in _PROGRAMS:
            for name, value in self.entry_points.get(group, {}).items():
                entry = _ENTRY.fullmatch(value.strip())
                if entry is not None and _PROGRAM.fullmatch(name):
                    yield name, entry["module"], entry["attribute"]

    def where(self, has: Has) -> tuple[str, ...]:
        """The directories to import from."""
        if self.roots:
            return self.roots
        module = canonicalize_name(self.name).replace("-", "_")
        return ("src",) if has("src") and not has(module) else (".",)


def read(content: Content) -> Project:
    """What a project says of itself.

    Raises:
        NoProjectError: nothing, or nothing that can be used.
    """
    try:
        return _read(content)
    except NoProjectError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or tables in tables
        raise NoProjectError(f"what it says of itself cannot be read: {shown(str(error))}") from None


def _read(content: Content) -> Project:
    pyproject, setup_cfg = content(PYPROJECT), content(SETUP_CFG)
    setup_py = content(SETUP_PY) is not None
    if pyproject is not None:
        try:
            told = tomllib.loads(pyproject)
        except (ValueError, RecursionError) as error:  # no TOML, or a number of thousands of digits
            raise NoProjectError(f"its {PYPROJECT} is no TOML: {error}") from None
        backend = _table(told, "build-system").get("build-backend", "")
        if str(backend).partition(".")[0].partition(":")[0] in _COMPILERS or _table(
            told, "tool", "setuptools"
        ).get("ext-modules"):
            raise NoProjectError("it has to be compiled, and nothing is built for a run of one's own code")
        if "project" in told:
            return _modern(told, content)
        if "dependencies" in _table(told, "tool", "poetry"):
            raise NoProjectError(f"its dependencies are in a form of poetry's own: {_WHAT_TO_DO}")
    if setup_cfg is not None:
        found = _classic(setup_cfg, content)
        if found is not None and not (setup_py and not found.dependencies):
            return found
    if setup_py:
        raise NoProjectError(f"only {SETUP_PY} knows what it needs, and it is not run before: {_WHAT_TO_DO}")
    raise NoProjectError(
        f"there is no {PYPROJECT} with [project] in it; only files that git knows go with a run"
    )


# ---- pyproject.toml ------------------------------------------------------------------------------------------


def _modern(told: Table, content: Content) -> Project:
    project = _table(told, "project")
    dynamic = _table(told, "tool", "setuptools", "dynamic")
    for key in project["dynamic"] if isinstance(project.get("dynamic"), list) else []:
        if isinstance(key, str) and key in {"dependencies", "optional-dependencies"}:
            if key not in dynamic:
                raise NoProjectError(f"its {key} are dynamic, so only a build can tell them: {_WHAT_TO_DO}")
            project[key] = _in_files(dynamic[key], content)
    name = project.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise NoProjectError(f"its {PYPROJECT} gives it no name")
    entry_points = {
        str(group): _texts(values, group)
        for group, values in {
            **_table(project, "entry-points"),
            "console_scripts": project.get("scripts", {}),
            "gui_scripts": project.get("gui-scripts", {}),
        }.items()
    }
    extras: dict[str, tuple[str, ...]] = {
        canonicalize_name(extra): _requirements(values, f"the extra {extra}")
        for extra, values in _table(project, "optional-dependencies").items()
    }
    version = project.get("version")
    return Project(
        name,
        version if isinstance(version, str) else "0",
        _requirements(project.get("dependencies", []), "its dependencies"),
        extras,
        {group: values for group, values in entry_points.items() if values},
        _roots(told),
    )


def _in_files(told: object, content: Content) -> Any:
    """What setuptools reads from files: a list, or one for each extra."""
    if isinstance(told, dict) and "file" not in told:
        return {extra: _in_files(value, content) for extra, value in told.items()}
    files = told.get("file") if isinstance(told, dict) else None
    found: list[str] = []
    for name in [files] if isinstance(files, str) else files if isinstance(files, list) else [None]:
        path = _below(name)
        text = None if path is None else content(path)
        if text is None:
            raise NoProjectError(f"its dependencies are in {shown(str(name))}, which is no file of it")
        for line in logical_lines(text, str(name)):
            if line.text.startswith("-"):
                raise NoProjectError(
                    f"its dependencies in {shown(str(name))} have an option of pip, {shown(line.text)}"
                )
            found.append(line.text)
    return found


def _roots(told: Table) -> tuple[str, ...]:
    """Where the tools that build packages are told to look for modules."""
    setuptools = _table(told, "tool", "setuptools")
    found = [_table(setuptools, "package-dir").get("")]
    where = _table(setuptools, "packages", "find").get("where")
    found += where if isinstance(where, list) else []
    wheel = _table(told, "tool", "hatch", "build", "targets", "wheel")
    packages = wheel.get("packages")
    found += [str(each).rpartition("/")[0] or "." for each in packages] if isinstance(packages, list) else []
    own = _table(told, "tool", "poetry").get("packages")
    if isinstance(own, list):
        found += [each.get("from", ".") for each in own if isinstance(each, dict)]
    found.append(_table(told, "tool", "pdm", "build").get("package-dir"))
    found.append(_table(told, "tool", "uv", "build-backend").get("module-root"))
    return tuple(dict.fromkeys(path for path in map(_below, found) if path is not None))


def _below(path: object) -> str | None:
    """A directory of the project, none where it leads out."""
    if not isinstance(path, str) or path.startswith("/") or "\0" in path:
        return None
    parts = [part for part in path.split("/") if part not in {"", "."}]
    return None if ".." in parts else "/".join(parts) or "."


def _table(told: Table, *keys: str) -> dict[str, Any]:
    found: Any = told
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _texts(values: object, what: object) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise NoProjectError(f"{shown(str(what))} in its {PYPROJECT} must be a table of texts")
    return values


def _requirements(values: object, what: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise NoProjectError(f"{what} must be a list of texts")
    for value in values:
        try:
            Requirement(value)
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise NoProjectError(f"{what}: {shown(value)} is no package with versions: {reason}") from None
        if "\n" in value or "\r" in value:
            raise NoProjectError(f"{what}: {shown(value)} is no single line")
    return tuple(value.strip() for value in values)


# ---- setup.cfg -----------------------------------------------------------------------------------------------


def _classic(text: str, content: Content) -> Project | None:
    """A declarative `setup.cfg`; none where it is about something else."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of programs keep their case
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise NoProjectError(f"its {SETUP_CFG} cannot be read: {str(error).splitlines()[0]}") from None
    name = parser.get("metadata", "name", fallback="")
    if not name:
        return None
    if not _NAME.fullmatch(name):
        raise NoProjectError(f"its {SETUP_CFG} gives it no name: {shown(name, 80)}")
    needed = parser.get("options", "install_requires", fallback="")
    if needed.strip().startswith("file:"):
        files = [name.strip() for name in needed.strip().removeprefix("file:").split(",")]
        needed = "\n".join(_in_files({"file": files}, content))
    extras = parser["options.extras_require"] if parser.has_section("options.extras_require") else {}
    groups = parser["options.entry_points"] if parser.has_section("options.entry_points") else {}
    version = parser.get("metadata", "version", fallback="0")
    roots = [
        root.partition("=")[2].strip()
        for root in _listed(parser.get("options", "package_dir", fallback=""))
        if root.startswith("=")
    ]
    roots += _listed(parser.get("options.packages.find", "where", fallback=""))
    return Project(
        name,
        "0" if version.startswith(("attr:", "file:")) else version,
        _requirements(_listed(needed), "its dependencies"),
        {canonicalize_name(key): _requirements(_listed(value), key) for key, value in extras.items()},
        {group: _named(_listed(value)) for group, value in groups.items()},
        tuple(path for path in map(_below, roots) if path is not None),
        SETUP_CFG,
    )


def _listed(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _named(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
