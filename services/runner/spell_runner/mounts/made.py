"""What a run has made where resources are mounted: in the workspace it is an output, elsewhere it is scratch (shell)."""

import os
from pathlib import Path

from spell_proto.mount_paths import SPELL
from spell_runner import workspace
from spell_runner.directory import Directory
from spell_runner.lower import Lower, Part
from spell_runner.outputs import Changes, in_overlay, together
from spell_runner.shim.launch import UPPER, Launch, Layer
from spell_runner.workspace import Abort

SCRATCH = "Not saved: what was written below {}, as only files below /spell are"


def in_layers(told: Launch, directory: Directory, abort: Abort) -> Changes:
    """What the upper layers of an attempt hold."""
    lowers = [Path(directory / told.files)] if told.files else []
    several = [
        in_overlay(Path(directory / UPPER), Lower.of(*lowers, Path(told.lower)), abort),
    ]
    for layer in told.layers:
        if layer.at.startswith(f"{SPELL}/"):
            at = layer.at.removeprefix(f"{SPELL}/")
            mounted = Lower([Part(Path(layer.lower), at, alone=True)])
            several.append(in_overlay(Path(directory / layer.upper), mounted, abort, at))
        elif _written(directory, layer):
            several.append(Changes(notes=[SCRATCH.format(layer.at)]))
    return together(several)


def _written(directory: Directory, layer: Layer) -> bool:
    try:
        return bool(os.listdir(directory / layer.upper))  # noqa: PTH208 -- plain strings
    except PermissionError:
        workspace.make_readable(directory / layer.upper)
        return True
