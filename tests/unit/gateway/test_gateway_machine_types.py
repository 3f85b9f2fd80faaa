"""Which machines a run may go to: a name is found or refused, and so is what none of them can run."""

import pytest

from spell_gateway.machine_types import accelerated, field, pick
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest
from spell_proto.views import MachineTypeList, MachineTypeView

DOCKER = frozenset({"docker"})


def kind(name, machines=1, engines=("local",), gpus=0):
    return MachineTypeView(
        name=name, machines=machines, slots=machines, slots_used=0, engines=engines, gpus=gpus
    )


def listed(*kinds):
    return MachineTypeList(machine_types=kinds, default=kinds[0].name)


def test_a_type_is_found_in_any_letter_case_and_the_first_is_the_default():
    kinds = listed(kind("CPU"), kind("T4"))

    assert pick(kinds, "t4", None, "docker_image").name == "T4"
    assert pick(kinds, None, None, "docker_image").name == "CPU"


def test_a_name_that_is_nearly_one_is_asked_back():
    with pytest.raises(InvalidError) as caught:
        pick(listed(kind("CPU"), kind("V100")), "V10", None, "docker_image")

    assert (caught.value.field, caught.value.hint) == ("machine_type", "Did you mean V100?")


def test_an_image_is_refused_where_docker_is_on_no_machine_that_answers():
    kinds = listed(kind("CPU", 2), kind("T4", engines=("docker", "local")), kind("V100", 0))

    with pytest.raises(InvalidError) as caught:
        pick(kinds, "CPU", DOCKER, "docker_image")

    assert (caught.value.code, caught.value.field) == ("engine_unavailable", "docker_image")
    assert str(caught.value).startswith("--docker-image: ")
    assert "no machine of type CPU can run this: Docker does not answer on any" in str(caught.value)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Install Docker on a machine of this type and start it")
    assert caught.value.hint.endswith("Or choose another type of machine: T4.")


@pytest.mark.parametrize("engines", [("docker",), ("docker", "local")])
def test_an_image_is_taken_where_one_machine_has_docker(engines):
    assert pick(listed(kind("CPU", engines=engines)), None, DOCKER, "docker_image").name == "CPU"


def test_what_machines_can_do_that_do_not_answer_is_not_held_against_them():
    assert pick(listed(kind("CPU", 0, engines=())), None, DOCKER, "docker_image").name == "CPU"


def test_an_engine_nobody_has_heard_of_is_named():
    with pytest.raises(InvalidError, match="none has the engine firecracker"):
        pick(listed(kind("CPU")), None, frozenset({"firecracker"}), "environment")


def test_a_framework_comes_for_gpus_where_a_run_gets_some():
    framework, bare = EnvironmentRequest(framework="jax"), EnvironmentRequest()

    assert accelerated(framework, None, kind("T4", gpus=1)).accelerator == "cuda"
    assert accelerated(framework, None, kind("CPU")).accelerator is None
    assert accelerated(bare, None, kind("T4", gpus=1)) == bare


def test_the_framework_of_those_who_name_none_in_docker_is_the_one_for_the_gpus():
    docker = kind("T4", engines=("docker",), gpus=1)
    bare, conda = EnvironmentRequest(), EnvironmentRequest(conda="dependencies: [numpy]")

    assert accelerated(bare, None, docker).accelerator == "cuda"
    assert accelerated(bare, "debian", docker) == bare
    assert accelerated(conda, None, docker) == conda
    assert accelerated(bare, None, kind("CPU", engines=("docker",))) == bare


def test_without_namespaces_nothing_is_mounted_outside_the_workspace_and_what_helps_is_said():
    bare = listed(kind("CPU", engines=("local",)), kind("T4", engines=("local", "local-mounts")))
    needs = frozenset({"docker", "local-mounts"})

    with pytest.raises(InvalidError) as refused:
        pick(bare, "CPU", needs, field(None, EnvironmentRequest()))

    assert refused.value.code == "engine_unavailable"
    assert refused.value.message.startswith(
        "--mount: no machine of type CPU can run this: none has namespaces"
    )
    assert "bubblewrap" in (refused.value.hint or "")
    assert "choose another type of machine: T4" in (refused.value.hint or "")
    assert pick(bare, "T4", needs, "mounts").name == "T4"
