"""Resource paths as people type them."""

import click

from spell_cli.args import usage_errors
from spell_cli.terminal import safe_path
from spell_proto import resources
from spell_proto.errors import shown
from spell_proto.resources import Listing, Resource


def typed(path: str, *, field: str = "path") -> Resource | Listing:
    """What a path that was typed names. `./` before it and `.` for everything are let pass, as of files here.

    Raises:
        click.UsageError: it names nothing that could be there.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise click.UsageError(
            f"{field}: {safe_path(path)} is not valid UTF-8", click.get_current_context()
        ) from None
    if "\\" in path:
        raise click.UsageError(f"{field}: {shown(path)} {resources.BACKSLASH}", click.get_current_context())
    trimmed = path.removeprefix("./")
    with usage_errors():
        return resources.parse("" if trimmed == "." else trimmed, field=field)


def typed_path(path: str, *, field: str = "path") -> str:
    """The same, as the server is told it."""
    found = typed(path, field=field)
    return found.name if isinstance(found, Listing) else found.text
