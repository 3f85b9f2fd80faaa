"""A conda environment file, looked at before it goes with a request."""

from pathlib import Path

from spell_cli import requirements
from spell_cli.spec_from_args import CondaText
from spell_proto.conda import FIELD, FLAG, parse_text
from spell_proto.errors import InvalidError


def read(given: str, directory: Path) -> CondaText:
    """Read the file that was named in `directory`.

    Raises:
        InvalidError: it cannot be read, or the server would not take it.
    """
    try:
        text = requirements.content(Path(directory, given), given, None)
    except InvalidError as error:
        message = error.message.replace("--pip-req", FLAG, 1).replace(", with the files that it includes", "")
        raise InvalidError(error.code, message, field=FIELD) from error
    return CondaText(text, parse_text(text, given).notes(given))
