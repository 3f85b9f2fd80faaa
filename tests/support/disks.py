"""What loop devices and mounts there are of a directory, and taking them down as a runner that was killed could not."""

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from spell_proto.errors import SettingsError
from spell_runner import workspace
from spell_runner.disks import Disks
from spell_runner.quotas import Limits
from support import docker


def need() -> None:
    """Skip the test, or fail it where everything must be there, where no disks can be made."""
    problem = _problem()
    if problem is not None:
        docker.absent(problem)


def possible() -> bool:
    return _problem() is None


@cache
def _problem() -> str | None:
    place = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sp"))
    disks = Disks(place, Limits(1 << 20), "strict")
    try:
        disks.open()
        disks.close()
    except SettingsError as error:
        return str(error)
    finally:
        workspace.remove(place)
    return None


def mounts(below: Path) -> list[str]:
    """What is mounted below a directory, the last one first."""
    told = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split(" ", 5)[4].encode().decode("unicode_escape") for line in reversed(told)]
    return [at for at in places if at.startswith(f"{below}/")]


def images(below: Path) -> list[str]:
    """The files below a directory that are shown by loop devices."""
    found = []
    for told in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append(told.read_text().strip())
        except OSError:
            continue
    return [path for path in found if path.startswith(f"{below}/")]


def take_down(data: Path) -> None:
    if os.geteuid() == 0:
        for at in mounts(data):
            subprocess.run(["umount", "--lazy", at], check=False)
