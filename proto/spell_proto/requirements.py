"""Requirements files, read by our own rules: nothing in one leads pip anywhere that was not looked at first.

A file is read twice: by the command line, which puts the files that it includes in place of their names, and by the
server, which gets one flat text. There each line may end with ` # FILE:LINE`, which says where it came from.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from spell_proto import checks, git_packages
from spell_proto.errors import InvalidError, shown
from spell_proto.git_packages import GitPackage, NoGitPackageError

#: The flat text of a request.
TEXT_BYTES_MAX = 512 * 1024
FIELD = "requirements"
#: Why some lines cannot stand in a file of constraints.
CONSTRAINTS = "constraints choose versions and install nothing"

_COMMENT = re.compile(r"(^|\s)#.*$")
_ORIGIN = re.compile(r"\s# (?P<origin>\S.{0,254}:[0-9]{1,7})$")
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_PER_REQUIREMENT = re.compile(r"\s--?[a-z]")
_HASH = re.compile(r"--hash(?:\s*=\s*|\s+)(?P<hash>\S+)")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_OPTION = re.compile(r"(?P<name>--[a-z-]+|-[a-zA-Z])(?:\s*=\s*|\s*)(?P<value>.*)", re.DOTALL)
#: `./sub[extra]`; no URL, no absolute path, no option behind it.
_PROJECT = re.compile(r"(?P<path>(?![/~])[^\[\]:\\#]+?)(\[(?P<extras>[A-Za-z0-9._, -]*)\])?", re.ASCII)
_PLACE = re.compile(r"[./~\\]|file:", re.IGNORECASE)
_INDEX_OPTIONS = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--pypi-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
}
_WHY_NOT = {
    "-r": "the files it names are with the caller; `spell run --pip-req` puts them in its place",
    "-c": "the files it names are with the caller; `spell run --pip-req` puts them in its place",
    "-f": "packages come from an index, which says what their hashes are",
}
_LONG = {"--requirement": "-r", "--constraint": "-c", "--editable": "-e", "--find-links": "-f"}


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line: its text without comments, and where it stands."""

    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A package with versions, the hashes that its files may have (any where there are none), and its origin. One that
    comes from a repository (`git`) may have no name yet.
    """

    requirement: str
    name: str
    hashes: tuple[str, ...]
    origin: str
    git: GitPackage | None = None

    def canonical(self) -> str:
        return " ".join((self.requirement, *(f"--hash={item}" for item in self.hashes)))


@dataclass(frozen=True, slots=True)
class Editable:
    """A project of the repository (`-e`): its directory, from the top of it, and which of its extras are wanted."""

    path: str
    extras: tuple[str, ...]
    origin: str

    def text(self) -> str:
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"-e {self.path}{extras}"


@dataclass(frozen=True, slots=True)
class Index:
    """Where else packages come from."""

    option: str
    url: str
    origin: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.lower()


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a flat text asks for."""

    entries: tuple[Entry, ...] = ()
    indexes: tuple[Index, ...] = ()
    #: Not part of the environment: they are imported from where they stand.
    editables: tuple[Editable, ...] = ()

    @property
    def repositories(self) -> tuple[Entry, ...]:
        """The packages that come from repositories."""
        return tuple(entry for entry in self.entries if entry.git is not None)

    @property
    def hashed(self) -> bool:
        return any(entry.hashes for entry in self.entries)

    def canonical(self) -> list[str]:
        """The content without its order and comments; indexes in their order, which matters."""
        indexes = [f"{index.option} {index.url}" for index in self.indexes]
        return indexes + sorted({entry.canonical() for entry in self.entries})


def logical_lines(text: str, name: str) -> Iterator[Line]:
    """The lines of a file as pip reads them: continued behind a backslash, without comments and empty lines."""
    parts: list[str] = []
    begun = 0
    for number, raw in enumerate(text.splitlines(), start=1):
        begun = begun or number
        going_on = raw.endswith("\\") and not raw.lstrip().startswith("#")
        parts.append(raw[:-1] if going_on else raw)
        if not going_on:
            yield from _line("".join(parts), f"{name}:{begun}")
            parts, begun = [], 0
    if parts:
        yield from _line("".join(parts), f"{name}:{begun}")


def _line(text: str, origin: str) -> Iterator[Line]:
    said = _ORIGIN.search(text)
    plain = _COMMENT.sub("", text).strip()
    if plain:
        yield Line(plain, said["origin"] if said else origin)


class Option(NamedTuple):
    """A line that is an option: its name, short where pip has a short one, as it is written, and its value."""

    short: str
    written: str
    value: str


def option(line: Line) -> Option | None:
    """The option that a line is; none for a package."""
    if not line.text.startswith("-"):
        return None
    found = _OPTION.match(line.text)
    if found is None:
        raise refused("pip_spec_invalid", line.origin, f"{shown(line.text)} is no package with versions")
    name = found["name"]
    return Option(_LONG.get(name, name), name, found["value"].strip())


def refused(code: str, origin: str, problem: str) -> InvalidError:
    """The error for something at `FILE:LINE`."""
    name, _, number = origin.rpartition(":")
    return InvalidError(code, f"--pip-req: {name}, line {number}: {problem}", field=FIELD)


@functools.lru_cache(maxsize=32)
def parse_text(text: str) -> Parsed:
    """The content of a flat text.

    Raises:
        InvalidError: a line that is not allowed, with its number and the file it came from.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        raise InvalidError(
            "file_too_large",
            f"--pip-req: {size} bytes with all included files, at most 512 KiB are allowed",
            field=FIELD,
        )
    if "\0" in text or not _encodable(text):
        raise InvalidError("not_text", "--pip-req: it is not UTF-8 text", field=FIELD)
    return parse(logical_lines(text, FIELD))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse(lines: Iterable[Line]) -> Parsed:
    """The content of lines; see `parse_text`."""
    entries: list[Entry] = []
    indexes: list[Index] = []
    editables: list[Editable] = []
    for line in lines:
        _no_variables(line)
        named = option(line)
        if named is None:
            entries.append(_entry(line))
        elif named.short in _INDEX_OPTIONS:
            indexes.append(_index(_INDEX_OPTIONS[named.short], named.value, line.origin))
        elif named.short == "-e" and named.value.startswith("git+"):
            entries.append(_entry(Line(named.value, line.origin)))
        elif named.short == "-e":
            editables.append(_editable(named.value, line.origin))
        elif named.short != "--require-hashes":  # follows from the hashes
            raise not_allowed(named.written, line.origin)
    parsed = Parsed(tuple(entries), tuple(indexes), tuple(editables))
    _all_or_none_hashed(parsed)
    return parsed


def not_allowed(name: str, origin: str) -> InvalidError:
    """An option of pip that a requirements file may not have here."""
    short = _LONG.get(name, name)
    why = f": {_WHY_NOT[short]}" if short in _WHY_NOT else ""
    return refused("pip_option_not_allowed", origin, f"the option {name} is not allowed{why}")


def _editable(value: str, origin: str) -> Editable:
    found = _PROJECT.fullmatch(value)
    parts = found["path"].split("/") if found else []
    if found is None or len(value) > checks.PIP_SPEC_CHARS_MAX or ".." in parts or not value.isprintable():
        raise refused(
            "pip_option_not_allowed",
            origin,
            f"-e {shown(_hidden(value))}: a directory of the repository is allowed, as in "
            "-e . or -e ./sub[extra]",
        )
    path = "/".join(part for part in parts if part not in {"", "."}) or "."
    extras = tuple(
        sorted({canonicalize_name(each) for each in (found["extras"] or "").split(",") if each.strip()})
    )
    return Editable(path, extras, origin)


def no_editables(parsed: Parsed, why: str) -> None:
    """Refuse projects of the repository where there can be none."""
    for editable in parsed.editables:
        raise refused(
            "pip_option_not_allowed", editable.origin, f"{editable.text()} is not allowed here: {why}"
        )


def _no_variables(line: Line) -> None:
    found = _VARIABLE.search(line.text)
    if found is not None:
        raise refused(
            "pip_option_not_allowed",
            line.origin,
            f"{found[0]}: variables are not allowed; nothing is put in their place",
        )


def _entry(line: Line) -> Entry:
    text, hashes = line.text, []
    rest = _PER_REQUIREMENT.search(text)
    if rest is not None:
        options = text[rest.start() :].strip()
        text = text[: rest.start()].strip()
        for word in _HASH.finditer(options):
            if not _SHA256.fullmatch(word["hash"]):
                raise refused(
                    "pip_hash_invalid",
                    line.origin,
                    f"{shown(word['hash'])}: sha256: and 64 digits are allowed",
                )
            hashes.append(word["hash"])
        other = _HASH.sub("", options).strip()
        if other:
            raise not_allowed(re.split(r"[\s=]", other, maxsplit=1)[0], line.origin)
    if len(text) > checks.PIP_SPEC_CHARS_MAX:
        raise refused("pip_spec_too_long", line.origin, f"{shown(text, 40)} is above 1,000 characters")
    if git_packages.looks_like_one(text):
        return _from_git(text, hashes, line.origin)
    requirement = _requirement(text, line.origin)
    name = canonicalize_name(requirement.name)
    return Entry(str(requirement), name, tuple(sorted(set(hashes))), line.origin)


def _from_git(text: str, hashes: list[str], origin: str) -> Entry:
    try:
        package = git_packages.parse(text)
    except NoGitPackageError as error:
        raise refused("pip_url_not_allowed", origin, str(error)) from None
    if hashes:
        raise refused(
            "pip_hash_invalid",
            origin,
            f"{package.url}: a repository has no --hash; name its full commit hash, as in @{'0123456789' * 4}",
        )
    name = canonicalize_name(package.name) if package.name else ""
    return Entry(package.requirement(), name, (), origin, package)


def _requirement(text: str, origin: str) -> Requirement:
    if "://" in text or _PLACE.match(text) or text.lower().endswith((".whl", ".zip", ".tar.gz")):
        raise _no_url(text, origin)
    try:
        requirement = Requirement(text)
    except (InvalidRequirement, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise refused(
            "pip_spec_invalid",
            origin,
            f"{shown(text)} is not a package with versions, as in 'numpy>=1.26': {reason}",
        ) from None
    if requirement.url is not None:
        raise _no_url(text, origin)
    return requirement


def _no_url(text: str, origin: str) -> InvalidError:
    text = _hidden(text)
    return refused(
        "pip_url_not_allowed",
        origin,
        f"{shown(text)}: a package name is allowed, no path and no URL but git+https://",
    )


def _hidden(text: str) -> str:
    return re.sub(r"://[^/\s]*@", "://…@", text)


def _index(name: str, url: str, origin: str) -> Index:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or len(url) > checks.URL_CHARS_MAX or not url.isascii() or re.search(r"\s", url):
        raise refused("pip_index_not_allowed", origin, f"{name}: {shown(url)} is not the URL of an index")
    if parts.scheme != "https":
        raise refused(
            "pip_index_not_allowed", origin, f"{name}: {shown(parts.scheme)}: only https is allowed"
        )
    if "@" in parts.netloc:
        raise refused(
            "pip_index_not_allowed",
            origin,
            f"{name}: a URL with a user or password is not allowed: it would be stored with the run",
        )
    if parts.query or parts.fragment:
        raise refused("pip_index_not_allowed", origin, f"{name}: {shown(url)}: no ? and no # are allowed")
    return Index(name, url, origin)


def _all_or_none_hashed(parsed: Parsed) -> None:
    """As pip has it: where one file is held against its hash, all are. A package that is not would be a back door. Unlike
    pip, a full commit hash is as good.
    """
    if not parsed.hashed:
        return
    for editable in parsed.editables:
        raise refused(
            "pip_hash_missing",
            editable.origin,
            f"{editable.text()}: a directory has no --hash, and other lines have one; all or none is allowed",
        )
    for entry in parsed.entries:
        if entry.git is not None:
            if not entry.git.exact:
                raise refused(
                    "pip_hash_missing",
                    entry.origin,
                    f"{entry.name or entry.git.url} is not named by its full commit hash, and other lines have a "
                    "--hash; all or none is allowed",
                )
            continue
        if not entry.hashes:
            raise refused(
                "pip_hash_missing",
                entry.origin,
                f"{entry.name} has no --hash, and other lines have one; all or none is allowed",
            )
        pins = [item for item in Requirement(entry.requirement).specifier if item.operator in {"==", "==="}]
        if not pins or any("*" in item.version for item in pins):
            raise refused(
                "pip_hash_missing",
                entry.origin,
                f"{entry.name}: a --hash needs an exact version, as in {entry.name}==1.0",
            )
