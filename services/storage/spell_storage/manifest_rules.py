"""Which paths a directory could hold together (pure)."""

from spell_proto.checks import RESOURCE_PATH_BYTES_MAX
from spell_proto.errors import InvalidError, shown
from spell_proto.resources import NAME_BYTES_MAX
from spell_proto.views import Manifest


def check_paths(manifest: Manifest) -> None:
    """See that what people describe could be laid out: no name too long, nothing below a file or a link.

    Raises:
        InvalidError: manifest_invalid.
    """
    paths = {entry.path for entry in manifest.entries}
    for path in paths:
        parts = path.split("/")
        try:
            data = path.encode()
        except UnicodeEncodeError:
            raise _invalid(f"the name {shown(path)} is not valid UTF-8") from None
        if len(data) > RESOURCE_PATH_BYTES_MAX:
            raise _invalid(f"{shown(path)} is longer than {RESOURCE_PATH_BYTES_MAX} bytes")
        for part in parts:
            if len(part.encode()) > NAME_BYTES_MAX:
                raise _invalid(f"the name {shown(part)} is longer than {NAME_BYTES_MAX} bytes")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            if above in paths:
                raise _invalid(f"{shown(path)} is below {shown(above)}, which is no directory")


def _invalid(what: str) -> InvalidError:
    return InvalidError("manifest_invalid", f"entries: {what}", field="entries")
