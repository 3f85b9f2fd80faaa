"""What gateway and storage tell each other, and the public API tells everybody, about uploads and links."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from spell_proto import resources
from spell_proto.errors import InvalidError, shown
from spell_proto.shapes import Shape

BYTES_MAX = 1 << 53
TUS_VERSION = "1.0.0"
#: Where the one file of an upload that is compressed is found, and what all its members are below.
ARCHIVE = "upload.tar.gz"
ARCHIVE_ROOT = "upload"


class UploadRequest(Shape):
    """An upload to be begun, or gone on with. `files` and `bytes` are what is going to be sent: contents that
    are here already do not count. Without room for them it is refused before any of it was sent.

    With `compressed` it is brought as one archive, which is unpacked when it is whole.
    """

    name: str
    compressed: bool = False
    files: Annotated[int | None, Field(ge=0, le=BYTES_MAX)] = None
    bytes: Annotated[int | None, Field(ge=0, le=BYTES_MAX)] = None


class UploadView(Shape):
    """An upload. It is complete once it has a manifest, and a resource from then on."""

    id: int
    name: str
    compressed: bool
    manifest: str | None
    files: int | None
    bytes: int | None
    created_at: datetime
    completed_at: datetime | None


class UploadList(Shape):
    """Complete uploads, by name."""

    uploads: tuple[UploadView, ...]


class LinkRequest(Shape):
    target: str


class LinkView(Shape):
    """A name for a resource, or for something in one."""

    alias: Annotated[str, AfterValidator(resources.alias)]
    target: str
    created_at: datetime


class LinkList(Shape):
    links: tuple[LinkView, ...]


def public_name(value: str) -> str:
    """The name of what is published: what comes after `public/`.

    Raises:
        InvalidError: upload_name_invalid.
    """
    why = "a path below public/ is allowed, as in public/image/mnist"
    found = resources.parse(f"{resources.PUBLIC}/{value}", field="name", code="upload_name_invalid")
    if not isinstance(found, resources.Public):
        raise InvalidError("upload_name_invalid", f"name: {shown(value)}: {why}", field="name")
    for part in found.path.split("/"):
        resources.upload_name(part)
    return found.path
