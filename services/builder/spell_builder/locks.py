"""What people are told of the content of an environment: its lock, how much is in it, and what differs. Pure."""

import shlex
from collections.abc import Mapping

from spell_builder import apt, keys, layers, pins
from spell_proto.apt import COUNT_MAX
from spell_proto.environments import EnvironmentDetail

_CHANGES_MAX = 200


def lock(key: str, about: Mapping[str, str], resolved: str) -> str:
    """The exact content as a file for --pip-req or --conda-file, below the command that takes it."""
    words = ["spell", "run"]
    system = layers.apt_part(resolved)
    if layers.is_conda(resolved):
        words += ["--conda-file", "FILE"]
    else:
        words += ["--python", about.get("version", "Python").partition(" ")[2]]
        # Nothing but comments is no requirements file to speak of.
        words += ["--pip-req", "FILE"] if layers.pip_part(resolved) or not system else []
    for package in system[:COUNT_MAX]:
        words += ["--apt", f"{package.name}=={package.version}"]
    header = f"# Environment {key}\n# {shlex.join(words)}\n"
    if len(system) > COUNT_MAX:
        header += "# There are more system packages than a command takes: only spell rerun gives all the same again.\n"
    if keys.of_image(about):
        header += f"# Base image {about['base']}: of the server (SPELL_DOCKER_IMAGE), or of a --framework\n"
    return header + resolved


def count(resolved: str) -> int:
    """How many packages there are."""
    return sum(1 for _ in pins.read(layers.without_apt(resolved))) + len(_system(resolved))


def changes(before: EnvironmentDetail, after: EnvironmentDetail) -> tuple[str, ...]:
    """What differs, a line for each."""
    old, new = _versions(before.lock), _versions(after.lock)
    found = []
    if before.environment.python != after.environment.python:
        found.append(f"{before.environment.python} → {after.environment.python}")
    if before.libc != after.libc:
        found.append(f"{before.libc} → {after.libc}")
    for name in sorted(old | new):
        if name not in new:
            found.append(f"- {name} {old[name]}")
        elif name not in old:
            found.append(f"+ {name} {new[name]}")
        elif old[name] != new[name]:
            found.append(f"{name} {old[name]} → {new[name]}")
    return tuple(found[:_CHANGES_MAX])


def _versions(resolved: str) -> dict[str, str]:
    found = {pin.name: pin.version for pin in pins.read(layers.without_apt(resolved))}
    return found | {f"{package.name} (apt)": package.version for package in _system(resolved)}


def _system(resolved: str) -> tuple[apt.Exact, ...]:
    return layers.base_part(resolved) + layers.apt_part(resolved)
