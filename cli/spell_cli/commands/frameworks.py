"""`spell frameworks`: what `--framework` of a run may be."""

import json
import os

import click

from spell_cli import config
from spell_cli.answers import Framework
from spell_cli.args import Known, SpellCommand, json_option
from spell_cli.client import Client
from spell_cli.errors import CliError
from spell_cli.tables import pairs, table
from spell_cli.terminal import note, say


@click.command(
    "frameworks",
    cls=SpellCommand,
    examples=(
        "spell frameworks",
        "spell frameworks pytorch      # what it installs",
        "spell frameworks --json",
        "spell run --framework pytorch python train.py",
        "spell run --framework tensorflow==2.20.0 --pip tensorflow-datasets python train.py",
    ),
)
@json_option
@click.argument("name", required=False, type=Known("name", "frameworks"), metavar="[NAME]")
def frameworks(as_json: bool, name: str | None) -> None:
    """List the frameworks that a run may name, or show the one called NAME.

    A version is chosen with NAME==VERSION; other packages are added with --pip.
    """
    found = Client(config.load(os.environ).connect()).frameworks()
    if name is not None:
        one = _named(found["frameworks"], name)
        say(json.dumps(one, ensure_ascii=True, indent=2) if as_json else "\n".join(pairs(_rows(one))))
    elif as_json:
        say(json.dumps(found, ensure_ascii=True, indent=2))
    else:
        rows = [
            [
                one["name"],
                ", ".join(one["aliases"]),
                one["summary"] + " (Docker)" * (one["image"] is not None),
            ]
            for one in found["frameworks"]
        ]
        say("\n".join(table(["NAME", "OR", "WHAT IT IS"], rows)))
        note("`spell frameworks NAME` shows what is in one.")


def _named(found: list[Framework], name: str) -> Framework:
    for one in found:
        if name.lower() in {one["name"], *one["aliases"]}:
            return one
    raise CliError(f"There is no framework {name!r}. There is: {', '.join(one['name'] for one in found)}.")


def _rows(one: Framework) -> list[tuple[str, str]]:
    rows = [
        ("Name", ", ".join([one["name"], *one["aliases"]])),
        ("What It Is", one["summary"]),
        ("Note", one["note"]),
        ("Python", one["python"]),
        ("Docker Image", one["image"] or ""),
        ("Packages", "\n".join(one["packages"])),
    ]
    return [(title, value) for title, value in rows if value]
