"""`spell storage`: looking after what is stored."""

import json
import os
from typing import cast

import click

from spell_cli import config
from spell_cli.answers import DamagedFile, ScrubLine
from spell_cli.args import OrderedGroup, SpellCommand, json_option
from spell_cli.client import LOST, Client, lines
from spell_cli.errors import CliError, ExitCode
from spell_cli.progress import Progress
from spell_cli.tables import safe
from spell_cli.terminal import of_stdout, say
from spell_cli.times import human_size


@click.group("storage", cls=OrderedGroup, epilog="\b\nExamples:\n  spell storage check")
def storage() -> None:
    """Look after the stored files. For administrators."""


@storage.command("check", cls=SpellCommand, examples=("spell storage check", "spell storage check --json"))
@json_option
def check(as_json: bool) -> int:
    """Read all stored files again and name those that are damaged or lost.

    They are never served. A file is whole again as soon as anybody saves or uploads the same content. Exits with 1
    when there are any.
    """
    last, found = _checked(Client(config.load(os.environ).connect()))
    if as_json:
        say(json.dumps({**last, "found": found}, ensure_ascii=True, indent=2))
        return ExitCode.REFUSED if last["damaged"] else ExitCode.OK
    terminal = of_stdout()
    for file in found:
        name = file["name"] or f"a file that nothing names (SHA-256 {file['sha256']})"
        mark = terminal.coloured(terminal.plain("✖"), "red")
        say(f"{mark} {safe(name)}: damaged or lost, {human_size(file['size'])}")
    if last["strays"]:
        say(f"{_files(last['strays'])} on no record will be removed.")
    if last["damaged"]:
        say(
            f"{last['damaged']} of {_files(last['files'])} {'is' if last['damaged'] == 1 else 'are'} damaged or lost. "
            "Whoever saves or uploads the same content again puts it right."
        )
        return ExitCode.REFUSED
    say(f"{_files(last['files'])}, {human_size(last['bytes'])}: all are whole.")
    return ExitCode.OK


def _checked(client: Client) -> tuple[ScrubLine, list[DamagedFile]]:
    found: list[DamagedFile] = []
    last: ScrubLine | None = None
    with Progress("Checking stored files") as progress:
        try:
            for text in lines(client.check_storage()):
                last = cast(ScrubLine, json.loads(text))
                found += last["found"]
                progress.update(f"{human_size(last['bytes'])} of {human_size(last['bytes_of_all'])}")
        except LOST as error:
            raise CliError(f"The check broke off: {error}. Try again.") from error
    if last is None or not last["done"]:
        raise CliError("The check broke off. Try again.")
    return last, found


def _files(count: int) -> str:
    return f"{count} stored file{'' if count == 1 else 's'}"
