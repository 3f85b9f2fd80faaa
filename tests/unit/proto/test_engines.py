"""Which engine a run gets."""

import pytest

from spell_proto.engines import DOCKER, LOCAL, LOCAL_APT, LOCAL_MOUNTS, engine_for, engines_needed
from spell_proto.spec import EnvironmentRequest

BARE, PIP, APT = EnvironmentRequest(), EnvironmentRequest(pip=("six",)), EnvironmentRequest(apt=("ffmpeg",))


@pytest.mark.parametrize(
    ("environment", "image", "engines", "engine"),
    [
        (BARE, None, (LOCAL, DOCKER), LOCAL),
        (PIP, None, (LOCAL, DOCKER), LOCAL),
        (PIP, None, (DOCKER,), DOCKER),
        (APT, None, (LOCAL, DOCKER), DOCKER),
        (APT, None, (LOCAL, DOCKER, LOCAL_APT), LOCAL),
        (BARE, "docker.io/library/debian:12", (LOCAL, DOCKER), DOCKER),
        (BARE, None, (LOCAL,), LOCAL),
    ],
)
def test_a_run_gets_the_machine_itself_where_that_is_enough(environment, image, engines, engine) -> None:
    assert engine_for(environment, image, engines) == engine


def test_images_need_docker_and_system_packages_what_can_put_them_somewhere() -> None:
    assert engines_needed(None, PIP) is None
    assert engines_needed(None, APT) == {DOCKER, LOCAL_APT}
    assert engines_needed("docker.io/library/debian:12", BARE) == {DOCKER}


def test_what_is_mounted_outside_the_workspace_needs_namespaces_or_a_container():
    assert engines_needed(None, PIP, outside=True) == {DOCKER, LOCAL_MOUNTS}
    assert engines_needed(None, APT, outside=True) == {DOCKER, LOCAL_APT}
    assert engine_for(PIP, None, (LOCAL, LOCAL_MOUNTS, DOCKER), outside=True) == LOCAL
    assert engine_for(PIP, None, (LOCAL, DOCKER), outside=True) == DOCKER
    assert engine_for(PIP, None, (LOCAL, DOCKER)) == LOCAL
