"""`spell logs`: what a run says, until now or to its end."""

import os

import click

from spell_cli import config
from spell_cli.args import Number, SpellCommand, run_id_argument
from spell_cli.client import Client
from spell_cli.errors import ExitCode
from spell_cli.follow import watch
from spell_proto import checks


@click.command(
    "logs", cls=SpellCommand, examples=("spell logs 7", "spell logs -f 7", "spell logs -n 20 -v 7")
)
@click.option("-f", "--follow", is_flag=True, help="Stay until the run ends.")
@click.option(
    "-n",
    "--tail",
    type=Number("tail", 0, checks.TAIL_LINES_MAX),
    default=0,
    metavar="N",
    help="Only the last N lines.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show every line of the platform.")
@run_id_argument
def logs(follow: bool, tail: int, verbose: bool, run_id: int) -> int:
    """Show what a run says: its output, and what is done with it."""
    client = Client(config.load(os.environ).connect())
    code = watch(client, run_id, verbose=verbose, live=follow, tail=tail or None)
    # The log of a run that went wrong was shown all the same; `spell wait` tells how it went.
    return code if code == ExitCode.DETACHED else ExitCode.OK
