"""Mounts as they are asked for and as they were accepted. `spell_proto.mount_paths` says what they may be. Pure."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from spell_proto import mount_paths
from spell_proto.shapes import Shape


def _resource(value: str) -> str:
    mount_paths.source(value)
    return value


def _target(value: str | None) -> str | None:
    return None if value is None else mount_paths.target_text(value)


class MountRequest(Shape):
    """A resource and where to mount it; without `target` it gets its own name in the working directory."""

    resource: Annotated[str, AfterValidator(_resource)]
    target: Annotated[str | None, AfterValidator(_target)] = None


class Mount(Shape):
    """A mount as it was accepted. `target` is absolute. Its content is a manifest of `owner_id`, at or below `path` in
    it (`is_file` tells which), or what `bucket` holds when it is mounted. `led_to` is what a link led to when the run was made.
    """

    resource: str
    target: str
    owner_id: int = 0
    manifest: str | None = None
    path: str = ""
    is_file: bool = False
    bucket: str | None = None
    led_to: str | None = None


def parse(text: str) -> MountRequest:
    """A mount as `--mount` takes it: RESOURCE[:PATH].

    Raises:
        InvalidError: mount_syntax, mount_source_invalid, bucket_invalid or mount_target_forbidden.
    """
    resource, target = mount_paths.split(text)
    return MountRequest(resource=resource, target=target)


def placed(requests: Sequence[MountRequest], cwd: str) -> list[str]:
    """The absolute targets, in turn; `cwd` is where the command starts.

    Raises:
        InvalidError: too_many_mounts, mount_target_forbidden or mount_target_conflict.
    """
    return mount_paths.placed([(request.resource, request.target) for request in requests], cwd)
