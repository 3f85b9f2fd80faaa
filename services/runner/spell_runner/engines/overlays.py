"""Whether the Docker daemon of this machine can mount the layers of a workspace, found out by having it do that (shell)."""

import re
import tempfile
from pathlib import Path

import aiodocker
from aiodocker.exceptions import DockerError

from spell_proto import logs
from spell_runner import workspace
from spell_runner.engines import hardening
from spell_runner.engines.hardening import Limits, Overlay, Wanted
from spell_runner.engines.images import Image
from spell_runner.shim import launch

log = logs.get()

#: These hold the upper layer of an overlay. Of others, as an overlay itself or a network share, it has to be tried.
_HOLDING = frozenset({"ext4", "xfs", "btrfs"})
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


async def work(control: aiodocker.Docker, image: Image, data: Path, limits: Limits) -> bool:
    """Whether layers below `data` can be mounted. The image is one that is here.

    Raises:
        aiohttp.ClientError, OSError: the daemon does not answer.
    """
    kind = filesystem(data.resolve(), Path("/proc/self/mounts").read_text())
    if kind in _HOLDING:
        return True
    probe = Path(tempfile.mkdtemp(dir=data, prefix="probe-"))
    try:
        for part in ("lower", launch.UPPER, launch.WORK):
            (probe / part).mkdir()
        problem = await _refusal(control, image, probe, limits)
    finally:
        workspace.remove(probe)
    if problem is None:
        return True
    log.info("docker cannot mount layers here, so code is copied", filesystem=kind, problem=problem)
    return False


async def _refusal(control: aiodocker.Docker, image: Image, probe: Path, limits: Limits) -> str | None:
    wanted = Wanted(
        image=image.id,
        argv=(image.shell, "-c", "exit 0"),
        env={},
        user="65534:65534",
        cwd="/",
        labels={hardening.MANAGED: "probe"},
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
        # Of anything else, the run itself will hear.
        return str(error.message) if "mount" in str(error.message) else None
    finally:
        if made is not None:
            await made.delete(force=True, v=True)
    return None
