"""What only the machine itself should reach is out of reach for its runs in containers."""

import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager

import pytest

from integration.runner.room import in_docker, room
from spell_runner.engines import firewall
from support import docker as daemons

pytestmark = pytest.mark.asyncio(loop_scope="session")
#: Of those at which clouds answer, one that nobody uses.
CLOUD, LINK = "169.254.77.77", "spelltests1"
BRIDGE, GATEWAY = "spelltests2", "10.231.78.1"
REACH = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.split(":")
    try:
        print(socket.create_connection((host, int(port)), timeout=5).recv(9))
    except ConnectionRefusedError:
        print("refused")
    except OSError as error:
        print(repr(error))
"""


@contextmanager
def answering(host):
    """A server of this machine; its address."""
    with socket.create_server((host, 0)) as server:

        def serve():
            with server:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    with connection:
                        connection.sendall(b"reached")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{host}:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.fixture(name="cloud")
def _cloud():
    """An address that only a machine of a cloud has, with somebody who answers there."""
    if os.geteuid() or any(shutil.which(name) is None for name in ("ip", "iptables")):
        daemons.absent("only root with ip and iptables can play a cloud")
    subprocess.run(["ip", "link", "add", LINK, "type", "bridge"], check=True)
    try:
        for words in (["addr", "add", f"{CLOUD}/32", "dev", LINK], ["link", "set", LINK, "up"]):
            subprocess.run(["ip", *words], check=True)
        with answering(CLOUD) as address:
            yield address
    finally:
        subprocess.run(["ip", "link", "delete", LINK], check=True)


async def reached(here, *addresses):
    given = here.front.shelf.code({"reach.py": REACH.encode()})
    view = await here.until_final(await here.create(f"python3 reach.py {' '.join(addresses)}", code=given))
    assert view.exit_code == 0, view.message
    return (await here.output(view.id)).decode().split("\n")[:-1]


def rules_of(bridge):
    said = subprocess.run(["iptables", "-w", "5", "-S"], check=True, capture_output=True, text=True).stdout
    return [line for line in said.splitlines() if f"-i {bridge} " in line and "REJECT" in line]


async def test_what_a_cloud_tells_its_machines_is_refused_to_runs(services, docker, cloud):
    with socket.create_connection(tuple(cloud.split(":"))) as ours:
        assert ours.recv(9) == b"reached", "this machine itself is told"
    async with room(services, **in_docker(docker)) as here:
        options = docker.ask("GET", "/networks/bridge").get("Options") or {}
        if options.get("com.docker.network.bridge.enable_icc") == "false":
            pytest.skip("the bridge of this daemon is used, whose rules are not ours")

        assert await reached(here, cloud) == ["refused"]


async def test_without_the_means_for_rules_that_are_a_must_docker_is_not_used(services, docker):
    settings = in_docker(docker) | {"SPELL_ENGINE": "auto", "SPELL_RUN_FIREWALL": "strict"}
    # Rules are made with a program that stands elsewhere.
    async with room(services, **settings, PATH="/usr/bin:/bin") as here:
        assert "docker" not in (await here.client.machine_type(here.machine_type)).engines


async def test_strict_rules_refuse_the_machine_itself_too_and_stand_there_once(docker, cloud):
    """On a daemon's own network, so that nobody else is cut off."""
    network = {
        "Name": "spell-tests-strict",
        "Driver": "bridge",
        "Options": {"com.docker.network.bridge.name": BRIDGE},
    }
    made = docker.ask("POST", "/networks/create", network)["Id"]
    try:
        subnet = docker.ask("GET", f"/networks/{made}")["IPAM"]["Config"][0]
        with answering(subnet["Gateway"]) as host:
            body = {
                "Image": daemons.BASE,
                "Cmd": ["python3", "-c", REACH, host, cloud],
                "HostConfig": {"NetworkMode": "spell-tests-strict"},
            }
            before = said_by(docker, body)
            assert await firewall.shield(BRIDGE, host=True) is None
            assert await firewall.shield(BRIDGE, host=True) is None
            rules = rules_of(BRIDGE)
            after = said_by(docker, body)
    finally:
        for rule in firewall.rules(BRIDGE, "DOCKER-USER", host=True):
            subprocess.run(["iptables", "-w", "5", "-D", *rule], check=False)
        docker.ask("DELETE", f"/networks/{made}")

    assert before[0] == "b'reached'"
    assert after == ["refused", "refused"]
    assert len(rules) == len(set(rules)) == 5


def said_by(docker, body):
    name = docker.ask("POST", "/containers/create", body)["Id"]
    docker.ask("POST", f"/containers/{name}/start")
    docker.ask("POST", f"/containers/{name}/wait")
    raw = docker.ask("GET", f"/containers/{name}/logs?stdout=1")
    docker.ask("DELETE", f"/containers/{name}?v=1")
    return [line[8:].decode() for line in raw.splitlines()]
