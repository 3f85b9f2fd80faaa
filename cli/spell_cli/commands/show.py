"""`spell ps` and `spell info`: what runs there are."""

import json
import os
from datetime import UTC, datetime

import click

from spell_cli import config
from spell_cli.args import Label, Number, SpellCommand, TextLine, json_option, run_id_argument
from spell_cli.client import Client
from spell_cli.errors import CliError
from spell_cli.run_lists import info_rows, ps_table
from spell_cli.tables import pairs, table
from spell_cli.terminal import of_stdout, say
from spell_proto import checks


@click.command(
    "ps",
    cls=SpellCommand,
    examples=("spell ps", "spell ps -n 5 -v", "spell ps --label baseline --json"),
)
@click.option("-n", "--number", type=Number("number", 1, 10_000), default=50, show_default=True, metavar="N")
@click.option("--trunc/--no-trunc", default=True, help="Cut long commands.  [default: trunc]")
@click.option(
    "-r",
    "--repository",
    type=TextLine("repository", checks.REPOSITORY_CHARS_MAX, "repositories"),
    metavar="NAME",
    help="Only runs of this repository.",
)
@click.option(
    "-l", "--label", "labels", multiple=True, type=Label(), metavar="NAME", help="Runs with any of them."
)
@click.option("-v", "--verbose", is_flag=True, help="Show more columns.")
@json_option
def ps(
    number: int, trunc: bool, repository: str | None, labels: tuple[str, ...], verbose: bool, as_json: bool
) -> None:
    """List runs, the newest last."""
    client = Client(config.load(os.environ).connect())
    runs = client.runs(number, labels=labels, repository=repository)[::-1]
    known = (
        {found["name"] for found in client.repositories()} if repository is not None and not runs else None
    )
    if known is not None and repository not in known:
        raise CliError(f"No repository found named {repository}")
    if as_json:
        say(json.dumps(runs, ensure_ascii=True, indent=2))
        return
    terminal = of_stdout()

    def paint(header: str, cell: str) -> str:
        active = header == "STATUS" and cell.startswith("*")
        return terminal.coloured(cell, "green") if active else cell

    headers, rows = ps_table(runs, verbose=verbose, trunc=trunc, now=datetime.now(UTC))
    say("\n".join(table(headers, rows, paint)))


@click.command("info", cls=SpellCommand, examples=("spell info 7", "spell info 7 --json"))
@json_option
@run_id_argument
def info(as_json: bool, run_id: int) -> None:
    """Show everything about a run."""
    run = Client(config.load(os.environ).connect()).run(run_id)
    if as_json:
        say(json.dumps(run, ensure_ascii=True, indent=2))
    else:
        say("\n".join(pairs(info_rows(run, datetime.now(UTC)))))
