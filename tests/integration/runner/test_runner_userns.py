"""Runs in containers of a daemon that maps users: what is root in a container is nobody on the machine."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from integration.runner.room import in_docker, room
from support import docker as daemons
from support import links

pytestmark = pytest.mark.asyncio(loop_scope="session")
#: A network of its own: a second daemon would remove that of the first.
BRIDGE, ADDRESS = "spelltests0", "10.231.77.1/24"


def mapped_to() -> str:
    """A user whom the system has set ids aside for; else the daemon makes one."""
    for path in ("/etc/subuid", "/etc/subgid"):
        if not Path(path).exists():
            return "default"
    owners = [line.partition(":")[0] for line in Path("/etc/subuid").read_text().splitlines()]
    others = {line.partition(":")[0] for line in Path("/etc/subgid").read_text().splitlines()}
    known = {line.partition(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    return next((owner for owner in owners if owner in others & known), "default")


@pytest.fixture(name="mapping")
def _mapping():
    """A daemon with `userns-remap`, beside the one that all tests share."""
    for program in ("dockerd", "containerd", "ip"):
        if shutil.which(program) is None:
            daemons.absent(f"{program} is not installed")
    if os.geteuid():
        daemons.absent("only root can start a daemon")
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    # Whom root is mapped to has to get through.
    directory.chmod(0o755)
    options = ["--userns-remap", mapped_to(), "--bridge", BRIDGE, "--iptables=false", "--ip-masq=false"]
    own = daemons.Own(directory, directory / "data", *options)
    try:
        with links.bridge(BRIDGE, ADDRESS), contextlib.closing(own):
            own.begin()
            own.bring(daemons.TINY, daemons.tiny_archive(), "CMD sh")
            yield own
    except daemons.NoDockerError as error:
        daemons.absent(str(error))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def test_users_are_mapped_and_files_are_saved_all_the_same(services, mapping):
    async with room(services, **in_docker(mapping)) as here:
        given = here.front.shelf.code({"in/file": b"in\n"})
        command = (
            "cat in/file; echo x >> in/file; mkdir -p new && echo y > new/made; rm -f /tmp/x; echo t > /tmp/t"
        )
        view = await here.until_final(
            await here.create(
                f"{command}; id -u; cat /proc/self/uid_map; stat -c %u in /tmp",
                code=given,
                docker_image=f"docker.io/{daemons.TINY}",
            )
        )

        assert (view.state, view.exit_code) == ("complete", 0), view.message
        said = (await here.output(view.id)).decode().split()
        first = int(mapping.ask("GET", "/info")["DockerRootDir"].rpartition("/")[2].partition(".")[0])
        assert said[:2] == ["in", "10000"]
        assert said[2:5] == ["0", str(first), said[4]], "root in there is somebody else out here"
        assert said[5:] == ["10000", "10000"], "what is a run's looks like its own"
        assert await here.files(view) == {"in/file": b"in\nx\n", "new/made": b"y\n"}
        await here.assert_whole(view)
