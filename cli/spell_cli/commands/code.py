"""`spell patch` and `spell repos`: the code that runs were given."""

import http.client
import json
import os
import sys
import time
from collections.abc import Iterator

import click

from spell_cli import config
from spell_cli.answers import Repository
from spell_cli.args import SpellCommand, json_option, run_id_argument
from spell_cli.client import LOST, Client, chunks, pauses
from spell_cli.errors import UnreachableError
from spell_cli.escapes import EscapeFilter
from spell_cli.tables import table
from spell_cli.terminal import note, of_stdout, say
from spell_cli.times import local_time

_GIVE_UP_AFTER_SECONDS = 30.0
_COMMIT_CHARS = 8


@click.command(
    "patch",
    cls=SpellCommand,
    examples=(
        "spell patch 7",
        "spell patch 7 | git apply            # on the commit that `spell info 7` names",
        "spell patch 7 > before-the-run.patch",
    ),
)
@run_id_argument
def patch(run_id: int) -> None:
    """Print the uncommitted changes that went with a run, as a patch that `git apply` takes.

    Prints nothing where there were none.
    """
    client = Client(config.load(os.environ).connect())
    code = client.run(run_id)["spec"]["code"]
    if code is None or code["snapshot"] is None:
        note(f"Run {run_id} has no uncommitted changes.")
        return
    sys.stdout.flush()
    shown = EscapeFilter() if of_stdout().live else None
    for piece in _patch(client, run_id):
        sys.stdout.buffer.write(piece if shown is None else shown.feed(piece))
    sys.stdout.buffer.flush()


def _patch(client: Client, run_id: int) -> Iterator[bytes]:
    """The patch, over as many connections as it takes. It is the same every time."""
    got = 0
    attempts, last = pauses(), time.monotonic()
    while True:
        position = 0
        try:
            response = client.patch(run_id)
            for data in chunks(response):
                new = data[max(0, got - position) :]
                position += len(data)
                if new:
                    got = position
                    attempts, last = pauses(), time.monotonic()
                    yield new
            if not response.length:
                return
            raise http.client.IncompleteRead(b"")
        except LOST as error:
            if time.monotonic() - last > _GIVE_UP_AFTER_SECONDS:
                raise UnreachableError(f"Can't reach {client.server.describe()}: {error}.") from None
        client.forget()
        time.sleep(next(attempts))


@click.command("repos", cls=SpellCommand, examples=("spell repos", "spell repos --json"))
@json_option
def repos(as_json: bool) -> None:
    """List the repositories whose code the server has.

    All commits that grow from one first commit are one repository, however often it is cloned. FROM is that commit,
    or the URL that the server fetches from.
    """
    client = Client(config.load(os.environ).connect())
    found = client.repositories()
    if as_json:
        say(json.dumps(found, ensure_ascii=True, indent=2))
        return
    if not found:
        note("No repositories yet.")
        return
    creator = client.user_name()
    rows = [
        [
            known["name"],
            creator,
            local_time(known["created_at"]),
            local_time(known["updated_at"]),
            _origin(known),
        ]
        for known in found
    ]
    say("\n".join(table(["NAME", "CREATOR", "CREATED", "UPDATED", "FROM"], rows)))


def _origin(repository: Repository) -> str:
    return repository["url"] or (repository["root_commit"] or "")[:_COMMIT_CHARS]
