"""The engines that run commands, and which of them can run what is asked for. Pure."""

from collections.abc import Collection
from typing import Final, Literal

from spell_proto.spec import EnvironmentRequest

Engine = Literal["local", "docker"]
#: On the machine itself, and in a container.
LOCAL: Final = "local"
DOCKER: Final = "docker"
#: No engine, but what the local one may be able to do besides: put system packages over its machine.
LOCAL_APT: Final = "local-apt"
#: Likewise: show resources outside the workspace, for which it needs namespaces. What can do the former can do this.
LOCAL_MOUNTS: Final = "local-mounts"
_ON_THE_MACHINE: Final = frozenset({LOCAL, LOCAL_APT, LOCAL_MOUNTS})


def engines_needed(
    docker_image: str | None, environment: EnvironmentRequest, *, outside: bool = False
) -> frozenset[str] | None:
    """The engines of which any can run it; None where every one can. `outside` says that it mounts something outside the
    workspace.
    """
    if docker_image is not None:
        return frozenset({DOCKER})
    if environment.apt:
        return frozenset({DOCKER, LOCAL_APT})
    return frozenset({DOCKER, LOCAL_MOUNTS}) if outside else None


def engine_for(
    environment: EnvironmentRequest,
    docker_image: str | None,
    engines: Collection[str] = (LOCAL, DOCKER),
    *,
    outside: bool = False,
) -> Engine:
    """The engine that a run gets on a machine that has these: the machine itself, where that is enough."""
    needed = engines_needed(docker_image, environment, outside=outside)
    possible = engines if needed is None else [each for each in engines if each in needed] or needed
    return LOCAL if _ON_THE_MACHINE & set(possible) or DOCKER not in possible else DOCKER
