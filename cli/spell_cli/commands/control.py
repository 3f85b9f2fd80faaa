"""`spell wait`, `stop`, `kill`, `archive` and `label`: what a user may do to runs that exist."""

import json
import os
import time
from collections.abc import Sequence

import click

from spell_cli import config
from spell_cli.answers import EndOutcomes
from spell_cli.args import Label, SpellCommand, json_option, run_id_argument, run_ids_argument
from spell_cli.client import Client
from spell_cli.errors import ExitCode
from spell_cli.render import run_exit_code
from spell_cli.terminal import complain, say
from spell_proto.state import FINAL

_WAIT_PAUSE_FIRST = 0.1
_WAIT_PAUSE_MAX = 1.0
_RULE = "--------------------------------------"


@click.command("wait", cls=SpellCommand, examples=("spell wait 7", "spell wait 7 8 9 && echo all went well"))
@run_ids_argument
def wait(run_ids: tuple[int, ...]) -> int:
    """Wait until runs have ended.

    Exits as 'spell run' does: with the exit code of the command, 70 Failed, 75 Interrupted, 137 Killed. Of
    several runs the first that is not 0 counts.
    """
    client = _client()
    codes = []
    for run_id in dict.fromkeys(run_ids):
        pause = _WAIT_PAUSE_FIRST
        while (run := client.run(run_id))["state"] not in FINAL:
            time.sleep(pause)
            pause = min(pause * 1.5, _WAIT_PAUSE_MAX)
        codes.append(run_exit_code(run))
    return next((code for code in codes if code), ExitCode.OK)


@click.command("stop", cls=SpellCommand, examples=("spell stop 7", "spell stop -q 7 8 9"))
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@run_ids_argument
def stop(quiet: bool, run_ids: tuple[int, ...]) -> int:
    """End runs and save what they have made: TERM, a grace period, KILL.

    A run whose command has not started is killed: there is nothing to save.
    """
    client, run_ids = _client(), tuple(dict.fromkeys(run_ids))
    if len(run_ids) > 1:
        first = "Executing batch stop... Use 'spell logs -f RUN_ID' to view logs for a run while the job finishes."
        return _batch(first, client.end_runs(run_ids, "stop"), how="stop", quiet=quiet)
    outcome = client.end_run(run_ids[0], "stop")
    run_id, state = run_ids[0], outcome["run"]["state"]
    text = {
        "ending": f"Stopping run {run_id}. Use 'spell logs -f {run_id}' to view logs while the job finishes.",
        "ended": f"Killed run {run_id}. Execution was not initiated.",
    }.get(outcome["outcome"], f"Run {run_id} is already {state}.")
    if not quiet:
        say(text)
    return ExitCode.OK


@click.command("kill", cls=SpellCommand, examples=("spell kill 7", "spell kill -q 7 8 9"))
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@run_ids_argument
def kill(quiet: bool, run_ids: tuple[int, ...]) -> int:
    """End runs at once. Nothing is saved."""
    client, run_ids = _client(), tuple(dict.fromkeys(run_ids))
    if len(run_ids) > 1:
        return _batch("Executing batch kill...", client.end_runs(run_ids, "kill"), how="kill", quiet=quiet)
    outcome = client.end_run(run_ids[0], "kill")
    if not quiet:
        finished = outcome["outcome"] == "already_final"
        say(f"Run {run_ids[0]} is already {outcome['run']['state']}." if finished else str(run_ids[0]))
    return ExitCode.OK


@click.command("archive", cls=SpellCommand, examples=("spell archive 7", "spell archive 7 8 9"))
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@json_option
@run_ids_argument
def archive(quiet: bool, as_json: bool, run_ids: tuple[int, ...]) -> int:
    """Put runs away that have ended and that nobody needs any more.

    They are listed no more, and their files cannot be listed, fetched or mounted. The room that only they took
    becomes free after a while. 'spell info' and 'spell logs' still know them by their numbers.
    """
    asked = tuple(dict.fromkeys(run_ids))
    outcome = _client().archive_runs(asked)
    archived = outcome["archived"]
    if as_json:
        say(json.dumps(outcome, ensure_ascii=True, indent=2))
    elif archived and not quiet:
        say(str(archived[0]) if len(asked) == 1 else f"Successfully archived runs: {_listed(archived)}")
    refused = {
        "Run ID does not exist": outcome["unknown"],
        "Already archived": outcome["already_archived"],
        "Still active, to be stopped or killed first": outcome["active"],
    }
    for text, those in refused.items():
        if those:
            complain(f"{text}: {_listed(those)}")
    return ExitCode.OK if len(archived) == len(asked) else ExitCode.REFUSED


@click.command(
    "label", cls=SpellCommand, examples=("spell label 7 baseline", "spell label 7 baseline --remove")
)
@click.option("--remove", is_flag=True, help="Take the label away.")
@run_id_argument
@click.argument("name", type=Label(), metavar="NAME")
def label(remove: bool, run_id: int, name: str) -> None:
    """Give a run a label, or take one away."""
    _client().label_run(run_id, name, remove=remove)
    say(
        f"Successfully {'removed' if remove else 'added'} label {name} {'from' if remove else 'to'} run {run_id}."
    )


def _client() -> Client:
    return Client(config.load(os.environ).connect())


def _batch(first: str, outcomes: EndOutcomes, *, how: str, quiet: bool) -> int:
    """What became of several runs; an id that does not exist makes the exit code 1."""
    lines = [first]
    if outcomes["already_final"]:
        lines.append(f"| Already finished: {_listed(outcomes['already_final'])}")
    if outcomes["unknown"]:
        lines.append(f"| Run ID does not exist: {_listed(outcomes['unknown'])}")
    if how == "stop":
        lines += [_RULE] if len(lines) > 1 else []
        if outcomes["ending"]:
            lines.append(
                f"| Successfully stopping: {_listed(outcomes['ending'])} . Any outputs will be pushed and saved."
            )
        if outcomes["ended"]:
            lines.append(
                f"| Successfully killed: {_listed(outcomes['ended'])} . Execution was not initiated."
            )
    elif outcomes["ending"] or outcomes["ended"]:
        lines.append(f"| Successfully killed: {_listed(sorted(outcomes['ending'] + outcomes['ended']))}")
    if not quiet:
        say("\n".join(lines))
    elif outcomes["unknown"]:
        complain(f"Run ID does not exist: {_listed(outcomes['unknown'])}")
    return ExitCode.REFUSED if outcomes["unknown"] else ExitCode.OK


def _listed(run_ids: Sequence[int]) -> str:
    return " ".join(str(run_id) for run_id in run_ids)
