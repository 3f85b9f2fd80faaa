"""What a container of a run may do and use: the body of the request that creates it. A function of what is asked for.

The numbers in brackets are those of the platform's list of what a container must not be able to do.
"""

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spell_proto.mount_paths import SPELL
from spell_runner.shim.launch import UPPER, WORK, WORKSPACE, Launch

FILES_MAX = 65_536
#: What a run may not learn from its image, or have its image do to the machine: a name without a value removes it.
#: The NVIDIA ones are read by the hook that brings GPUs into containers [S27].
STRIPPED = (
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_GDRCOPY",
    "NVIDIA_GDS",
    "NVIDIA_IMEX_CHANNELS",
    "NVIDIA_MIG_CONFIG_DEVICES",
    "NVIDIA_MIG_MONITOR_DEVICES",
    "NVIDIA_MOFED",
    "NVIDIA_NVSWITCH",
)
#: Set, not removed: without it the hook gives every GPU to an image that looks old.
_VISIBLE, _NONE_VISIBLE = "NVIDIA_VISIBLE_DEVICES", "void"
MANAGED = "com.spellrun.managed"
MACHINE = "com.spellrun.machine"
RUN, ATTEMPT, FENCE = "com.spellrun.run", "com.spellrun.attempt", "com.spellrun.fence"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one container may use."""

    memory_bytes: int
    cpus: float
    shm_bytes: int
    pids: int
    files: int


@dataclass(frozen=True, slots=True)
class Bound:
    """A path of the machine that a container sees."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Overlay:
    """Layers, of which there may be several below with colons between; the daemon mounts them when it starts a container."""

    lower: str
    upper: str
    work: str

    @property
    def options(self) -> str:
        # Volatile: the end of a run would otherwise wait until the host's whole disk has been written out.
        layers = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"
        return f"{layers},userxattr,volatile,nosuid,nodev"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be run, and where. `user` is `uid:gid`, `gpus` are UUIDs. `layers` are mounted besides the workspace."""

    image: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    cwd: str
    labels: Mapping[str, str]
    network: str
    workspace: Overlay | Bound
    bound: tuple[Bound, ...]
    gpus: tuple[str, ...] = ()
    layers: tuple[tuple[str, Overlay], ...] = ()


def files_max() -> int:
    """How many files a run may have open: a daemon in a container of its own cannot give more than it has itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)


def container(wanted: Wanted, limits: Limits) -> dict[str, Any]:
    """The body of `POST /containers/create`. Whatever the image says of itself, this has the last word [S24]."""
    return {
        "Image": wanted.image,
        "Entrypoint": [wanted.argv[0]],
        "Cmd": list(wanted.argv[1:]),
        "Env": _env(wanted),
        "User": wanted.user,
        "WorkingDir": wanted.cwd,
        "Labels": dict(wanted.labels),
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": _host(wanted, limits),
    }


def _env(wanted: Wanted) -> list[str]:
    given = [f"{name}={value}" for name, value in wanted.env.items() if name not in {*STRIPPED, _VISIBLE}]
    return [*given, *STRIPPED, f"{_VISIBLE}={','.join(wanted.gpus) or _NONE_VISIBLE}"]


def _host(wanted: Wanted, limits: Limits) -> dict[str, Any]:
    return {
        # [S19] no privilege, no namespace of the machine, no device; the daemon's own seccomp and AppArmor profiles.
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PidMode": "",
        "IpcMode": "private",
        "UTSMode": "",
        "CgroupnsMode": "private",
        "Devices": [],
        # Only the run's own, by the names that stay with them [S27, S28].
        "DeviceRequests": [_gpus(wanted.gpus)] if wanted.gpus else [],
        # [S21] every limit is set; no swap, so that a run that needs too much memory ends instead of crawling.
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": int(limits.cpus * 1e9),
        "PidsLimit": limits.pids,
        "ShmSize": limits.shm_bytes,
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.files, "Hard": limits.files},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        # Rather a run than the services beside it.
        "OomScoreAdj": 500,
        # Everything is read from the stream; a copy that the daemon keeps would fill the disk.
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        # A process 1 that buries the dead and hands signals on, which a shell does not.
        "Init": True,
        "NetworkMode": wanted.network,
        "Mounts": [
            _workspace(wanted.workspace),
            *(_overlay(at, layers) for at, layers in wanted.layers),
            *(_bound(one) for one in wanted.bound),
        ],
    }


def _gpus(uuids: tuple[str, ...]) -> dict[str, Any]:
    return {"Driver": "nvidia", "DeviceIDs": list(uuids), "Capabilities": [["gpu"]]}


def places(
    told: Launch, base: str, place: str
) -> tuple[Overlay | Bound, tuple[tuple[str, Overlay], ...], tuple[Bound, ...]]:
    """The workspace of a launch, what is mounted besides it, and the copies that stand for that where no layers can be
    mounted; `base` is the attempt's directory, `place` where what it writes to is.
    """
    if not told.overlay:
        copies = (
            Bound(f"{place}/{layer.place}", layer.at, read_only=False)
            for layer in told.layers
            if layer.is_root
        )
        return Bound(f"{place}/{WORKSPACE}", SPELL, read_only=False), (), tuple(copies)
    lower = f"{base}/{told.files}:{told.lower}" if told.files else told.lower
    layers = (
        (layer.at, Overlay(layer.lower, f"{place}/{layer.upper}", f"{place}/{layer.work}"))
        for layer in told.layers
    )
    return Overlay(lower, f"{place}/{UPPER}", f"{place}/{WORK}"), tuple(layers), ()


def _workspace(layers: Overlay | Bound) -> dict[str, Any]:
    return _bound(layers) if isinstance(layers, Bound) else _overlay(SPELL, layers)


def _overlay(at: str, layers: Overlay) -> dict[str, Any]:
    """A volume without a name that is an overlay: the daemon mounts it, where runs can see it, and unmounts it."""
    options = {"type": "overlay", "device": "overlay", "o": layers.options}
    return {
        "Type": "volume",
        "Target": at,
        "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Name": "local", "Options": options}},
    }


def _bound(one: Bound) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": one.source,
        "Target": one.target,
        "ReadOnly": one.read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }
