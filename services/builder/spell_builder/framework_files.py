"""Files that hold frameworks: read, and checked to the last field. Every mistake is one sentence with its place."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from spell_proto import apt, frameworks, images
from spell_proto.errors import InvalidError, SettingsError, shown

T = TypeVar("T")

FILE_BYTES_MAX = 1024 * 1024
TEXT_CHARS_MAX = 300
_PARTS = ("common", "frameworks")


@dataclass(frozen=True, slots=True)
class Variant:
    """What a framework is made from on one kind of machine: packages on a base, or an image with everything in it.

    The first package is the framework itself. An empty `base_image` is the one that the machine gives to all.
    """

    packages: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    base_image: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A framework. `version` is the only one that there is; `common` whether the packages of all frameworks are in it.

    `note` is said to whoever asks for it without a version. `trusted`: an operator wrote it.
    """

    name: str
    summary: str
    cpu: Variant
    cuda: Variant
    aliases: tuple[str, ...] = ()
    python: str = ""
    version: str = ""
    note: str = ""
    common: bool = True
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """What a file holds. `common` is None where it says nothing of it."""

    entries: tuple[Entry, ...]
    common: tuple[str, ...] | None


def load(path: Path, *, trusted: bool) -> File:
    """The content of the file of an operator, or of ours.

    Raises:
        SettingsError: it cannot be read, or something in it is wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"the frameworks of {path} cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise SettingsError(f"the frameworks of {path} are {len(data)} bytes, at most 1 MiB are allowed")
    try:
        return read(data.decode(), str(path), trusted=trusted)
    except UnicodeDecodeError:
        raise SettingsError(f"the frameworks of {path} are not UTF-8 text") from None


def read(text: str, name: str, *, trusted: bool = True) -> File:
    """The content of a text; see `load`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name} is no TOML file: {error}") from error
    place = _Place(name)
    for part in content.keys() - set(_PARTS):
        raise place.wrong(part, f"there is no such part; there are {' and '.join(_PARTS)}")
    tables = content.get("frameworks", {})
    if not isinstance(tables, dict):
        raise place.wrong("frameworks", "a table for each framework is expected, as in [frameworks.pytorch]")
    common = _packages(place, content, "common") if "common" in content else None
    entries = tuple(_entry(name, key, table, trusted) for key, table in tables.items())
    seen: dict[str, str] = {}
    for entry in entries:
        for word in (entry.name, *entry.aliases):
            if seen.setdefault(word, entry.name) != entry.name or entry.aliases.count(word) > 1:
                raise _Place(name, entry.name).wrong(
                    "aliases", f"{word} is taken by [frameworks.{seen[word]}]"
                )
    return File(entries, common)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which file something stands."""

    file: str
    table: str = ""

    def wrong(self, field: str, problem: str) -> SettingsError:
        table = f"[frameworks.{self.table}] " if self.table else ""
        return SettingsError(f"{self.file}: {table}{field}: {problem}")


def _entry(file: str, name: str, table: Any, trusted: bool) -> Entry:
    place = _Place(file, name)
    if not isinstance(table, dict):
        raise place.wrong("", "a table is expected, as in [frameworks.pytorch]")
    if _name(place, "", name) != name:
        raise place.wrong("", "the name of a framework is written in small letters")
    variant_fields = {field.name for field in fields(Variant)}
    known = {"summary", "aliases", "python", "version", "note", "common", "cuda", *variant_fields}
    _no_others(place, table, known)
    cuda = table.get("cuda", {})
    if not isinstance(cuda, dict):
        raise place.wrong("cuda", 'a table is expected, as in cuda = { packages = ["jax[cuda13]"] }')
    inner = _Place(file, f"{name}.cuda")
    _no_others(inner, cuda, variant_fields)
    if "packages" in cuda or "image" in cuda:
        # The one takes the place of the other.
        table_without = {key: value for key, value in table.items() if key not in {"packages", "image"}}
    else:
        table_without = table
    cpu = _variant(place, table)
    entry = Entry(
        name,
        _text(place, table, "summary", required=True),
        cpu,
        _variant(inner, table_without | cuda),
        tuple(_name(place, "aliases", each) for each in _list(place, table, "aliases")),
        _python(place, table),
        _text(place, table, "version"),
        _text(place, table, "note"),
        _bool(place, table, "common", default=True),
        trusted,
    )
    if entry.version and not (entry.cpu.image and entry.cuda.image):
        raise place.wrong(
            "version", "only what exists as an image has one version; packages have those of the index"
        )
    return entry


def _no_others(place: _Place, table: Mapping[str, Any], known: set[str]) -> None:
    for field in table:
        if field not in known:
            raise place.wrong(field, f"there is no such field; there are {', '.join(sorted(known))}")


def _variant(place: _Place, table: Mapping[str, Any]) -> Variant:
    found = Variant(
        _packages(place, table, "packages"),
        tuple(_index(place, url) for url in _list(place, table, "indexes")),
        tuple(_checked(place, "apt", _apt, each) for each in _list(place, table, "apt")),
        _image(place, table, "base_image"),
        _image(place, table, "image"),
    )
    if bool(found.packages) == bool(found.image):
        raise place.wrong("packages", "either packages or an image is needed, and not both")
    if found.image and (found.indexes or found.apt or found.base_image):
        raise place.wrong(
            "image", "it has everything in it: indexes, apt and base_image cannot stand beside it"
        )
    return found


def _list(place: _Place, table: Mapping[str, Any], field: str) -> list[str]:
    value = table.get(field, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise place.wrong(field, "a list of texts is expected")
    return value


def _text(place: _Place, table: Mapping[str, Any], field: str, *, required: bool = False) -> str:
    value = table.get(field, "")
    if not isinstance(value, str) or not (value.isprintable() and len(value) <= TEXT_CHARS_MAX):
        raise place.wrong(field, f"a text in one line is expected, of at most {TEXT_CHARS_MAX} characters")
    if required and not value.strip():
        raise place.wrong(field, "it is missing")
    return value.strip()


def _bool(place: _Place, table: Mapping[str, Any], field: str, *, default: bool) -> bool:
    value = table.get(field, default)
    if not isinstance(value, bool):
        raise place.wrong(field, "true or false is expected")
    return value


def _name(place: _Place, field: str, value: str) -> str:
    found = _checked(place, field, frameworks.parse, value)
    if found.version:
        raise place.wrong(field, f"{shown(value)} has a version; a name is expected")
    return found.name


def _packages(place: _Place, table: Mapping[str, Any], field: str) -> tuple[str, ...]:
    return tuple(_package(place, field, each) for each in _list(place, table, field))


def _package(place: _Place, field: str, text: str) -> str:
    try:
        requirement = Requirement(text)
    except (InvalidRequirement, RecursionError):
        raise place.wrong(field, f"{shown(text)} is not a package with versions, as in 'numpy>=2'") from None
    if requirement.url is not None:
        raise place.wrong(field, f"{shown(text)}: a package name is allowed, no URL and no path")
    return str(requirement)


def _apt(text: str) -> str:
    return str(apt.parse(text))


def _image(place: _Place, table: Mapping[str, Any], field: str) -> str:
    text = _text(place, table, field)
    return _checked(place, field, images.whole, text) if text else ""


def _python(place: _Place, table: Mapping[str, Any]) -> str:
    text = _text(place, table, "python")
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise place.wrong("python", f"{shown(text)} is no range of versions, as in >=3.10,<3.14") from None
    return text


def _index(place: _Place, url: str) -> str:
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good or parts.scheme != "https" or "@" in parts.netloc or parts.query or parts.fragment:
        raise place.wrong(
            "indexes", f"{shown(url)} is not the https URL of an index, without a user, ? and #"
        )
    return url


def _checked(place: _Place, field: str, parse: Callable[[str], T], value: str) -> T:
    """What a check of the command line gives, its complaint about a flag turned into one about a field."""
    try:
        return parse(value)
    except InvalidError as error:
        raise place.wrong(field, error.message.partition(": ")[2] or error.message) from None
