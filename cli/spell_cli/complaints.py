"""Errors as words on stderr, and the exit code that goes with each."""

import errno
import os
import traceback

from spell_cli.errors import CliError, ExitCode
from spell_cli.terminal import complain, note
from spell_proto.errors import InvalidError, RefusedError, UnavailableError


def complain_of(error: Exception) -> int:
    """Say what went wrong; the exit code for it."""
    match error:
        case CliError():
            complain(error.message, error.detail)
            _hint(error.hint)
            return error.exit_code
        case RefusedError():
            complain(error.message)
            _hint(error.hint)
            return _refused_code(error)
        case OSError() if error.filename is not None:
            complain(f"{error.filename}: {error.strerror}")
            return ExitCode.REFUSED
        case OSError() if error.errno == errno.ENOSPC:
            complain("Ran out of disk space.")
            return ExitCode.REFUSED
        case _:
            if os.environ.get("SPELL_DEBUG"):
                note("".join(traceback.format_exception(error)).rstrip())
            complain(f"Fatal exception: {type(error).__name__}: {error}.")
            note("This is a bug in spell. SPELL_DEBUG=1 shows where it happened.")
            return ExitCode.REFUSED


def _refused_code(error: RefusedError) -> int:
    if isinstance(error, UnavailableError):
        return ExitCode.UNREACHABLE
    # A field that the server finds wrong was typed on our command line.
    return ExitCode.USAGE if isinstance(error, InvalidError) and error.field else ExitCode.REFUSED


def _hint(hint: str | None) -> None:
    if hint:
        note(hint)
