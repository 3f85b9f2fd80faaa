"""What a Docker daemon says of itself, and what follows from that. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Below these, a container can get out of itself by holes that are known; one for each series that got the repair:
#: CVE-2025-31133, -52565 and -52881 (runc), CVE-2024-25621 and -2025-64329 (containerd), CVE-2024-41110 (Docker).
_FLOORS = {
    "runc": ((1, 2, 8), (1, 3, 3)),
    "containerd": ((1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0)),
    "Engine": ((23, 0, 15), (25, 0, 6), (26, 1, 5), (27, 1, 1)),
}
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")
#: Where users are mapped, the data of the daemon lies in a directory that is named after whom root is mapped to.
_MAPPED_ROOT = re.compile(r"/(\d{1,10})\.(\d{1,10})/?$")
#: Processors whose programs another one runs as well.
_ALSO = {"amd64": ("386",), "arm64": ("arm",)}


@dataclass(frozen=True, slots=True)
class About:
    """`outdated` has a phrase for each part that is too old. `mapped` is to whom root in a container is mapped, user and
    group; null where it is the machine's own.
    """

    version: str
    api: str
    processor: str
    outdated: tuple[str, ...]
    maps_users: bool
    mapped: tuple[int, int] | None

    def runs(self, processor: str) -> bool:
        """Whether programs for this kind of processor run here. What does not say what it is for is tried."""
        mine = self.processor
        return processor in {"", mine, *_ALSO.get(mine, ())} or not mine


def read(version: Mapping[str, Any], info: Mapping[str, Any]) -> About:
    """What the answers of `/version` and `/info` say.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: they are not what Docker answers.
    """
    components = {part.get("Name"): part.get("Version") or "" for part in version.get("Components") or ()}
    options = info.get("SecurityOptions") or ()
    maps_users = any(option.split(",")[0] == "name=userns" for option in options)
    root = _MAPPED_ROOT.search(info.get("DockerRootDir") or "") if maps_users else None
    return About(
        version=version["Version"],
        api=version["ApiVersion"],
        processor=version.get("Arch") or "",
        outdated=tuple(
            f"{name} {components[name]} is older than {' or '.join(map(_shown, floors))}"
            for name, floors in _FLOORS.items()
            if name in components and below(components[name], floors)
        ),
        maps_users=maps_users,
        mapped=(int(root[1]), int(root[2])) if root else None,
    )


def below(version: str, floors: tuple[tuple[int, int, int], ...]) -> bool:
    """Whether a version is older than the one of its series that was repaired. What is no version is not held against it."""
    found = _VERSION.match(version)
    if found is None:
        return False
    parts = (int(found[1]), int(found[2]), int(found[3] or 0))
    if parts[:2] > floors[-1][:2]:
        return False
    return not any(parts[:2] == floor[:2] and parts >= floor for floor in floors)


def _shown(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))
