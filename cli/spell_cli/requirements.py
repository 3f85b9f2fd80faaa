"""A requirements file and all that it includes, as the one text that goes with a request."""

import os
import stat
from pathlib import Path

from spell_cli import projects
from spell_cli.spec_from_args import Requirements
from spell_proto.errors import InvalidError, shown
from spell_proto.requirements import (
    CONSTRAINTS,
    FIELD,
    TEXT_BYTES_MAX,
    Line,
    Option,
    Parsed,
    logical_lines,
    no_editables,
    option,
    parse,
    refused,
)

FILES_MAX = 100
_NAME_CHARS_MAX = 200
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read(given: str, directory: Path) -> Requirements:
    """Read the file that was named in `directory`, with the files of its `-r` and `-c` lines in their place.

    Raises:
        InvalidError: a file or a line of one cannot be used.
    """
    path = Path(directory, given)
    reader = _Reader(directory, _root(path))
    reader.include(path, given, None, reader.requirements)
    requirements, constraints = parse(reader.requirements), parse(reader.constraints)
    no_editables(constraints, CONSTRAINTS)
    text, limits = _text(requirements), _text(constraints)
    for each in (text, limits):
        if len(each.encode()) > TEXT_BYTES_MAX:
            raise _too_large(given)
    return Requirements(text, limits or None, tuple(reader.warnings))


def _root(path: Path) -> Path:
    """The repository that a file is in, else its own directory: what its includes may name."""
    own = Path(os.path.normpath(path.parent))
    return next((parent for parent in (own, *own.parents) if (parent / ".git").exists()), own)


class _Reader:
    def __init__(self, directory: Path, root: Path) -> None:
        self._directory = directory
        self._root = root
        self._seen: set[tuple[str, bool]] = set()
        self.requirements: list[Line] = []
        self.constraints: list[Line] = []
        self.warnings: list[str] = []

    def include(self, path: Path, name: str, by: str | None, into: list[Line]) -> None:
        """Add the lines of a file, each file once. `by` says where it is named, but for the first one."""
        text = content(path, name, by)
        real = os.path.realpath(path)
        seen = (real, into is self.constraints)
        if seen in self._seen:
            return
        self._seen.add(seen)
        if len(self._seen) > FILES_MAX:
            raise refused("file_too_large", by or f"{name}:1", f"above {FILES_MAX} files, one in the other")
        if not Path(real).is_relative_to(os.path.realpath(self._root)):
            self.warnings.append(
                f"--pip-req: {name} is a link that leads out of the repository, to {real}; what is in there goes "
                "with the run"
            )
        for line in logical_lines(text, name[-_NAME_CHARS_MAX:]):
            found = option(line)
            if found is not None and found.short == "-e":
                into.append(self._project(found, line.origin))
            elif found is not None and found.short in {"-r", "-c"}:
                self._include(path, found, line.origin, self.constraints if found.short == "-c" else into)
            else:
                into.append(line)

    def _project(self, found: Option, origin: str) -> Line:
        """A project of the repository, from its top; as pip has it, its path is relative to where one stands."""
        if "://" in found.value or found.value.startswith(("git+", "file:", "/", "~")) or not found.value:
            return Line(f"-e {found.value}", origin)  # which is refused, or no directory at all
        return Line(f"-e {projects.from_top(found.value, self._directory, origin)}", origin)

    def _include(self, path: Path, found: Option, origin: str, into: list[Line]) -> None:
        if found.value == "-" or "://" in found.value or "${" in found.value or not found.value:
            raise refused(
                "pip_option_not_allowed",
                origin,
                f"{found.written} {shown(found.value)}: a file of the repository is allowed",
            )
        target = Path(os.path.normpath(path.parent / found.value))
        if not target.is_relative_to(self._root):
            raise refused(
                "pip_option_not_allowed",
                origin,
                f"{found.written} {shown(found.value)}: it is outside of {self._root}, where the files that a "
                "requirements file names must be",
            )
        self.include(target, os.path.relpath(target, self._directory), origin, into)


def content(path: Path, name: str, by: str | None) -> str:
    """The text of a file. `by` says where it is named, but for the one on the command line.

    Raises:
        InvalidError: it cannot be read, or is no text.
    """
    if "\0" in name:
        raise _unreadable("file_not_readable", f"{shown(name)}: no file has such a name", by)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise _unreadable("not_a_file", f"{name} is {kind}", by)
        with path.open("rb") as file:
            raw = file.read(TEXT_BYTES_MAX + 1)
    except FileNotFoundError:
        raise _unreadable("file_not_found", f"file not found: {name}", by) from None
    except OSError as error:
        raise _unreadable("file_not_readable", f"{shown(name)}: {error.strerror}", by) from None
    if len(raw) > TEXT_BYTES_MAX:
        raise _too_large(name)
    if raw.startswith(_BYTE_ORDER_MARKS):
        raise _unreadable("not_text", f"{name} is UTF-16; save it as UTF-8", by)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(
            "not_text", f"{name} is no UTF-8 text: see the byte at position {error.start}", by
        ) from None
    if "\0" in text:
        raise _unreadable("not_text", f"{name} is no text: a NUL byte at position {text.index(chr(0))}", by)
    return text


def _unreadable(code: str, problem: str, by: str | None) -> InvalidError:
    if by is not None:
        return refused(code, by, problem)
    # As this message always was.
    between = " " if code == "file_not_found" else ": "
    return InvalidError(code, f"--pip-req{between}{problem}", field=FIELD)


def _too_large(name: str) -> InvalidError:
    return InvalidError(
        "file_too_large",
        f"--pip-req: {name} is above 512 KiB, with the files that it includes; at most 512 KiB are allowed",
        field=FIELD,
    )


def _text(parsed: Parsed) -> str:
    lines = [f"{index.option} {index.url} # {index.origin}\n" for index in parsed.indexes]
    lines += [f"{editable.text()} # {editable.origin}\n" for editable in parsed.editables]
    lines += [f"{entry.canonical()} # {entry.origin}\n" for entry in parsed.entries]
    return "".join(lines)
