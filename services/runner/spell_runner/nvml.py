"""Asks the NVIDIA driver which GPUs there are (shell). Where there is no driver, nothing is even imported."""

import importlib
from pathlib import Path
from typing import Any

from spell_proto import logs
from spell_runner.gpus import Gpu

log = logs.get()

DEVICE = Path("/dev/nvidiactl")


def present() -> tuple[Gpu, ...]:
    """All GPUs that the driver knows, in its order; none where it does not answer."""
    if not DEVICE.exists():
        return ()
    try:
        return found(importlib.import_module("pynvml"))
    except ImportError as error:
        log.warning("the GPUs of this machine are not used", problem=f"nvidia-ml-py is missing: {error}")
    return ()


def found(nvml: Any) -> tuple[Gpu, ...]:
    """What the library says. One GPU that does not answer takes no other with it."""
    gpus: list[Gpu] = []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.warning("the GPUs of this machine are not used", problem=str(error))
        return ()
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                parts = _parts(nvml, handle)
                gpus.extend([_named(nvml, handle)] if parts is None else parts)
            except nvml.NVMLError as error:
                log.warning("a GPU of this machine is not used", index=index, problem=str(error))
    except nvml.NVMLError as error:
        log.warning("the GPUs of this machine are not used", problem=str(error))
    finally:
        nvml.nvmlShutdown()
    return tuple(gpus)


def _named(nvml: Any, handle: Any) -> Gpu:
    return Gpu(str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle)))


def _parts(nvml: Any, handle: Any) -> list[Gpu] | None:
    """What a GPU is divided into (MIG): then the whole of it can be given to nobody. None where it is whole."""
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
        if not mode:
            return None
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        # Most kinds cannot be divided, and say so this way.
        return None
    parts = []
    for index in range(most):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:
            # A place for a part, with none in it.
            continue
        parts.append(_named(nvml, part))
    return parts
