"""What the request for a container says of GPUs: the run's own by name, whatever the run and its image ask for."""

from spell_runner.engines import hardening
from spell_runner.engines.hardening import Limits, Overlay, Wanted

LIMITS = Limits(memory_bytes=1 << 30, cpus=1.0, shm_bytes=1 << 20, pids=100, files=1024)


def body(env=None, gpus=()):
    wanted = Wanted(
        image="sha256:1",
        argv=("/bin/sh", "-c", "true"),
        env=env or {},
        user="1000:1000",
        cwd="/spell",
        labels={},
        network="bridge",
        workspace=Overlay("/l", "/u", "/w"),
        bound=(),
        gpus=gpus,
    )
    return hardening.container(wanted, LIMITS)


def test_a_run_without_gpus_asks_for_none_and_says_so_to_whoever_would_give_all():
    for env in ({}, {"NVIDIA_VISIBLE_DEVICES": "all"}):
        made = body(env)

        assert made["HostConfig"]["DeviceRequests"] == made["HostConfig"]["Devices"] == []
        assert [one for one in made["Env"] if one.startswith("NVIDIA_VISIBLE")] == [
            "NVIDIA_VISIBLE_DEVICES=void"
        ]


def test_a_run_gets_its_gpus_by_uuid_and_no_variable_gives_it_more():
    env = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all", "MINE": "1"}

    made = body(env, ("GPU-a", "MIG-1/2"))

    assert made["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-a", "MIG-1/2"], "Capabilities": [["gpu"]]}
    ]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-a,MIG-1/2" in made["Env"]
    assert "MINE=1" in made["Env"]
    # A name without a value removes what the image says.
    assert "NVIDIA_DRIVER_CAPABILITIES" in made["Env"]
    assert not any(one.startswith("NVIDIA_DRIVER_CAPABILITIES=") for one in made["Env"])
