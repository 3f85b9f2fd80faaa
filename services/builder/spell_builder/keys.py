"""What an environment is named after: the exact content of its layers, never what was asked for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spell_proto import git_packages
from spell_proto.spec import canonical_json

#: Raised when the same packages would be laid out differently: older environments are then not found any more.
BUILDER_VERSION = 1
#: The same for images. 2: how an image is configured is part of its content.
IMAGES_VERSION = 2
BASE = "bare"

#: What people import, and what the package index calls it. The names on the left are no packages anybody wants: they
#: are missing there, empty, or refuse to be installed.
_MEANT = {
    "cv2": "opencv-python-headless",
    "pil": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that environments are made from, as far as their content depends on it. `base` is the image that it
    is in, pinned: empty for one of this machine. Where system packages lie over this machine, it says what that is.
    """

    path: str
    version: str
    platform: str
    libc: str
    base: str = ""


#: Begins the base of an environment with system packages over this machine.
MACHINE = "machine "


def of_image(interpreter: Mapping[str, str] | None) -> bool:
    """Whether an environment is an image, by what is noted of its interpreter."""
    return _on_image((interpreter or {}).get("base", ""))


def _on_image(base: str) -> bool:
    return bool(base) and not base.startswith(MACHINE)


def environment_key(interpreter: Interpreter, resolved: str) -> str:
    """The key of the environment that holds exactly `resolved` (pinned versions with hashes; empty for none)."""
    content = {
        "builder": IMAGES_VERSION if _on_image(interpreter.base) else BUILDER_VERSION,
        "platform": interpreter.platform,
        "python": interpreter.version,
        "interpreter": interpreter.path,
        "libc": interpreter.libc,
        "base": interpreter.base or BASE,
        "pip": resolved,
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def meant(name: str) -> str:
    """The package that a name (as `canonicalize_name` writes it) stands for."""
    return _MEANT.get(name, name)


def wanted(requirements: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The requirements to resolve, each once and in order of name, and a line for each that was corrected."""
    lines: set[str] = set()
    notes: set[str] = set()
    for text in requirements:
        if git_packages.looks_like_one(text):
            lines.add(text)
            continue
        requirement = Requirement(text)
        name = _MEANT.get(canonicalize_name(requirement.name))
        if name is not None:
            notes.add(f"{requirement.name} is called {name} in the package index; installing {name}")
            requirement.name = name
        lines.add(str(requirement))
    return sorted(lines, key=str.lower), sorted(notes)
