"""`spell machine-types`: where runs can run."""

import json
import os

import click

from spell_cli import config
from spell_cli.args import SpellCommand, json_option
from spell_cli.client import Client
from spell_cli.run_lists import machine_table
from spell_cli.tables import table
from spell_cli.terminal import say


@click.command(
    "machine-types", cls=SpellCommand, examples=("spell machine-types", "spell machine-types --json")
)
@json_option
def machine_types(as_json: bool) -> None:
    """List the types of machines: how many answer, their free slots, what runs commands there, and the GPUs of a run.

    'spell run --machine-type TYPE' runs on one of them.
    """
    listed = Client(config.load(os.environ).connect()).machine_types()
    if as_json:
        say(json.dumps(listed, ensure_ascii=True, indent=2))
    else:
        say("\n".join(table(*machine_table(listed["machine_types"], listed["default"]))))
