"""Whether the Docker daemon of this machine can mount the layers of a workspace, found out by having it do that (shell)."""

import re
import tempfile
from pathlib import Path

import aiodocker
from aiodocker.exceptions import DockerError

from spell_proto import logs
from spell_proto.docker import NOBODY
from spell_runner import workspace
from spell_runner.engines import hardening
from spell_runner.engines.hardening import Limits, Overlay, Wanted
from spell_runner.engines.images import Image
from spell_runner.shim import launch

log = logs.get()

#: These hold the upper layer of an overlay. Of others, as an overlay itself or a network share, it has to be tried.
_HOLDING = frozenset({"ext4", "xfs", "btrfs"})
_PROBE = "probe-"
#: What a daemon says of a volume that is an overlay.
_UNMOUNTED = re.compile(r"failed to mount local volume|mount overlay:")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def filesystem(path: Path, mounts: str) -> str:
    """The kind of file system that a path is on; `mounts` is the text of `/proc/self/mounts`."""
    found, kind = Path(), ""
    for line in mounts.splitlines():
        _, at, name, *_ = line.split(" ")
        place = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), at))
        # Of several at one place the last one is on top.
        if path.is_relative_to(place) and len(place.parts) >= len(found.parts):
            found, kind = place, name
    return kind


async def work(
    control: aiodocker.Docker, image: Image, data: Path, machine_id: str, limits: Limits
) -> bool | None:
    """Whether layers below `data` can be mounted; None where that could not be found out. The image is one that is here.

    Raises:
        aiohttp.ClientError, OSError: the daemon does not answer.
    """
    kind = filesystem(data.resolve(), Path("/proc/self/mounts").read_text())
    if kind in _HOLDING:
        return True
    probe = Path(tempfile.mkdtemp(dir=data, prefix=_PROBE))
    try:
        for part in ("lower", launch.UPPER, launch.WORK):
            (probe / part).mkdir()
        problem = await _refusal(control, image, probe, machine_id, limits)
    except DockerError as error:
        if error.status >= NOBODY:
            raise
        # Of this, the run itself will hear.
        log.info("whether docker can mount layers could not be tried", problem=str(error.message))
        return None
    finally:
        workspace.remove(probe)
    if problem is None:
        return True
    log.info("docker cannot mount layers here, so code is copied", filesystem=kind, problem=problem)
    return False


def unmounted(problem: str) -> bool:
    """Whether it is the layers that a daemon speaks of."""
    return _UNMOUNTED.search(problem) is not None


def sweep(data: Path) -> None:
    """Remove what was left by a runner that was killed while it tried."""
    for probe in data.glob(f"{_PROBE}*"):
        workspace.remove(probe)


async def _refusal(
    control: aiodocker.Docker, image: Image, probe: Path, machine_id: str, limits: Limits
) -> str | None:
    wanted = Wanted(
        image=image.id,
        argv=(image.shell, "-c", "exit 0"),
        env={},
        user="65534:65534",
        cwd="/",
        # By the machine it is found where we are killed here.
        labels={hardening.MANAGED: "probe", hardening.MACHINE: machine_id},
        network="none",
        workspace=Overlay(str(probe / "lower"), str(probe / launch.UPPER), str(probe / launch.WORK)),
        bound=(),
    )
    made = None
    try:
        made = await control.containers.create(hardening.container(wanted, limits))
        await made.start()
        await made.wait()
    except DockerError as error:
        if not unmounted(str(error.message)):
            raise
        return str(error.message)
    finally:
        if made is not None:
            await made.delete(force=True, v=True)
    return None
