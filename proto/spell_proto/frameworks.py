"""Names of frameworks: what `--framework` may say. Standard library only: the command line imports this module."""

import re
from typing import NamedTuple

from spell_proto.errors import InvalidError, shown

CHARS_MAX = 100
_FRAMEWORK = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,62})(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9.+!_-]*))?", re.ASCII
)


class Framework(NamedTuple):
    """A name in small letters, and a version or an empty text."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


def parse(value: str) -> Framework:
    """A framework as a person writes it: `pytorch` or `pytorch==2.9.1`, in whatever case.

    Raises:
        InvalidError: it cannot be the name of one. Whether there is one of that name is for the table to say.
    """
    match = _FRAMEWORK.fullmatch(value) if len(value) <= CHARS_MAX else None
    if match is None:
        raise InvalidError(
            "framework_invalid",
            f"--framework: {shown(value, 40)} is not NAME or NAME==VERSION, as in pytorch or pytorch==2.9.1; "
            "`spell frameworks` lists them",
            field="framework",
        )
    return Framework(match["name"].lower(), match["version"] or "")


def framework(value: str) -> str:
    """A framework in its one form."""
    return str(parse(value))
