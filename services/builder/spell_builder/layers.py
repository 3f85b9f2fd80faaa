"""The exact content of an environment as one text: pinned pip packages, alone or on top of exact conda packages, with
system packages as comments in front of it. Pure.

The text with conda packages is a conda environment file that gives the same environment again.
"""

import json
from collections.abc import Iterable
from urllib.parse import unquote

from spell_builder import apt
from spell_proto.conda import Exact, parse_text
from spell_proto.requirements import logical_lines

_CONDA = "dependencies:\n"
_PIP = "- pip:\n"
#: Packages that every environment on a base image gets where the image lacks them, and those that were asked for.
_BASE_PACKAGE, _APT_PACKAGE = "# base: ", "# apt: "


def is_conda(resolved: str) -> bool:
    return without_apt(resolved).startswith(_CONDA)


def with_apt(base: Iterable[apt.Exact], packages: Iterable[apt.Exact], rest: str) -> str:
    """The text with system packages in front."""
    lines = [f"{_BASE_PACKAGE}{package}\n" for package in base]
    return "".join([*lines, *(f"{_APT_PACKAGE}{package}\n" for package in packages), rest])


def without_apt(resolved: str) -> str:
    """What is not about system packages."""
    lines = resolved.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith((_BASE_PACKAGE, _APT_PACKAGE)))


def base_part(resolved: str) -> tuple[apt.Exact, ...]:
    """The system packages that were missing in the base image."""
    return _packages(resolved, _BASE_PACKAGE)


def apt_part(resolved: str) -> tuple[apt.Exact, ...]:
    """The system packages that were asked for, and those they need."""
    return _packages(resolved, _APT_PACKAGE)


def _packages(resolved: str, mark: str) -> tuple[apt.Exact, ...]:
    lines = resolved.splitlines()
    return tuple(apt.read_exact(line.removeprefix(mark)) for line in lines if line.startswith(mark))


def joined(packages: Iterable[str]) -> str:
    """The text for conda packages: URLs with digests."""
    return "".join([_CONDA, *(f"- {json.dumps(package)}\n" for package in sorted(set(packages)))])


def with_pip(resolved: str, pip: str) -> str:
    """The text for conda packages with what pip installs over them."""
    if not pip:
        return resolved
    return "".join(
        [
            resolved,
            _PIP,
            *(f"  - {json.dumps(' '.join(line.text.split()))}\n" for line in logical_lines(pip, "pip")),
        ]
    )


def without_pip(resolved: str) -> str:
    """The conda packages alone."""
    return resolved.partition(_PIP)[0]


def pip_part(resolved: str) -> str:
    """What pip installs: the whole text where there is no conda."""
    resolved = without_apt(resolved)
    if not is_conda(resolved):
        return resolved
    _, _, rest = resolved.partition(_PIP)
    return "".join(json.loads(line[4:]) + "\n" for line in rest.splitlines())


def conda_part(resolved: str) -> tuple[Exact, ...]:
    """The packages that conda installs."""
    if not is_conda(resolved):
        return ()
    return parse_text(without_pip(without_apt(resolved))).exact


def title(package: Exact) -> str:
    """A package as people name it."""
    return f"{package.name}=={unquote(package.version)}"
