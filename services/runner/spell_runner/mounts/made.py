"""What a run has made where resources are mounted: in the workspace it is an output, elsewhere it is scratch (shell)."""

import os
from collections.abc import Sequence
from pathlib import Path

from spell_proto.mount_paths import SPELL
from spell_runner import workspace
from spell_runner.directory import BASELINE, Directory
from spell_runner.lower import Lower, Part
from spell_runner.mounts import copied
from spell_runner.outputs import Changes, in_copy, in_overlay, together
from spell_runner.shim.launch import UPPER, WORKSPACE, Launch, Layer
from spell_runner.workspace import Abort


def in_layers(told: Launch, directory: Directory, abort: Abort) -> Changes:
    """What the upper layers of an attempt hold."""
    # A snapshot links to those of its attempt.
    lowers = [Path(directory / told.files).resolve()] if told.files else []
    several = [
        in_overlay(Path(directory / UPPER), Lower.of(*lowers, Path(told.lower)), abort),
    ]
    scratch = []
    for layer in told.layers:
        if layer.at.startswith(f"{SPELL}/"):
            at = layer.at.removeprefix(f"{SPELL}/")
            mounted = Lower([Part(Path(layer.lower), at, alone=True)])
            several.append(in_overlay(Path(directory / layer.upper), mounted, abort, at))
        elif _written(directory, layer):
            scratch.append(layer.at)
    several.append(Changes(notes=_said(scratch)))
    return together(several)


def in_copies(told: Launch, directory: Directory, abort: Abort) -> Changes:
    """What differs from what was copied for an attempt."""
    copies = [layer for layer in told.layers if not layer.is_root]
    parts = [
        Part(Path(layer.lower), layer.at.removeprefix(f"{SPELL}/"), alone=True)
        for layer in copies
        if layer.at.startswith(f"{SPELL}/")
    ]
    baseline = workspace.read_baseline(Path(directory / BASELINE).read_bytes())
    lower = Lower([*parts, Part(Path(told.lower))])
    changes = in_copy(Path(directory / WORKSPACE), lower, baseline, abort)
    targets = [layer.at for layer in copies]
    changes.notes += _said(copied.written(targets, directory, abort))
    return changes


def _said(scratch: Sequence[str]) -> list[str]:
    """The line that names the places outside the workspace in which a run has written."""
    places = " and ".join(sorted(scratch))
    return [f"Not saved: what was written below {places}, as only files below /spell are"] * bool(scratch)


def _written(directory: Directory, layer: Layer) -> bool:
    try:
        return bool(os.listdir(directory / layer.upper))  # noqa: PTH208 -- plain strings
    except OSError:
        # It was closed to us. That it was is a change.
        return True
