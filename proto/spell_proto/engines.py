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


def engines_needed(docker_image: str | None, environment: EnvironmentRequest) -> frozenset[str] | None:
    """The engines of which any can run it; None where every one can."""
    if docker_image is not None:
        return frozenset({DOCKER})
    return frozenset({DOCKER, LOCAL_APT}) if environment.apt else None


def engine_for(
    environment: EnvironmentRequest, docker_image: str | None, engines: Collection[str] = (LOCAL, DOCKER)
) -> Engine:
    """The engine that a run gets on a machine that has these: the machine itself, where that is enough."""
    needed = engines_needed(docker_image, environment)
    possible = engines if needed is None else [each for each in engines if each in needed] or needed
    return LOCAL if {LOCAL, LOCAL_APT} & set(possible) or DOCKER not in possible else DOCKER
