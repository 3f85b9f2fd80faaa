"""`spell storage`: looking after what is stored."""

import json
import os
from typing import cast

import click

from spell_cli import config
from spell_cli.args import OrderedGroup, SpellCommand, json_option
from spell_cli.client import LOST, Client, lines
from spell_cli.errors import CliError, ExitCode
from spell_cli.progress import Progress
from spell_cli.store_answers import DamagedFile, ScrubLine
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

    They are never served. A file is whole again as soon as anybody saves or uploads the same content. A check that
    broke off is gone on with when it is asked for again. Exits with 1 when any file is damaged, lost, or not to be read.
    """
    last, found = _checked(Client(config.load(os.environ).connect()))
    if as_json:
        say(json.dumps({**last, "found": found}, ensure_ascii=True, indent=2))
        return ExitCode.REFUSED if last["damaged"] or last["unreadable"] else ExitCode.OK
    terminal = of_stdout()
    for file in found:
        name = file["name"] or f"a file that nothing names (SHA-256 {file['sha256']})"
        mark = terminal.coloured(terminal.plain("✖"), "red")
        what = "could not be read" if file["unreadable"] else "damaged or lost"
        say(f"{mark} {safe(name)}: {what}, {human_size(file['size'])}")
    more = last["damaged"] + last["unreadable"] - len({file["sha256"] for file in found})
    if more > 0:
        say(f"{_files(more)} more {'is' if more == 1 else 'are'} not named here.")
    if last["strays"]:
        say(f"{_files(last['strays'])} on no record will be removed.")
    if last["unreadable"]:
        say(
            f"{last['unreadable']} of {_files(last['files'])} could not be read; the log of storage says why."
        )
    if last["damaged"]:
        say(
            f"{last['damaged']} of {_files(last['files'])} {'is' if last['damaged'] == 1 else 'are'} damaged or lost. "
            "Whoever saves or uploads the same content again puts it right."
        )
    if last["damaged"] or last["unreadable"]:
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
