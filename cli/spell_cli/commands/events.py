"""`spell events`: the moves of all runs, in the order in which they were committed."""

import json
import os
import time
from collections.abc import Iterator
from typing import cast

import click

from spell_cli import config
from spell_cli.answers import Event
from spell_cli.args import SpellCommand, json_option
from spell_cli.client import LOST, Client, lines, pauses
from spell_cli.errors import UnreachableError
from spell_cli.follow import GIVE_UP_AFTER_SECONDS, GONE_AFTER_SECONDS
from spell_cli.tables import safe
from spell_cli.terminal import say
from spell_cli.times import moment
from spell_proto.state import REASON_TEXT, Intent, Reason


@click.command(
    "events", cls=SpellCommand, examples=("spell events", "spell events --follow --json | jq .after")
)
@click.option("-f", "--follow", is_flag=True, help="Stay and show what happens.")
@click.option(
    "--after", metavar="CURSOR", default="", help="Begin behind this event: its 'cursor' in --json."
)
@json_option
def events(follow: bool, after: str, as_json: bool) -> None:
    """Show what happens to all runs: every change of state, and every stop and kill."""
    client = Client(config.load(os.environ).connect())
    # A call that starts the stack, and waits for a server that is restarting.
    client.machine_types()
    stream = _Stream(client, after)
    attempts, lost_at = pauses(), None
    while True:
        try:
            for line, event in stream.read(live=follow):
                attempts, lost_at = pauses(), None
                say(line.decode() if as_json else sentence(event))
            if not follow:
                return
            problem: Exception = ConnectionError("the stream ended")
        except BrokenPipeError:
            raise
        except LOST as error:
            problem = error
        client.forget()
        lost_at = lost_at or time.monotonic()
        outage = time.monotonic() - lost_at
        if outage > GIVE_UP_AFTER_SECONDS or (outage > GONE_AFTER_SECONDS and client.server.gone()):
            raise UnreachableError(f"Can't reach {client.server.describe()}: {problem}.")
        time.sleep(next(attempts))


class _Stream:
    """Every event once, over as many connections as it takes."""

    def __init__(self, client: Client, after: str) -> None:
        self._client = client
        self._after = after

    def read(self, *, live: bool) -> Iterator[tuple[bytes, Event]]:
        for line in lines(self._client.events(self._after, live=live)):
            event = cast(Event, json.loads(line)) if line else None
            if not event:
                continue  # a sign of life
            yield line, event
            # After a lost connection the first of the next one is the one behind it.
            self._after = event["cursor"]


def sentence(event: Event) -> str:
    """One event for a person."""
    at = moment(event["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    if event["kind"] == "intent":
        what = "is to be stopped" if event["intent"] == Intent.STOP else "is to be killed"
    else:
        what = f"{event['before']} → {event['after']}" if event["before"] else event["after"]
    code = f" ({event['exit_code']})" if event["exit_code"] is not None else ""
    reason = f", {REASON_TEXT[Reason(event['reason'])]}" if event["reason"] else ""
    return safe(f"{at}  run {event['run_id']}  {what}{code}{reason}")
