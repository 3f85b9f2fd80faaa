"""The engines that run commands, and which of them can run what is asked for. Pure."""

from spell_proto.spec import EnvironmentRequest

#: On the machine itself, and in a container.
LOCAL, DOCKER = "local", "docker"


def engines_needed(docker_image: str | None, environment: EnvironmentRequest) -> frozenset[str] | None:
    """The engines of which any can run it; None where every one can."""
    del environment
    return None if docker_image is None else frozenset({DOCKER})
