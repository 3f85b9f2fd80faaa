"""`spell verify`: the server replays what it has written down and says whether it holds together."""

import json
import os

import click

from spell_cli import config
from spell_cli.args import RunId, SpellCommand, json_option
from spell_cli.client import Client
from spell_cli.errors import ExitCode
from spell_cli.progress import Progress
from spell_cli.terminal import of_stdout, say


@click.command("verify", cls=SpellCommand, examples=("spell verify", "spell verify 7 --json"))
@json_option
@click.argument("run_id", type=RunId(), metavar="[RUN_ID]", required=False)
def verify(as_json: bool, run_id: int | None) -> int:
    """Check that nothing was lost and every rule was kept, of one run or of all.

    Replays the log of transitions, reads logs and files again and compares them with what was promised. Exits
    with 1 when something does not hold.
    """
    client = Client(config.load(os.environ).connect())
    with Progress("Checking"):
        verdict = client.verify(run_id)
    broken = [check for check in verdict["checks"] if not check["ok"]]
    if as_json:
        say(json.dumps(verdict["checks"], ensure_ascii=True, indent=2))
        return ExitCode.REFUSED if broken else ExitCode.OK
    terminal = of_stdout()
    for check in verdict["checks"]:
        mark = terminal.plain("✔" if check["ok"] else "✖")
        shown = terminal.coloured(mark, "green" if check["ok"] else "red")
        text = f"{shown} {check['id']}  {check['title']} ({check['checked']} checked)"
        say(text if check["ok"] else f"{text}\n  {check['detail']}")
    what = f"Run {run_id}" if run_id is not None else "All runs"
    if broken:
        say(f"{what}: {len(broken)} of {len(verdict['checks'])} checks do not hold.")
        return ExitCode.REFUSED
    say(f"{what}: all {len(verdict['checks'])} checks hold.")
    return ExitCode.OK
