"""What mounts hide of the code of a run: that is said; what could only be mounted inside a file or a link of it is refused (shell)."""

import stat
from collections.abc import Sequence

from spell_proto.mount_paths import SPELL
from spell_proto.mounts import Mount
from spell_proto.state import Reason
from spell_runner.errors import AttemptError
from spell_runner.lower import Lower


def hidden(mounts: Sequence[Mount], code: Lower) -> list[str]:
    """Lines that name what of the code is out of sight.

    Raises:
        AttemptError: a mount has no place.
    """
    lines = []
    for mount in mounts:
        if not mount.target.startswith(f"{SPELL}/"):
            continue
        parts = mount.target.removeprefix(f"{SPELL}/").split("/")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            status = code.status(above)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                what = "link" if stat.S_ISLNK(status.st_mode) else "file"
                message = f"{mount.resource} cannot be mounted at {mount.target}: {SPELL}/{above} is a {what} of the code"
                raise AttemptError(Reason.MOUNT_FAILED, message)
        if code.status("/".join(parts)) is not None:
            lines.append(f"{mount.target} of the code is hidden by the mount of {mount.resource}")
    return lines
