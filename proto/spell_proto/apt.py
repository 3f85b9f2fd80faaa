"""System packages of a run: what `--apt` may say. Standard library only: the command line imports this module."""

import re
from typing import NamedTuple

from spell_proto.errors import InvalidError, shown

#: What packages change. Where a machine has no merged /usr, the others of it are directories too.
DIRECTORIES = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr", "var")
COUNT_MAX = 200
CHARS_MAX = 200
#: Every other sign means something to apt: `name-` removes, `name/release` and `name:arch` choose, a dot or a star
#: makes a pattern of a name that no package has.
_SPEC = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]+)"
    r"(?:\s*(?P<operator>==|>=|<=|=|>|<)\s*(?P<version>(?:[0-9]+:)?[0-9][A-Za-z0-9.+~-]*))?",
    re.ASCII,
)


class AptPackage(NamedTuple):
    """A package, with a condition on its version or two empty texts. `operator` is == >= <= > or <."""

    name: str
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.version}"


def parse(value: str) -> AptPackage:
    """A package as a person writes it: `ffmpeg`, `ffmpeg==7:5.1.6-0+deb12u1`, `ffmpeg>=7:5`; `=` means `==`.

    Raises:
        InvalidError: it is no name of a package with a version.
    """
    match = _SPEC.fullmatch(value) if len(value) <= CHARS_MAX else None
    # `name-` and `name+` are orders to apt; that `g++` is a package and `bash+` is not, only its index can tell.
    if match is None or match["name"].endswith(("-", ".")):
        raise InvalidError(
            "apt_name_invalid",
            f"--apt: {shown(value, 40)} is not a Debian package, as in ffmpeg, ffmpeg==7:5.1.6-0+deb12u1 or "
            "'ffmpeg>=7:5': small letters, digits, + - and . make a name",
            field="apt",
        )
    operator = "==" if match["operator"] == "=" else match["operator"] or ""
    return AptPackage(match["name"], operator, match["version"] or "")


def packages(values: tuple[str, ...]) -> tuple[str, ...]:
    """All system packages of a run, each in its one form."""
    if len(values) > COUNT_MAX:
        raise InvalidError(
            "too_many_packages",
            f"--apt: {len(values)} packages, at most {COUNT_MAX} are allowed",
            field="apt",
        )
    return tuple(str(parse(value)) for value in values)
