"""Which paths a directory could hold together, and how much a manifest may say (pure)."""

from itertools import pairwise

from spell_proto.checks import RESOURCE_PATH_BYTES_MAX
from spell_proto.errors import InvalidError, shown
from spell_proto.resources import NAME_BYTES_MAX, PATH_PARTS_MAX
from spell_proto.views import MANIFEST_BYTES_MAX, Manifest

#: What an entry takes of that besides its path.
ENTRY_BYTES = 170


def check_paths(manifest: Manifest) -> None:
    """See that what people describe could be laid out: no name too long, nothing below a file or a link, and no more of
    it than a manifest may say.

    It looks at each path once, as it is asked about anybody's.

    Raises:
        InvalidError: manifest_invalid.
    """
    size = 0
    for entry in manifest.entries:
        problem = path_problem(entry.path)
        if problem is not None:
            raise _invalid(problem)
        size += len(entry.path.encode()) + len(entry.link or "") + ENTRY_BYTES
    if size > MANIFEST_BYTES_MAX:
        raise _invalid(
            f"there are more than {MANIFEST_BYTES_MAX} bytes of them: fewer files, or shorter paths"
        )
    # What is below a path comes right behind it.
    ordered = sorted({entry.path.replace("/", "\0") for entry in manifest.entries})
    for above, below in pairwise(ordered):
        if below.startswith(f"{above}\0"):
            named = [path.replace("\0", "/") for path in (below, above)]
            raise _invalid(f"{shown(named[0])} is below {shown(named[1])}, which is no directory")


def path_problem(path: str) -> str | None:
    """Why no upload can have a file at `path`."""
    try:
        data = path.encode()
    except UnicodeEncodeError:
        return f"the name {shown(path)} is not valid UTF-8"
    if len(data) > RESOURCE_PATH_BYTES_MAX:
        return f"{shown(path)} is longer than {RESOURCE_PATH_BYTES_MAX} bytes"
    parts = data.split(b"/")
    if b"\0" in data or not {b"", b".", b".."}.isdisjoint(parts):
        return f"{shown(path)} is not a path below a resource"
    if len(parts) > PATH_PARTS_MAX:
        return f"{shown(path)} is below more than {PATH_PARTS_MAX - 1} directories"
    longest = max(parts, key=len)
    if len(longest) > NAME_BYTES_MAX:
        return f"the name {shown(longest.decode())} is longer than {NAME_BYTES_MAX} bytes"
    return None


def _invalid(what: str) -> InvalidError:
    return InvalidError("manifest_invalid", f"entries: {what}", field="entries")
