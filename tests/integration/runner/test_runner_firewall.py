"""What only the machine itself should reach is out of reach for its runs in containers."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

from integration.runner.room import in_docker, room
from spell_proto.docker import clients
from spell_runner.engines import firewall, network
from spell_runner.engines.network import Network
from support import docker as daemons
from support import links

pytestmark = pytest.mark.asyncio(loop_scope="session")
#: Of those at which clouds answer, one that nobody uses.
CLOUD, LINK = "169.254.77.77", "spelltests4"
BRIDGE = "spelltests2"
BEYOND, SPACE, NEAR, NEAR_ADDRESS = "169.254.77.78", "spelltests", "spelltests3", "10.231.79.1"
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
    with links.bridge(LINK, f"{CLOUD}/32"), answering(CLOUD) as address:
        yield address


@pytest.fixture(name="beyond")
def _beyond():
    """As `cloud`, but beyond this machine, and with a name server at the same address; both addresses."""
    if os.geteuid() or any(shutil.which(name) is None for name in ("ip", "iptables")):
        daemons.absent("only root with ip and iptables can play a cloud")
    serve = (
        "import socket, threading\n"
        "def serve(server):\n"
        "    while True:\n"
        "        server.accept()[0].sendall(b'reached')\n"
        "for port in (53, 80):\n"
        f"    server = socket.create_server(('{BEYOND}', port))\n"
        "    threading.Thread(target=serve, args=(server,)).start()\n"
        "print(flush=True)\n"
    )
    links.forget("link", NEAR)
    with links.space(SPACE) as inside:
        for words in (
            ["ip", "link", "add", NEAR, "type", "veth", "peer", "name", "far", "netns", SPACE],
            ["ip", "addr", "add", f"{NEAR_ADDRESS}/32", "dev", NEAR],
            ["ip", "link", "set", NEAR, "up"],
            ["ip", "route", "add", f"{BEYOND}/32", "dev", NEAR, "src", NEAR_ADDRESS],
            [*inside, "ip", "addr", "add", f"{BEYOND}/32", "dev", "far"],
            [*inside, "ip", "link", "set", "far", "up"],
            [*inside, "ip", "route", "add", "default", "dev", "far"],
        ):
            subprocess.run(words, check=True)
        with subprocess.Popen([*inside, sys.executable, "-c", serve], stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout.readline()
                yield f"{BEYOND}:80", f"{BEYOND}:53"
            finally:
                server.kill()


async def reached(here, *addresses):
    given = here.front.shelf.code({"reach.py": REACH.encode()})
    view = await here.until_final(await here.create(f"python3 reach.py {' '.join(addresses)}", code=given))
    assert view.exit_code == 0, view.message
    return (await here.output(view.id)).decode().split("\n")[:-1]


def rules_of(bridge):
    said = subprocess.run(["iptables", "-w", "5", "-S"], check=True, capture_output=True, text=True).stdout
    return [line for line in said.splitlines() if f"-i {bridge} " in line and "REJECT" in line]


def shields_of(bridge):
    """The rules as they are now: other versions may be at work on this machine."""
    return [line for line in rules_of(bridge) if "--ctorigdstport" in line]


async def test_what_a_cloud_tells_its_machines_is_refused_to_runs(services, docker, cloud):
    with socket.create_connection(tuple(cloud.split(":"))) as ours:
        assert ours.recv(9) == b"reached", "this machine itself is told"
    async with room(services, **in_docker(docker)) as here:
        options = docker.ask("GET", "/networks/bridge").get("Options") or {}
        if options.get("com.docker.network.bridge.enable_icc") == "false":
            pytest.skip("the bridge of this daemon is used, whose rules are not ours")

        assert await reached(here, cloud) == ["refused"]


async def test_what_a_cloud_tells_beyond_this_machine_is_refused_but_its_name_server_is_not(docker, beyond):
    with network_of_its_own(docker):
        body = asking(*beyond)
        before = said_by(docker, body)
        assert await firewall.shield(BRIDGE, host=False) is None
        after = said_by(docker, body)

    assert before == ["b'reached'", "b'reached'"]
    assert after == ["refused", "b'reached'"]


async def test_rules_are_set_whatever_the_clock_says_and_looked_after(docker):
    """On a machine that was started just now, a clock says little more than nothing."""
    async with clients(str(docker.socket)) as both:
        here = Network(str(docker.socket), "auto", lambda: 5.0)
        await here.find(both.control)
        if here.name == "bridge":
            pytest.skip("the bridge of this daemon is used, whose rules are not ours")
        name = here.bridge
        without_rules(name)

        await Network(str(docker.socket), "auto", lambda: 5.0).find(both.control)
        assert len(shields_of(name)) == 4

        without_rules(name)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(here.look_again(both.control))
        assert len(shields_of(name)) == 4


async def test_a_machine_looks_after_its_rules_without_any_run(docker, monkeypatch):
    monkeypatch.setattr(network, "LOOK_AGAIN_SECONDS", 0.1)
    async with clients(str(docker.socket)) as both:
        here = Network(str(docker.socket), "auto")
        await here.find(both.control)
        if here.name == "bridge":
            pytest.skip("the bridge of this daemon is used, whose rules are not ours")
        name = here.bridge
        keeping = asyncio.ensure_future(here.keep(both.control))
        try:
            without_rules(name)
            async with asyncio.timeout(10):
                while len(shields_of(name)) < 4:
                    await asyncio.sleep(0.05)
        finally:
            keeping.cancel()


async def test_without_the_means_for_rules_that_are_a_must_docker_is_not_used(services, docker):
    settings = in_docker(docker) | {"SPELL_ENGINE": "auto", "SPELL_RUN_FIREWALL": "strict"}
    # Rules are made with a program that stands elsewhere.
    async with room(services, **settings, PATH="/usr/bin:/bin") as here:
        assert "docker" not in (await here.client.machine_type(here.machine_type)).engines


async def test_strict_rules_refuse_the_machine_itself_too_and_stand_there_once(docker, cloud):
    """On a daemon's own network, so that nobody else is cut off."""
    with network_of_its_own(docker) as gateway, answering(gateway) as host:
        body = asking(host, cloud)
        before = said_by(docker, body)
        assert await firewall.shield(BRIDGE, host=True) is None
        assert await firewall.shield(BRIDGE, host=True) is None
        rules = rules_of(BRIDGE)
        after = said_by(docker, body)

    assert before[0] == "b'reached'"
    assert after == ["refused", "refused"]
    assert len(rules) == len(set(rules)) == 5


@contextmanager
def network_of_its_own(docker):
    """A network whose rules nobody else has; the address of this machine in it."""
    network = {
        "Name": "spell-tests-rules",
        "Driver": "bridge",
        "Options": {"com.docker.network.bridge.name": BRIDGE},
    }
    with suppress(RuntimeError):
        # Of a session that was killed.
        docker.ask("DELETE", f"/networks/{network['Name']}")
    made = docker.ask("POST", "/networks/create", network)["Id"]
    try:
        yield docker.ask("GET", f"/networks/{made}")["IPAM"]["Config"][0]["Gateway"]
    finally:
        without_rules(BRIDGE)
        docker.ask("DELETE", f"/networks/{made}")


def without_rules(bridge):
    for rule in firewall.rules(bridge, "DOCKER-USER", host=True):
        while (
            subprocess.run(["iptables", "-w", "5", "-D", *rule], capture_output=True, check=False).returncode
            == 0
        ):
            pass


def asking(*addresses):
    command = ["python3", "-c", REACH, *addresses]
    return {"Image": daemons.BASE, "Cmd": command, "HostConfig": {"NetworkMode": "spell-tests-rules"}}


def said_by(docker, body):
    name = docker.ask("POST", "/containers/create", body)["Id"]
    docker.ask("POST", f"/containers/{name}/start")
    docker.ask("POST", f"/containers/{name}/wait")
    raw = docker.ask("GET", f"/containers/{name}/logs?stdout=1")
    docker.ask("DELETE", f"/containers/{name}?v=1")
    return [line[8:].decode() for line in raw.splitlines()]
