"""What rattler says when it fails → the one sentence that names the package and the reason. Pure."""

import re

from spell_builder import complaints
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_proto.conda import CondaFile
from spell_proto.conda import hidden as _without_user

_NONE = re.compile(r"No candidates were found for (?P<spec>.+?)\.?$")
_FIRST = "Cannot solve the request because of: "
_BRANCH = re.compile(r"^[\s│├└─]+")
_ANY = re.compile(r"(?<=\S) \*(?=[\s,.:]|$)")


def failure(text: str, kind: str, file: CondaFile | None) -> BuildFailedError:
    """The error to raise for what rattler wrote about a request."""
    text = hidden(text)
    if kind == "unsatisfiable":
        return _unsatisfiable(text.removeprefix(_FIRST), file)
    if kind == "spec":
        return BuildFailedError(cut(f"conda: a package of the file cannot be read: {_flat(text)}"))
    sentence = cut(f"conda: the packages cannot be had: {_flat(text.replace('Caused by:', ':'))}")
    sentence += complaints.on_trust(text)
    return IndexUnreachableError(sentence) if complaints.passing(text) else BuildFailedError(sentence)


def _unsatisfiable(text: str, file: CondaFile | None) -> BuildFailedError:
    lines = [_ANY.sub("", _BRANCH.sub("", line)).strip() for line in text.splitlines() if line.strip()]
    none = _NONE.match(lines[0]) if lines else None
    if none is not None:
        spec = none["spec"].rpartition("::")[2].strip()
        name, _, version = spec.partition(" ")
        what = f"no version of {name} that is {version}" if version else f"no package {name}"
        return BuildFailedError(cut(f"conda: there is {what} in the channels{_where(name, file)}"), name)
    name = (lines[0].split() or [""])[0].rpartition("::")[2] if lines else ""
    return BuildFailedError(
        cut(f"conda: the packages do not go together{_where(name, file)}: {' '.join(lines)}"), name or None
    )


def _where(name: str, file: CondaFile | None) -> str:
    lines = [each.place.line for each in file.packages if each.name == name.lower()] if file else []
    return f" (line {lines[0]})" if lines else ""


def _flat(text: str) -> str:
    return " ".join(text.split()).replace(" : ", ": ")


def hidden(text: str) -> str:
    """The text without passwords and what only a terminal understands."""
    return _without_user(complaints.printable(text))


def cut(sentence: str) -> str:
    """One sentence of bearable length."""
    return complaints.cut(sentence)
