"""`spell events`: the moves of all runs, in the order in which they were committed."""

import json
import os
import time
from typing import cast

import click
from spell_proto.state import REASON_TEXT, Intent, Reason

from spell_cli import config
from spell_cli.answers import Event
from spell_cli.args import SpellCommand, json_option
from spell_cli.client import LOST, Client, lines, pauses
from spell_cli.errors import UnreachableError
from spell_cli.follow import GIVE_UP_AFTER_SECONDS, GONE_AFTER_SECONDS
from spell_cli.tables import safe
from spell_cli.terminal import say
from spell_cli.times import moment


@click.command(
    "events", cls=SpellCommand, examples=("spell events", "spell events --follow --json | jq .after")
)
@click.option("-f", "--follow", is_flag=True, help="Stay and show what happens.")
@click.option("--after", metavar="CURSOR", help="Go on behind this event: the 'cursor' of --json.")
@json_option
def events(follow: bool, after: str | None, as_json: bool) -> None:
    """Show what happens to all runs: every change of state, and every stop and kill."""
    client = Client(config.load(os.environ).connect())
    if not follow:
        # Begins with a call that can start the stack and waits for a server that is restarting.
        client.machine_types()
    attempts, lost_at = pauses(), None
    while True:
        problem: Exception = ConnectionError("the stream ended")
        try:
            for line in lines(client.events(after, live=follow)):
                event = cast(Event, json.loads(line)) if line else None
                if not event:
                    continue  # a sign of life
                after, lost_at, attempts = event["cursor"], None, pauses()
                say(line.decode() if as_json else _sentence(event))
            if not follow:
                return
        except LOST as error:
            if isinstance(error, BrokenPipeError):
                raise
            problem = error
        client.forget()
        lost_at = lost_at or time.monotonic()
        outage = time.monotonic() - lost_at
        if outage > GIVE_UP_AFTER_SECONDS or (outage > GONE_AFTER_SECONDS and client.server.gone()):
            raise UnreachableError(f"Can't reach {client.server.describe()}: {problem}.")
        time.sleep(next(attempts))


def _sentence(event: Event) -> str:
    at = moment(event["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    if event["kind"] == "intent":
        what = "is to be stopped" if event["intent"] == Intent.STOP else "is to be killed"
    else:
        what = f"{event['before']} → {event['after']}" if event["before"] else event["after"]
    code = f" ({event['exit_code']})" if event["exit_code"] is not None else ""
    reason = f", {REASON_TEXT[Reason(event['reason'])]}" if event["reason"] else ""
    return safe(f"{at}  run {event['run_id']}  {what}{code}{reason}")
