"""What `--mount` takes: a resource and where in a run it appears. Pure.

A target is a path below `/spell`, `/mnt` or `/data`, or one relative to the directory that the command starts in. What
is mounted below `/spell` is part of the workspace: what a run changes there is saved.

Standard library only, as the command line imports this module.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence

from spell_proto import resources
from spell_proto.errors import InvalidError, shown

SPELL = "/spell"
#: A target is strictly below one of these.
ROOTS = (SPELL, "/mnt", "/data")
MOUNTS_MAX = 64
TARGET_BYTES_MAX = 4096
_SCHEME = re.compile(r"[A-Za-z0-9+.-]+://", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def source(text: str) -> resources.Resource:
    """The resource of a mount.

    Raises:
        InvalidError: mount_source_invalid or bucket_invalid.
    """
    code = "mount_source_invalid"
    found = resources.parse(text, field="--mount", code=code) if "\\" not in text else None
    if found is None:
        raise InvalidError(code, f"--mount: {shown(text)} {resources.BACKSLASH}", field="mounts")
    if isinstance(found, resources.Listing):
        raise InvalidError(
            code, f"--mount: {shown(text)} is a list of resources; one of them can be mounted", field="mounts"
        )
    return found


def split(text: str) -> tuple[str, str | None]:
    """The resource and the target of RESOURCE[:PATH]. A scheme keeps its colon.

    Raises:
        InvalidError: mount_syntax, mount_source_invalid, bucket_invalid or mount_target_forbidden.
    """
    scheme = _SCHEME.match(text)
    start = "" if scheme is None else scheme[0]
    first, *others = text[len(start) :].split(":")
    if not first or len(others) > 1 or others == [""]:
        raise InvalidError(
            "mount_syntax",
            f"--mount: Incorrect formatting of mount {shown(text)}, it must be <resource_path>[:<mount_path>]",
            field="mounts",
        )
    source(start + first)
    return start + first, target_text(others[0]) if others else None


def checked_target(text: str, cwd: str) -> str:
    """The absolute path of a target, of which `cwd` is where the command starts.

    Raises:
        InvalidError: mount_target_forbidden.
    """
    why = _problem(text)
    if why is not None:
        raise _forbidden(text, why)
    parts = text.split("/")
    if text.startswith("/") and not {".", ".."}.isdisjoint(parts):
        raise _forbidden(text, f"no '{'..' if '..' in parts else '.'}' is allowed; use /mnt/...")
    if parts[0] == "~":
        raise _forbidden(
            text, "'~' is not expanded in a run; give a path relative to where it starts, or /mnt/..."
        )
    target = posixpath.normpath(posixpath.join(cwd, text))
    target = f"/{target.lstrip('/')}"
    if not any(target.startswith(f"{root}/") for root in ROOTS):
        raise _forbidden(text, "paths below /mnt, /data and /spell are allowed; use /mnt/...")
    if any(len(part.encode()) > resources.NAME_BYTES_MAX for part in target.split("/")):
        raise _forbidden(text, f"a name in it is longer than {resources.NAME_BYTES_MAX} bytes")
    if f"{cwd}/".startswith(f"{target}/"):
        raise _forbidden(text, "it would hide the directory that the command starts in")
    if ".git" in target.lower().split("/"):
        raise _forbidden(text, "'.git' belongs to git")
    return target


def placed(asked: Sequence[tuple[str, str | None]], cwd: str) -> list[str]:
    """The absolute targets of resources and what was given as theirs, in turn; `cwd` is where the command starts.

    Raises:
        InvalidError: too_many_mounts, mount_target_forbidden or mount_target_conflict.
    """
    if len(asked) > MOUNTS_MAX:
        raise InvalidError(
            "too_many_mounts",
            f"--mount: {len(asked)} mounts, at most {MOUNTS_MAX} are allowed",
            field="mounts",
        )
    targets: list[str] = []
    for resource, given in asked:
        name = resources.base_name(source(resource))
        target = checked_target(given or _own(name, resource), cwd)
        for (other, _), there in zip(asked, targets, strict=False):
            if f"{target}/".startswith(f"{there}/") or f"{there}/".startswith(f"{target}/"):
                what = (
                    f"{shown(other)} at {there} and {shown(resource)} at {target}: one cannot be in the other"
                )
                if target == there:
                    what = f"{shown(other)} and {shown(resource)} would both be at {target}"
                raise InvalidError("mount_target_conflict", f"--mount: {what}", field="mounts")
        targets.append(target)
    return targets


def outside(targets: Iterable[str]) -> bool:
    """Whether one of the absolute targets is outside the workspace."""
    return any(not target.startswith(f"{SPELL}/") for target in targets)


def working_directory(root_directory: str | None, cwd: str = ".") -> str:
    """Where the command of a run starts; `root_directory` is that of its code, if it has any."""
    return SPELL if root_directory is None else posixpath.normpath(f"{SPELL}/{root_directory}/{cwd}")


def target_text(target: str) -> str:
    """A target as it may be given."""
    why = _problem(target)
    if why is not None:
        raise _forbidden(target, why)
    return target


def _own(name: str, resource: str) -> str:
    """The target of a mount without one: its resource's name.

    Raises:
        InvalidError: mount_target_forbidden: nothing can be mounted under that name.
    """
    why = _problem(name)
    if why is not None:
        raise InvalidError(
            "mount_target_forbidden",
            f"--mount: {shown(resource)} cannot be mounted under its own name: {why}; say where to, as in RESOURCE:data",
            field="mounts",
        )
    return name


def _problem(target: str) -> str | None:
    """Why nothing can be mounted under a name, whatever it means."""
    if not target:
        return "a path is allowed, and this is none"
    if len(target.encode(errors="replace")) > TARGET_BYTES_MAX:
        return f"at most {TARGET_BYTES_MAX} bytes are allowed"
    if _SURROGATE.search(target):
        return "it is not valid UTF-8"
    for pattern, what in (
        (_CONTROL, "a line break or another control character"),
        ("\\\\", "a backslash"),
        (":", "a colon"),
    ):
        if re.search(pattern, target):
            return f"it holds {what}"
    return None


def _forbidden(text: str, why: str) -> InvalidError:
    return InvalidError("mount_target_forbidden", f"--mount: the target {shown(text)}: {why}", field="mounts")
