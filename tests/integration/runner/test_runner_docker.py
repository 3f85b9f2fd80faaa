"""Runs in containers: what they may do, what an image may not, and what happens when Docker or a shim goes away."""

import asyncio
import os
import re
import signal

import pytest

from integration.runner.room import in_docker, room
from spell_runner.engines import hardening
from spell_runner.shim import launch, memory
from support import docker as daemons
from support import registries
from support.scheduler import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
#: Tries what no run may do; says what worked. None of it may need a program that an image can lack.
ESCAPES = r"""
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def refused(name, result):
    if result == 0 or ctypes.get_errno() not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        print("WORKED", name, result, ctypes.get_errno())

def unreadable(path):
    try:
        with open(path, "rb") as file:
            if file.read(1):
                print("READ", path)
    except OSError:
        pass

def unwritable(path):
    try:
        with open(path, "r+b") as file:
            file.write(b"1")
        print("WROTE", path)
    except OSError:
        pass

refused("mount", libc.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None))
refused("unshare user", libc.unshare(0x10000000))
refused("keyctl", libc.syscall(250, 0, -3, 1))
refused("bpf", libc.syscall(321, 0, 0, 0))
refused("perf_event_open", libc.syscall(298, 0, 0, -1, -1, 0))
refused("userfaultfd", libc.syscall(323, 0))
refused("setuid", libc.setuid(0))
refused("chroot", libc.chroot(b"/tmp"))
for path in ("/proc/kcore", "/proc/keys", "/sys/firmware", "/dev/mem", "/dev/kmsg", "/etc/shadow"):
    unreadable(path)
for path in ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/mm/transparent_hugepage/enabled", "/etc/passwd"):
    unwritable(path)
for path in ("/var/run/docker.sock", "/run/containerd/containerd.sock", sys.argv[1]):
    if os.path.exists(path):
        print("THERE", path)
with open("/proc/self/status") as file:
    status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
for name in ("CapEff", "CapPrm", "CapBnd", "CapInh"):
    if int(status[name], 16):
        print("CAPABILITIES", name, status[name])
print("uid", os.getuid(), "new", status["NoNewPrivs"], "seccomp", status["Seccomp"])
"""


async def until_running(here, run_id, output=b"up\n"):
    await here.until_logged(run_id, output)


def names_of(here, run_id):
    return f"run-{run_id}-a1-{here.machine_id}"


async def test_a_container_has_every_limit_and_no_privilege(rooms, docker):
    here = await rooms("docker")
    run_id = await here.create("echo up; sleep 300")
    await until_running(here, run_id)

    found = docker.container(names_of(here, run_id))
    await here.client.end(run_id, "kill")
    await here.until_final(run_id)

    host = found["HostConfig"]
    assert (host["Privileged"], host["CapDrop"], host["CapAdd"]) == (False, ["ALL"], None)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert not any(
        mode in {"host", "shareable"} for mode in (host["PidMode"], host["IpcMode"], host["UTSMode"])
    )
    assert host["CgroupnsMode"] == "private"
    network = docker.ask("GET", f"/networks/{host['NetworkMode']}")
    assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert not host["Devices"]
    assert (host["Memory"], host["MemorySwap"]) == (256 << 20, 256 << 20)
    assert (host["NanoCpus"], host["PidsLimit"], host["ShmSize"]) == (1_500_000_000, 256, 32 << 20)
    ulimits = {one["Name"]: (one["Soft"], one["Hard"]) for one in host["Ulimits"]}
    assert ulimits == {"nofile": (hardening.files_max(),) * 2, "core": (0, 0)}
    assert (host["LogConfig"]["Type"], host["RestartPolicy"]["Name"], host["Init"]) == ("none", "no", True)
    assert found["Config"]["User"] not in {"", "0", "root", "0:0"}
    labels = found["Config"]["Labels"]
    assert (labels[hardening.RUN], labels[hardening.ATTEMPT]) == (str(run_id), "1")
    assert labels[hardening.FENCE]
    writable = {one["Destination"] for one in found["Mounts"] if one["RW"]}
    read_only = {one["Destination"] for one in found["Mounts"] if not one["RW"]}
    assert writable == {"/spell", "/tmp"}
    assert all(path.startswith("/run/spell/") for path in read_only)


async def test_no_way_out_of_a_container_works(rooms):
    here = await rooms("docker")
    given = here.front.shelf.code({"escape.py": ESCAPES.encode()})

    run_id = await here.create(f"python3 escape.py {here.data}", code=given)
    view = await here.until_final(run_id)

    assert view.exit_code == 0
    uid = os.geteuid() or 10_000
    assert await here.output(run_id) == f"uid {uid} new 1 seccomp 2\n".encode()


async def test_one_run_cannot_reach_another(rooms, docker):
    here = await rooms("docker")
    served = await here.create("echo up; exec python3 -m http.server 8000")
    await until_running(here, served)
    (network,) = docker.container(names_of(here, served))["NetworkSettings"]["Networks"].values()
    reach = "import socket, sys; socket.create_connection((sys.argv[1], 8000), timeout=2)"
    own = f'for i in $(seq 50); do python3 -c "{reach}" 127.0.0.1 && break; sleep 0.1; done'

    beside = await here.until_final(await here.create(f'python3 -c "{reach}" {network["IPAddress"]}'))
    inside = await here.until_final(await here.create(f"python3 -m http.server 8000 & {own}"))
    await here.client.end(served, "kill")
    await here.until_final(served)

    assert (beside.exit_code, inside.exit_code) == (1, 0)


async def test_limits_are_felt_inside(rooms):
    here = await rooms("docker")
    run_id = await here.create("ulimit -c; ulimit -n; df -k /dev/shm | tail -1 | awk '{print $2}'")
    view = await here.until_final(run_id)

    assert view.exit_code == 0
    assert (await here.output(run_id)).split() == [b"0", b"%d" % hardening.files_max(), b"32768"]


async def test_a_fork_bomb_is_contained_and_can_be_killed(rooms):
    here = await rooms("docker")
    run_id = await here.create("bomb() { bomb | bomb & }; while :; do bomb; sleep 0.01; done")
    await here.until_logged(run_id, b"fork:")

    await here.client.end(run_id, "kill")
    async with asyncio.timeout(10):
        view = await here.until_final(run_id)

    assert view.state == "killed"


async def test_memory_that_is_used_up_fails_the_run_and_keeps_its_files(rooms):
    here = await rooms("docker")
    run_id = await here.create("echo kept > file; exec python3 -c 'x = bytearray(1 << 30)'")
    view = await here.until_final(run_id)

    assert (view.state, view.reason, view.exit_code) == ("failed", "oom", 137)
    # How much it was at most can be seen only while it runs: a command that is quick may be gone by then.
    assert re.fullmatch(
        "it ran out of memory: it may use 256 MiB, and had used all of it(, 256 MiB at its peak)?",
        view.message,
    )
    assert await here.files(view) == {"file": b"kept\n"}
    await here.assert_whole(view)


async def test_the_most_that_a_run_had_used_is_told_where_the_kernel_shows_it(rooms, docker):
    here = await rooms("docker")
    run_id = await here.create(
        "echo up; exec python3 -c 'import time; x = bytearray(100 << 20); time.sleep(2); y = bytearray(900 << 20)'"
    )
    await until_running(here, run_id)
    container = docker.container(names_of(here, run_id))
    group = memory.group_of(container["State"]["Pid"], container["Id"])
    visible = group is not None and os.access(f"{group.path}/cgroup.event_control", os.W_OK)

    view = await here.until_final(run_id)
    assert (view.reason, view.exit_code) == ("oom", 137)
    assert view.message.endswith(", 256 MiB at its peak" if visible else "and had used all of it")


async def test_a_child_that_used_memory_up_is_mentioned_and_the_command_decides(rooms):
    here = await rooms("docker")
    run_id = await here.create("python3 -c 'x = bytearray(1 << 30)'; echo went on; exit 3")
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == ("complete", 3)
    said = (
        "A process of this run was killed: it ran out of memory: it may use 256 MiB, and had used all of it"
    )
    assert any(line.startswith(said) for line in await here.lines(run_id))


async def test_the_repository_is_there_and_git_trusts_it(rooms):
    here = await rooms("docker")
    given = here.front.shelf.code({"a": b"a", "sub/b": b"b"}, cwd="missing/deep")
    run_id = await here.create(
        "pwd; git log --format=%H; git status --porcelain; touch ../../../.git/x 2>/dev/null || echo refused; echo c >> ../../a",
        code=given,
    )
    view = await here.until_final(run_id)

    lines = (await here.output(run_id)).decode().splitlines()
    assert lines[:2] == ["/spell/repo/missing/deep", given["commit"]]
    assert lines[-1] == "refused"
    assert await here.files(view) == {"a": b"ac\n"}


async def test_term_reaches_the_whole_tree_even_in_other_sessions(rooms):
    here = await rooms("docker")
    command = (
        "setsid sh -c 'trap \"echo deep; exit\" TERM; echo ready; while :; do sleep 60 & wait; done' & "
        "trap 'wait; echo top; exit 4' TERM; wait"
    )
    run_id = await here.create(command)
    await until_running(here, run_id, b"ready\n")

    await here.client.end(run_id, "stop")
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == ("stopped", 4)
    assert await here.output(run_id) == b"ready\ndeep\ntop\n"


async def test_what_ignores_term_is_killed_after_the_grace_and_its_files_are_saved(rooms):
    here = await rooms("docker")
    run_id = await here.create("trap '' TERM; echo x > made; echo up; while :; do sleep 1; done")
    await until_running(here, run_id)

    await here.client.end(run_id, "stop")
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == ("stopped", 137)
    assert await here.files(view) == {"made": b"x\n"}


async def test_large_output_on_both_streams_is_whole_and_told_apart(rooms):
    here = await rooms("docker")
    run_id = await here.create("head -c 20000000 /dev/zero; head -c 3000000 /dev/zero | tr '\\0' e >&2")
    view = await here.until_final(run_id)

    assert (view.log.stdout_bytes, view.log.stderr_bytes) == (20_000_000, 3_000_000)
    await here.assert_whole(view)


# ---- what goes away ------------------------------------------------------------------------------------------


async def test_a_shim_that_vanishes_fails_the_run_and_leaves_no_container(rooms, docker):
    here = await rooms("docker")
    run_id = await here.create("echo up; sleep 300")
    await until_running(here, run_id)

    os.kill(here.shim(run_id).pid, signal.SIGKILL)
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "shim_lost")
    assert not docker.containers(f"{hardening.RUN}={run_id}")
    await here.assert_whole(view)


async def test_a_container_that_is_removed_by_hand_ends_the_run(rooms, docker):
    here = await rooms("docker")
    run_id = await here.create("echo up; sleep 300")
    await until_running(here, run_id)

    docker.ask("DELETE", f"/containers/{names_of(here, run_id)}?force=1&v=1")
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == ("complete", 137)
    await here.assert_whole(view)


async def test_a_container_that_nobody_watches_is_removed_when_the_runner_starts(rooms, docker):
    here = await rooms("docker")
    orphan = docker.ask(
        "POST",
        "/containers/create",
        {
            "Image": daemons.BASE,
            "Cmd": ["sleep", "300"],
            "Labels": {hardening.MACHINE: here.machine_id, hardening.RUN: "999999", hardening.ATTEMPT: "1"},
        },
    )
    docker.ask("POST", f"/containers/{orphan['Id']}/start")
    run_id = await here.create("echo up; sleep 1; echo down")
    await until_running(here, run_id)

    here.runner.kill9()
    here.runner.start()
    view = await here.until_final(run_id)

    assert (view.state, await here.output(run_id)) == ("complete", b"up\ndown\n")
    async with asyncio.timeout(15):
        while docker.containers(f"{hardening.MACHINE}={here.machine_id}"):
            await asyncio.sleep(0.1)


async def test_nothing_is_left_of_runs_that_are_over(rooms, docker):
    def left():
        volumes = docker.ask("GET", "/volumes")["Volumes"] or []
        containers = docker.containers(f"{hardening.MACHINE}={here.machine_id}")
        return {one["Name"] for one in volumes}, [one["Id"] for one in containers]

    here = await rooms("docker")
    before, _ = left()
    for command in ("true", "exit 3", "echo x > y"):
        await here.until_final(await here.create(command))

    await here.until_true(lambda: left()[0] <= before and not left()[1])


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
async def test_a_daemon_that_restarts_is_not_taken_for_the_commands_fault(rooms, docker, sent):
    here = await rooms("docker")
    daemons.need_own(docker)
    run_id = await here.create("trap 'exit 9' TERM; echo up; while :; do sleep 60 & wait; done")
    await until_running(here, run_id)

    docker.end(sent)
    docker.begin()
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "docker_restarted")
    assert await here.output(run_id) == b"up\n"
    await here.assert_whole(view)
    assert (await here.until_final(await here.create("true"))).state == "complete"


async def test_a_daemon_that_lets_containers_live_changes_nothing(rooms, docker):
    here = await rooms("docker")
    daemons.need_own(docker)
    docker.configure(live_restore=True)
    try:
        ended = await here.create(
            "echo up; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo x > file; exit 6"
        )
        await until_running(here, ended)

        docker.end()
        docker.begin()
        (here.attempt(ended) / launch.TEMPORARY / "go").touch()
        view = await here.until_final(ended)
    finally:
        docker.configure(live_restore=False)

    assert (view.state, view.exit_code) == ("complete", 6)
    assert (await here.files(view))["file"] == b"x\n"
    assert "Docker was away for a while; output from that time may be missing" in await here.lines(ended)
    await here.assert_whole(view)


# ---- images --------------------------------------------------------------------------------------------------


async def test_an_image_cannot_override_what_a_run_is(rooms, docker):
    here = await rooms("docker")
    changes = (
        'ENTRYPOINT ["/bin/false"]',
        "USER root",
        "ENV NVIDIA_VISIBLE_DEVICES=all LD_PRELOAD=/evil.so SPELL_RUN=0 HOME=/evil OWN=kept PATH=/bin:/own",
        "WORKDIR /proc/self/fd/7",
        "VOLUME /spell /var/own",
        'HEALTHCHECK CMD ["/bin/false"]',
        f"LABEL {hardening.RUN}=0",
    )
    docker.bring("spell-tests/bossy:latest", daemons.tiny_archive(), *changes)
    given = here.front.shelf.code({"in": b"in\n"})
    command = (
        'cat in; id -u; pwd; echo "$NVIDIA_VISIBLE_DEVICES,$LD_PRELOAD,$SPELL_RUN,$HOME,$OWN,$PATH"; '
        "trap 'echo term; exit 2' TERM; echo up; while :; do sleep 1 & wait; done"
    )

    run_id = await here.create(command, code=given, docker_image="docker.io/spell-tests/bossy:latest")
    await until_running(here, run_id)
    found = docker.container(names_of(here, run_id))
    await here.client.end(run_id, "stop")
    view = await here.until_final(run_id)

    uid = os.geteuid() or 10_000
    assert (await here.output(run_id)).decode().splitlines() == [
        "in", str(uid), "/spell/repo", f"void,,{run_id},/tmp,kept,/bin:/own", "up", "term",
    ]  # fmt: skip
    assert (view.state, view.exit_code) == ("stopped", 2)
    assert found["Config"]["Labels"][hardening.RUN] == str(run_id)
    assert "Health" not in found["State"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("docker.io/spell-tests/empty:latest", "has no shell (/bin/sh), so no command can be run in it"),
        ("127.0.0.1:1/nothing:latest", "its registry cannot be reached"),
        ("nowhere.invalid/nothing:latest", "its registry cannot be found"),
    ],
)
async def test_an_image_that_cannot_be_used_fails_the_run_with_the_cause(rooms, image, words):
    here = await rooms("docker")
    view = await here.until_final(await here.create("true", docker_image=image))

    assert (view.state, view.reason) == ("failed", "build_failed")
    assert f"the image {image} " in view.message
    assert words in view.message
    await here.assert_whole(view)


async def test_images_are_pulled_and_a_registry_that_refuses_is_quoted(rooms, docker, tmp_path):
    here = await rooms("docker")
    with registries.registry(tmp_path, user="ada", password="secret") as host:
        registries.push(docker, daemons.TINY, f"{host}/open/tiny:1", "ada", "secret")
        refused = await here.until_final(await here.create("true", docker_image=f"{host}/open/tiny:1"))
    with registries.registry(tmp_path) as host:
        registries.push(docker, daemons.TINY, f"{host}/open/tiny:1")
        pulled = await here.until_final(await here.create("echo in", docker_image=f"{host}/open/tiny:1"))
        missing = await here.until_final(await here.create("true", docker_image=f"{host}/open/tiny:2"))

    assert pulled.spec.docker_image.startswith(f"{host}/open/tiny@sha256:")
    assert pulled.spec.docker_image in docker.ask("GET", f"/images/{host}/open/tiny:1/json")["RepoDigests"]
    assert "the registry wants a login" in refused.message
    assert (pulled.state, await here.output(pulled.id)) == ("complete", b"in\n")
    assert f"Pulling the image {host}/open/tiny:1" in await here.lines(pulled.id)
    assert "the registry has no such image or tag" in missing.message


async def test_an_image_for_another_processor_is_refused_with_what_it_is_for(rooms, docker, tmp_path):
    here = await rooms("docker")
    mine = docker.ask("GET", "/version")["Arch"]
    other = "arm64" if mine == "amd64" else "amd64"
    docker.ask("POST", "/images/load", daemons.foreign_archive("spell-tests/foreign:latest", other))
    with registries.registry(tmp_path) as host:
        registries.push(docker, "spell-tests/foreign:latest", f"{host}/foreign:one")
        registries.put_list(host, "foreign", "many", other, of="one")
        one, many = [
            await here.until_final(await here.create("true", docker_image=f"{host}/foreign:{tag}"))
            for tag in ("one", "many")
        ]

    for view in (one, many):
        assert (view.state, view.reason) == ("failed", "build_failed")
        assert "there is no version of it for the processor of this machine" in view.message
    assert f"it is for {other}, and this is {mine}" in one.message
    assert not docker.has(f"{host}/foreign:one")


async def test_an_image_that_is_too_large_is_not_pulled_whole_and_not_kept(services, docker, tmp_path):
    docker.bring("spell-tests/big:latest", daemons.archive({"big": os.urandom(30 << 20)}))
    settings = in_docker(docker) | {"SPELL_IMAGE_BYTES_MAX": "20000000"}
    with registries.registry(tmp_path) as host:
        registries.push(docker, "spell-tests/big:latest", f"{host}/big:1")
        docker.ask("DELETE", "/images/spell-tests/big:latest")
        async with room(services, **settings) as here:
            pulled = await here.until_final(await here.create("true", docker_image=f"{host}/big:1"))
            there = await here.until_final(await here.create("true"))

    assert (pulled.state, pulled.reason) == ("failed", "build_failed")
    assert re.search(
        r"it is too large, with 3\d\.\d MB or more: at most 20\.0 MB are allowed", pulled.message
    )
    assert not docker.has(f"{host}/big:1")
    assert re.search(r"the image sha256:[0-9a-f]{64} cannot be had: it is too large", there.message)


async def test_packages_are_in_the_image_that_the_builder_has_made(rooms):
    here = await rooms("docker")
    view = await here.until_final(
        await here.create("true", environment={"pip": ["numpy"], "apt": ["ffmpeg"]})
    )

    assert (view.state, view.exit_code) == ("complete", 0)
    assert here.builder.asked[-1] == "docker"


async def test_a_machine_with_both_runs_images_in_docker_and_the_rest_itself(services, docker):
    async with room(services, **in_docker(docker) | {"SPELL_ENGINE": "auto"}) as here:
        inside = await here.create(
            "cat /etc/hostname; echo x > made", docker_image=f"docker.io/{daemons.TINY}"
        )
        local = await here.create("echo y > made")
        views = [await here.until_final(run_id) for run_id in (inside, local)]

        assert [view.state for view in views] == ["complete", "complete"]
        assert [await here.files(view) for view in views] == [{"made": b"x\n"}, {"made": b"y\n"}]


async def test_docker_may_come_to_a_machine_and_go_and_runs_of_images_wait_for_it(services, docker, tmp_path):
    socket = tmp_path / "d.sock"
    settings = in_docker(docker) | {"SPELL_ENGINE": "auto", "SPELL_DOCKER_SOCKET": str(socket)}
    async with room(services, **settings, SPELL_HEARTBEAT_SECONDS="0.5") as here:

        async def has(*engines):
            return (await here.client.machine_type(here.machine_type)).engines == engines

        assert await has("local")
        contained = await here.create("true", docker_image=f"docker.io/{daemons.TINY}")
        plain = await here.create("true")
        assert (await here.until_final(plain)).state == "complete"
        assert (await here.client.get(contained)).queue_reason == "no_engine"

        socket.symlink_to(docker.socket)
        await until(lambda: has("docker", "local"))
        assert (await here.until_final(contained)).state == "complete"

        socket.unlink()
        await until(lambda: has("local"))
