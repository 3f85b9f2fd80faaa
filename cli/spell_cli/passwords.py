"""Passwords as they are typed or piped in: never an argument, never echoed, whatever is wrong with them."""

import getpass
import json
import sys

import click

PASSWORD_CHARS_MAX = 1024
#: The key of a service account has 2.4 kB, and may be written more widely.
KEY_BYTES_MAX = 32 << 10


def from_stdin(most: int = PASSWORD_CHARS_MAX, what: str = "password") -> str:
    """The first line of stdin, which is a `what`."""
    return _checked(_read(most + 2, line=True).removesuffix("\n").removesuffix("\r"), most, what)


def key_from_stdin(what: str = "password") -> str:
    """The JSON key of a service account on stdin, on one line; `what` is the option's part before -stdin."""
    try:
        key = json.loads(_read(KEY_BYTES_MAX + 1, line=False))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, dict) or not {"private_key", "client_email"} <= key.keys():
        raise _refused(
            f"{what}: this is not the JSON key of a service account; give the file: --{what}-stdin < key.json"
        )
    return json.dumps(key, ensure_ascii=True, separators=(",", ":"))


def asked(prompt: str, most: int = PASSWORD_CHARS_MAX, what: str = "password") -> str:
    """What somebody types, unseen."""
    if not sys.stdin.isatty():
        raise _refused(f"Nobody is there to ask for the {what}: use --{what}-stdin.")
    try:
        return _checked(getpass.getpass(prompt), most, what)
    except EOFError:
        raise click.Abort from None


def _read(most: int, *, line: bool) -> str:
    try:
        return sys.stdin.readline(most) if line else sys.stdin.read(most)
    except UnicodeDecodeError:
        return ""


def _checked(password: str, most: int, what: str) -> str:
    if not 1 <= len(password) <= most or not (password.isascii() and password.isprintable()):
        raise _refused(f"{what}: 1 to {most} printable ASCII characters are allowed")
    return password


def _refused(message: str) -> click.UsageError:
    return click.UsageError(message, click.get_current_context())
