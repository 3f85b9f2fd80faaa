"""`spell link` and `spell unlink`: names of one's own for resources."""

import json
import os
from datetime import UTC, datetime

import click

from spell_cli import config
from spell_cli.answers import Link
from spell_cli.args import Known, SpellCommand, json_option
from spell_cli.client import Client
from spell_cli.errors import CliError, ConfigError
from spell_cli.paths import typed_path
from spell_cli.tables import safe
from spell_cli.terminal import note, say
from spell_cli.times import listing_date
from spell_proto import resources
from spell_proto.errors import InvalidError, NotFoundError


@click.command(
    "link",
    cls=SpellCommand,
    examples=(
        "spell link montagmodel runs/4/model",
        "spell run --mount montagmodel/checkpoint:checkpoint 'python train.py'",
        "spell link montagmodel        where it leads",
        "spell link                    all links",
    ),
)
@json_option
@click.argument("alias", required=False, type=Known("alias", "links"))
@click.argument("path", required=False, type=Known("path", "resources"))
def link(as_json: bool, alias: str | None, path: str | None) -> None:
    """Give a resource, or something in one, a name: ALIAS can be used wherever PATH can.

    Without PATH, show where ALIAS leads; without ALIAS, list all links.
    """
    client = Client(config.load(os.environ).connect())
    if alias is not None:
        alias = _alias(alias)
    if path is not None and alias is not None:
        made = client.put_link(alias, typed_path(path, field="PATH"))
        if as_json:
            say(json.dumps(made, ensure_ascii=True, indent=2))
        else:
            say(f"Successfully created symlink:\n{_line(made)}")
        return
    found = client.links() if alias is None else _one(client, alias)
    if as_json:
        say(json.dumps(found, ensure_ascii=True, indent=2))
    elif not found:
        note("No symlinks found!")
        note("Use the command 'spell link [ALIAS] [RESOURCE_PATH]' to create a symlink to a resource.")
    else:
        say("\n".join(_line(each) for each in found))


@click.command("unlink", cls=SpellCommand, examples=("spell unlink montagmodel",))
@json_option
@click.argument("alias", type=Known("alias", "links"))
def unlink(as_json: bool, alias: str) -> None:
    """Take a link away. What it leads to stays."""
    try:
        Client(config.load(os.environ).connect()).remove_link(_alias(alias))
    except NotFoundError:
        raise _none(alias) from None
    if as_json:
        say(json.dumps({"removed": [alias]}, ensure_ascii=True, indent=2))
    else:
        say(f"Successfully removed link with alias {safe(alias)}.")


def _alias(typed: str) -> str:
    try:
        return resources.alias(typed)
    except InvalidError as error:
        raise ConfigError(error.message.removeprefix("alias: ")) from None


def _one(client: Client, alias: str) -> list[Link]:
    try:
        return [client.link(alias)]
    except NotFoundError:
        raise _none(alias) from None


def _none(alias: str) -> CliError:
    return CliError(f"No links with alias {safe(alias)} found.")


def _line(link: Link) -> str:
    date = listing_date(link["created_at"], datetime.now(UTC))
    return f"{safe(link['alias'])} → {safe(link['target'])} {date}"
