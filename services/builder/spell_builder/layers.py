"""The exact content of an environment as one text: pinned pip packages, alone or on top of exact conda packages. Pure.

The text with conda packages is a conda environment file that gives the same environment again.
"""

import json
from collections.abc import Iterable
from urllib.parse import unquote

from spell_proto.conda import Exact, parse_text
from spell_proto.requirements import logical_lines

_CONDA = "dependencies:\n"
_PIP = "- pip:\n"


def is_conda(resolved: str) -> bool:
    return resolved.startswith(_CONDA)


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


def pip_part(resolved: str) -> str:
    """What pip installs: the whole text where there is no conda."""
    if not is_conda(resolved):
        return resolved
    _, _, rest = resolved.partition(_PIP)
    return "".join(json.loads(line[4:]) + "\n" for line in rest.splitlines())


def conda_part(resolved: str) -> tuple[Exact, ...]:
    """The packages that conda installs."""
    if not is_conda(resolved):
        return ()
    return parse_text(resolved.partition(_PIP)[0]).exact


def title(package: Exact) -> str:
    """A package as people name it."""
    return f"{package.name}=={unquote(package.version)}"
