"""`spell cluster publish`: data for everybody, below `public/`. For administrators."""

import json
import os
import shlex
from pathlib import Path

import click

from spell_cli import config
from spell_cli.args import SpellCommand, json_option
from spell_cli.commands.uploads import Wanted, bring
from spell_cli.gathering import looked_at
from spell_cli.paths import typed
from spell_cli.tables import safe
from spell_cli.terminal import safe_path, say
from spell_cli.upload_client import UploadClient
from spell_proto.resources import Public


@click.command(
    "publish",
    cls=SpellCommand,
    examples=(
        "spell cluster publish mnist/ public/image/mnist",
        "spell cluster publish --compress texts public/text/news",
        "spell cluster publish --remove public/image/mnist",
    ),
)
@click.option("-c", "--compress", is_flag=True, help="Send one compressed archive, unpacked by the server.")
@click.option(
    "--remove", is_flag=True, help="Take away what was published; runs that have it mounted keep it."
)
@json_option
@click.argument("local", metavar="[LOCAL]")
@click.argument("path", metavar="public/...", required=False)
def publish(compress: bool, remove: bool, as_json: bool, local: str, path: str | None) -> None:
    """Let everybody read a directory, or a file, of yours below public/.

    What is published does not change: to bring another version, remove it first, or give it another name.
    """
    if remove == (path is not None):
        wrong = (
            "With --remove, one path below public/ is wanted." if remove else "Missing argument 'public/...'."
        )
        raise click.UsageError(wrong, click.get_current_context())
    name = _name(local if path is None else path)
    if path is not None:
        looked_at(Path(local))

    server = config.load(os.environ).connect()

    def make_client() -> UploadClient:
        client = UploadClient(server)
        client.public = True
        return client

    if path is None:
        make_client().remove(f"public/{name}")
        if as_json:
            say(json.dumps({"removed": [f"public/{name}"]}, ensure_ascii=True, indent=2))
        else:
            say(f"Successfully removed public/{safe(name)}.")
        return
    again = ["spell", "cluster", "publish", *(["--compress"] if compress else []), local, path]
    wanted = Wanted(name, f"public/{name}", compress, shlex.join(again), quiet=as_json)
    done = bring(make_client, Path(local), wanted)
    if as_json:
        say(json.dumps(done, ensure_ascii=True, indent=2))
    else:
        say(f"Published {safe_path(local)} as public/{safe(name)}.")


def _name(path: str) -> str:
    found = typed(path)
    if not isinstance(found, Public):
        raise click.UsageError(
            f"{safe_path(path)} is not below public/, as public/image/mnist is.", click.get_current_context()
        )
    return found.path
