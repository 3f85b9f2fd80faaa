"""`spell save`: what a running run has made so far, as a resource of its own."""

import json
import os
import time

import click

from spell_cli import config
from spell_cli.answers import Run, Snapshot
from spell_cli.args import SpellCommand, json_option, run_id_argument
from spell_cli.client import Client
from spell_cli.errors import CliError, ExitCode
from spell_cli.run_lists import snapshot_text
from spell_cli.terminal import say
from spell_proto.state import FINAL, RunState

_PAUSE_FIRST = 0.1
_PAUSE_MAX = 1.0


@click.command("save", cls=SpellCommand, examples=("spell save 7", "spell save -b 7", "spell ls runs/7@1"))
@click.option("-b", "--background", is_flag=True, help="Do not wait until it is saved.")
@json_option
@run_id_argument
def save(background: bool, as_json: bool, run_id: int) -> int:
    """Save the new and modified files of a run that goes on, as runs/N@1, runs/N@2 and so forth.

    They can be listed, fetched and mounted at once, and stay whatever becomes of the run.
    """
    client = Client(config.load(os.environ).connect())
    wanted = client.save_run(run_id)
    if background:
        asked = wanted["asked"]
        say(json.dumps({"asked": asked}) if as_json else f"Run {run_id} is saved as soon as its machine can.")
        return ExitCode.OK
    snapshot = _wait(client, run_id, wanted["asked"])
    if as_json:
        say(json.dumps(snapshot, ensure_ascii=True, indent=2))
    elif snapshot["manifest"] is None:
        say(f"No modified or new files found: runs/{run_id}@{snapshot['number']} is empty.")
    else:
        say(f"Saved {snapshot_text(run_id, snapshot)}")
    if not as_json:
        for note in snapshot.get("notes") or ():
            say(note)
    return ExitCode.OK


def _wait(client: Client, run_id: int, asked: int) -> Snapshot:
    """The first snapshot that was begun after it was asked for."""
    pause = _PAUSE_FIRST
    while True:
        run = client.run(run_id)
        for snapshot in run["snapshots"]:
            if snapshot["asked"] >= asked:
                return snapshot
        if run["saves_met"] >= asked:
            raise CliError(f"Run {run_id} could not be saved: {run['save_problem']}")
        if run["state"] in {RunState.SAVING, RunState.PUSHING} or run["state"] in FINAL:
            raise CliError(_ended(run))
        time.sleep(pause)
        pause = min(pause * 1.5, _PAUSE_MAX)


def _ended(run: Run) -> str:
    if run["state"] == RunState.SAVING:
        return f"Run {run['id']} has ended meanwhile; what it made is being saved as runs/{run['id']}."
    if run["state"] == RunState.PUSHING or run["manifest"] is not None:
        return f"Run {run['id']} has ended meanwhile; everything it has made is runs/{run['id']}."
    return f"Run {run['id']} has ended meanwhile, and is {run['state']}."
