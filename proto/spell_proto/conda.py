"""Conda environment files, read by our own rules: plain text in lists and names, each with the line it stands on.

Nothing of YAML that could do more is understood: no aliases, no tags, no second document. `name` and `prefix` mean
nothing here, because an environment is called `spell` and lies where the builder puts it.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from spell_proto import checks
from spell_proto.errors import InvalidError, shown
from spell_proto.requirements import Line, Parsed, no_editables, parse

TEXT_BYTES_MAX = 512 * 1024
FIELD = "conda"
FLAG = "--conda-file"
#: What the environment is called in a run, whatever its file says.
NAME = "spell"
#: Says where something stands, when the name of the file is not known.
_UNNAMED = "conda file"

_PARTS_MAX = 20_000
_DEPTH_MAX = 8
_PACKAGES_MAX = 2_000
_CHANNELS_MAX = 50
_SPEC_CHARS_MAX = 300
_KEYS = ("channels", "dependencies", "name", "prefix")
_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?P<rest>[A-Za-z0-9_.*+!<>=~|,() -]*)", re.ASCII)
_EXACT = re.compile(
    r"(?P<channel>(?:https?|file)://\S+)/[a-z0-9-]+/(?P<name>[a-z0-9_.-]+)-(?P<version>[^-/\s#]+)-(?P<build>[^-/\s#]+)"
    r"\.(?:conda|tar\.bz2)#sha256:(?P<sha256>[0-9a-f]{64})",
    re.ASCII,
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file, counted from 1."""

    file: str
    line: int
    column: int

    def refusal(self, problem: str, code: str = "conda_file_invalid") -> InvalidError:
        """The error for what stands there."""
        file = f"{self.file}, " if self.file else ""
        return InvalidError(
            code, f"{FLAG}: {file}line {self.line}, column {self.column}: {problem}", field=FIELD
        )

    @property
    def origin(self) -> str:
        return f"{self.file or _UNNAMED}:{self.line}"


@dataclass(frozen=True, slots=True)
class Named:
    """A word of a file: a channel, or a package with versions. `channel` is where alone a package may come from."""

    text: str
    place: Place
    name: str = ""
    channel: str | None = None

    def canonical(self) -> str:
        return self.text if self.channel is None else f"{self.channel}::{self.text}"


@dataclass(frozen=True, slots=True)
class Exact:
    """One package file, by its URL and digest."""

    text: str
    place: Place
    channel: str
    name: str
    version: str
    build: str
    sha256: str

    @property
    def url(self) -> str:
        return self.text.partition("#")[0]


@dataclass(frozen=True, slots=True)
class CondaFile:
    """What a file asks for: packages to choose versions of, or exact ones and no others."""

    name: str | None
    prefix: str | None
    channels: tuple[Named, ...]
    packages: tuple[Named, ...]
    exact: tuple[Exact, ...]
    pip: Parsed

    def canonical(self) -> dict[str, Any]:
        """The content without its layout; channels in their order, which matters."""
        return {
            "channels": [channel.text for channel in self.channels],
            "packages": sorted({package.canonical() for package in self.packages}),
            "exact": sorted({package.text for package in self.exact}),
            "pip": self.pip.canonical(),
        }

    def notes(self, file: str) -> tuple[str, ...]:
        """What of the file is not followed."""
        found = []
        if self.name not in {None, "", NAME}:
            found.append(
                f"{FLAG}: {file}: the environment is called '{NAME}' in the run, not {shown(self.name)}"
            )
        if self.prefix is not None:
            found.append(
                f"{FLAG}: {file}: 'prefix' is ignored: the environment lies where the server puts it"
            )
        return tuple(found)


@functools.lru_cache(maxsize=32)
def parse_text(text: str, file: str = "") -> CondaFile:
    """The content of a file.

    Raises:
        InvalidError: what is not allowed, with its line and column.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        raise InvalidError(
            "file_too_large", f"{FLAG}: {size} bytes, at most 512 KiB are allowed", field=FIELD
        )
    odd = _NOT_TEXT.search(text)
    if odd is not None:
        raise InvalidError("not_text", f"{FLAG}: it is no text: see character {odd.start()}", field=FIELD)
    return _file(_tree(text, file), file)


# ---- the schema ----------------------------------------------------------------------------------------------


def _file(top: "_Node", file: str) -> CondaFile:
    if not isinstance(top.value, list) or not top.mapping:
        raise top.place.refusal("'dependencies:' with a list of packages is expected")
    members: dict[str, _Node] = {}
    for key, value in top.pairs():
        if key.value == "variables":
            raise key.place.refusal("'variables' is not supported; set them with --env NAME=VALUE")
        if key.value not in _KEYS:
            raise key.place.refusal(f"{shown(key.text())} is none of {', '.join(_KEYS)}")
        members[key.text()] = value
    if "dependencies" not in members:
        raise top.place.refusal("there is no 'dependencies:', which lists the packages")
    channels = (
        tuple(Named(each.text(), each.place) for each in members["channels"].items("a list of channels"))
        if "channels" in members
        else ()
    )
    if len(channels) > _CHANNELS_MAX:
        raise members["channels"].place.refusal(
            f"{len(channels)} channels, at most {_CHANNELS_MAX} are allowed"
        )
    named, exact, pip = _dependencies(members["dependencies"])
    return CondaFile(
        name=members["name"].text() if "name" in members else None,
        prefix=members["prefix"].text() if "prefix" in members else None,
        channels=tuple(each for each in channels if each.text != "nodefaults"),
        packages=named,
        exact=exact,
        pip=_pip(pip, file),
    )


def _dependencies(node: "_Node") -> tuple[tuple[Named, ...], tuple[Exact, ...], list["_Node"]]:
    named: list[Named] = []
    exact: list[Exact] = []
    pip: list[_Node] | None = None
    items = node.items("a list of packages")
    if len(items) > _PACKAGES_MAX:
        raise node.place.refusal(f"{len(items)} packages, at most {_PACKAGES_MAX} are allowed")
    for item in items:
        if item.mapping:
            if [key.value for key, _ in item.pairs()] != ["pip"] or pip is not None:
                raise item.place.refusal(
                    "one 'pip:' with a list of packages is allowed here, and no other name"
                )
            pip = next(value for _, value in item.pairs()).items("a list of packages")
        elif _URL.match(item.text()) and "::" not in item.text():
            exact.append(_exact(item))
        else:
            named.append(_package(item))
    if exact and named:
        raise named[0].place.refusal(
            f"{shown(named[0].text)} is no exact package, and others are; all or none is allowed"
        )
    return tuple(named), tuple(exact), pip or []


def _package(node: "_Node") -> Named:
    text = " ".join(node.text().split())
    channel, colons, spec = text.rpartition("::")
    found = _PACKAGE.fullmatch(spec)
    if found is None or len(text) > _SPEC_CHARS_MAX or (colons and not channel):
        raise node.place.refusal(
            f"{shown(hidden(text))} is not a package with versions, as in 'numpy>=1.26' or 'numpy 1.26.* py311*'"
        )
    return Named(spec, node.place, found["name"].lower(), channel or None)


def _exact(node: "_Node") -> Exact:
    found = _EXACT.fullmatch(node.text())
    if found is None:
        raise node.place.refusal(
            f"{shown(hidden(node.text()))}: a URL is allowed where it names a package of a channel with its digest, "
            "as `spell env lock` writes it"
        )
    return Exact(node.text(), node.place, **found.groupdict())


def _pip(nodes: "list[_Node]", file: str) -> Parsed:
    if len(nodes) > checks.PIP_COUNT_MAX * 4:
        raise nodes[0].place.refusal(
            f"{len(nodes)} packages for pip, at most {checks.PIP_COUNT_MAX * 4} are allowed"
        )
    try:
        parsed = parse(Line(" ".join(node.text().split()), node.place.origin) for node in nodes)
        no_editables(parsed, "name it in a requirements file (--pip-req) instead")
    except InvalidError as error:
        message = error.message.replace("--pip-req:", f"{FLAG}:", 1)
        if not file:
            message = message.replace(f"{_UNNAMED}, ", "", 1)
        raise InvalidError(error.code, message, field=FIELD) from error
    return parsed


def hidden(url: str) -> str:
    """A URL without user and password."""
    return _CREDENTIALS.sub("…@", url)


# ---- YAML ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """A word (its value is text), a list, or a mapping (its value lists keys and values in turn)."""

    value: "str | list[_Node]"
    place: Place
    mapping: bool = False

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.place.refusal("one word is expected here")
        return self.value

    def items(self, what: str) -> "list[_Node]":
        if self.value == "":
            return []
        if self.mapping or isinstance(self.value, str):
            raise self.place.refusal(f"{what} is expected here, each in a line that begins with '- '")
        return self.value

    def pairs(self) -> "Iterator[tuple[_Node, _Node]]":
        assert isinstance(self.value, list)
        yield from zip(self.value[::2], self.value[1::2], strict=True)


def _tree(text: str, file: str) -> _Node:
    root = _Node([], Place(file, 1, 1))
    open_nodes = [root]
    try:
        for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
            mark = event.start_mark
            assert mark is not None
            place = Place(file, mark.line + 1, mark.column + 1)
            if count > _PARTS_MAX:
                raise place.refusal(f"above {_PARTS_MAX} parts; no environment needs so many")
            _take(event, place, open_nodes)
    except yaml.YAMLError as error:
        raise _unreadable(error, text, file) from error
    assert isinstance(root.value, list)
    if len(root.value) != 1:
        raise (root.value[1].place if root.value else root.place).refusal(
            "a second document is not allowed" if root.value else "it is empty; 'dependencies:' is expected"
        )
    _no_key_twice(root.value[0])
    return root.value[0]


def _take(event: yaml.Event, place: Place, open_nodes: list[_Node]) -> None:
    if isinstance(event, yaml.AliasEvent):
        raise place.refusal("an alias (*name) is not allowed; write what it stands for")
    if isinstance(event, yaml.CollectionEndEvent):
        open_nodes.pop()
    elif isinstance(event, yaml.NodeEvent):
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None:
            raise place.refusal(f"the tag {shown(event.tag)} is not allowed; plain text is")
        value: str | list[_Node] = event.value if isinstance(event, yaml.ScalarEvent) else []
        node = _Node(value, place, isinstance(event, yaml.MappingStartEvent))
        parent = open_nodes[-1].value
        assert isinstance(parent, list)
        parent.append(node)
        if isinstance(value, list):
            open_nodes.append(node)
            if len(open_nodes) > _DEPTH_MAX:
                raise place.refusal(f"above {_DEPTH_MAX - 1} lists, one in the other")


def _no_key_twice(node: _Node) -> None:
    if isinstance(node.value, str):
        return
    seen: set[str] = set()
    if node.mapping:
        for key, _ in node.pairs():
            if key.text() in seen:
                raise key.place.refusal(f"{shown(key.text())} is there twice")
            seen.add(key.text())
    for child in node.value:
        _no_key_twice(child)


def _unreadable(error: yaml.YAMLError, text: str, file: str) -> InvalidError:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Place(file, 1, 1).refusal("it is no YAML")
    place = Place(file, mark.line + 1, mark.column + 1)
    lines = text.splitlines()
    if mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        return place.refusal("there is a tab, where YAML allows spaces only")
    problem = str(getattr(error, "problem", "") or "no more can be made of it")
    return place.refusal(f"it is no YAML: {problem}")
