"""Mounts where no layers can be mounted: every run gets copies of its own, which share blocks where they can (shell)."""

import os
from collections.abc import Sequence
from pathlib import Path

from spell_proto.mount_paths import SPELL
from spell_runner import beneath, workspace
from spell_runner.directory import Directory
from spell_runner.mounts.layers import Mounted, inside, skeletons
from spell_runner.shim.launch import MOUNTS
from spell_runner.workspace import Abort, Baseline, is_directory

#: What the copies outside the workspace looked like at first.
BASELINE = f"{MOUNTS}/baseline.json"


def into_workspace(
    mounted: Sequence[Mounted],
    root: Path,
    baseline: Baseline,
    abort: Abort,
    owner: tuple[int, int] | None,
) -> None:
    """Copy what is mounted below `/spell` into a workspace, over what its code has there."""
    for one in inside(mounted):
        path = one.target.removeprefix(f"{SPELL}/")
        _make_way(root, path, owner)
        for hidden in [known for known in baseline if _clash(known, path)]:
            del baseline[hidden]
        _copy(one, root, path, baseline, abort, owner)


def outside(
    mounted: Sequence[Mounted], directory: Directory, abort: Abort, owner: tuple[int, int] | None
) -> None:
    """Copy the rest into directories that a run sees instead of the machine's `/mnt` and `/data`."""
    workspace.remove(Path(directory / MOUNTS))
    baseline: Baseline = {}
    own = [skeleton for skeleton in skeletons(mounted) if skeleton.root != SPELL]
    for skeleton in own:
        top = Path(directory / MOUNTS)
        name = f"{skeleton.root[1:]}/at"
        _make_way(top, f"{name}/x", owner)
        for one in mounted:
            if one.target.startswith(f"{skeleton.root}/"):
                path = f"{name}/{one.target.removeprefix(f'{skeleton.root}/')}"
                _make_way(top, path, owner)
                _copy(one, top, path, baseline, abort, owner)
    if own:
        directory.write(BASELINE, workspace.encode_baseline(baseline))


def written(targets: Sequence[str], directory: Directory, abort: Abort) -> list[str]:
    """Those of the directories outside the workspace in which anything was changed: mounts, or the root of others."""
    try:
        baseline = workspace.read_baseline(Path(directory / BASELINE).read_bytes())
    except FileNotFoundError:
        return []
    found: set[str] = set()
    seen: set[str] = set()
    top = Path(directory / MOUNTS)

    def stays(_: str) -> bool:
        abort.check()
        return True

    def failed(path: str, _: OSError) -> None:
        # What we put there we could look at.
        if path.count("/") >= 2:
            found.add(_place(path, targets))

    for entry in beneath.entries(top, stays, failed):
        path = entry.path
        # One level for the root, and one for what is seen there.
        if entry.is_directory or path.count("/") < 2:
            continue
        seen.add(path)
        if baseline.get(path) != workspace.signature(entry.status):
            found.add(_place(path, targets))
    found |= {_place(path, targets) for path in baseline if path not in seen}
    return sorted(found)


def _place(path: str, targets: Sequence[str]) -> str:
    root, _, below = path.split("/", 2)
    seen = f"/{root}/{below}"
    return next((target for target in targets if f"{seen}/".startswith(f"{target}/")), f"/{root}")


def _clash(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _make_way(root: Path, path: str, owner: tuple[int, int] | None) -> None:
    """Have directories above a path, and nothing at it, whatever the code has there. No link is followed."""
    place = root
    place.mkdir(mode=0o755, exist_ok=True)
    *above, name = path.split("/")
    for part in above:
        place /= part
        if is_directory(place):
            continue
        place.unlink(missing_ok=True)
        place.mkdir(mode=0o755)
        if owner is not None:
            os.chown(place, *owner)
    place /= name
    if is_directory(place):
        workspace.remove(place)
    else:
        place.unlink(missing_ok=True)


def _copy(
    one: Mounted, root: Path, path: str, baseline: Baseline, abort: Abort, owner: tuple[int, int] | None
) -> None:
    place = root / path
    if one.is_file:
        workspace.copy_as_it_is(one.path, place, owner)
        baseline[path] = workspace.signature(place.lstat())
        return
    place.mkdir(mode=0o755)
    if owner is not None:
        os.chown(place, *owner)
    copied = workspace.copied_tree(Path(one.path), place, abort, owner)
    baseline.update({f"{path}/{name}": signature for name, signature in copied.items()})
