"""How mounts become layers of what a run sees. Pure.

What is mounted below `/spell` belongs to the workspace. As soon as something is mounted below `/mnt` or `/data`, that
directory is the run's own: its machine's is out of sight. A *skeleton* is the lowest layer of such a directory, and
one above the code in the workspace: it holds the directories that mounts are mounted on, and the single files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spell_proto.mount_paths import ROOTS, SPELL
from spell_runner.shim.launch import MOUNTS, SKELETONS, Layer


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount whose content is on this machine: at `path`, to be seen at `target`."""

    target: str
    path: str
    is_file: bool


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What stands below one of the roots before anything is mounted: paths relative to it, outer ones first, and files
    with where they are now.
    """

    root: str
    directories: tuple[str, ...]
    files: tuple[tuple[str, str], ...]

    @property
    def part(self) -> str:
        """The part of an attempt's directory that belongs to it."""
        return f"{MOUNTS}{self.root}"

    @property
    def lower(self) -> str:
        return f"{SKELETONS}{self.root}"


def inside(mounted: Sequence[Mounted]) -> tuple[Mounted, ...]:
    """Those below `/spell`: what a run changes there is saved."""
    return tuple(one for one in mounted if one.target.startswith(f"{SPELL}/"))


def skeletons(mounted: Sequence[Mounted], shown: Sequence[str] = ()) -> tuple[Skeleton, ...]:
    """What has to be put together, for the roots below which something is mounted. Directories in `shown` are bound there
    later, where the platform itself lives below such a root.
    """
    found = []
    for root in ROOTS:
        below = {
            one.target.removeprefix(f"{root}/"): one for one in mounted if one.target.startswith(f"{root}/")
        }
        directories = {part for path in below for part in _above(path)}
        directories |= {path for path, one in below.items() if not one.is_file}
        for path in (path.removeprefix(f"{root}/") for path in shown if path.startswith(f"{root}/")):
            directories |= {path, *_above(path)}
        files = tuple((path, one.path) for path, one in sorted(below.items()) if one.is_file)
        if below:
            found.append(Skeleton(root, tuple(sorted(directories)), files))
    return tuple(found)


def layers(mounted: Sequence[Mounted], base: str) -> tuple[Layer, ...]:
    """The overlays to be mounted besides that of the workspace, outer ones first; `base` is the attempt's directory."""
    directories = sorted((one for one in mounted if not one.is_file), key=lambda one: one.target)
    return (
        *_roots(mounted, base),
        *(Layer(one.target, one.path, f"{MOUNTS}/{number}") for number, one in enumerate(directories)),
    )


def copies(mounted: Sequence[Mounted], base: str) -> tuple[Layer, ...]:
    """The same where everything is copied: what is seen instead of the machine's directories, and what was copied."""
    return (*_roots(mounted, base), *(Layer(one.target, one.path, "") for one in mounted))


def _roots(mounted: Sequence[Mounted], base: str) -> list[Layer]:
    return [
        Layer(skeleton.root, f"{base}/{skeleton.lower}", skeleton.part)
        for skeleton in skeletons(mounted)
        if skeleton.root != SPELL
    ]


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
