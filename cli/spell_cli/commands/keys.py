"""`spell keys`: the SSH keys that may push code in the caller's name."""
# ruff: noqa: ARG002 -- click calls these methods, so click decides what they are given

import json
import os
import shutil
import socket
import subprocess
from importlib import import_module
from pathlib import Path

import click

from spell_cli import config
from spell_cli.args import SpellCommand, TextLine, json_option
from spell_cli.client import Client
from spell_cli.config import Config
from spell_cli.errors import CliError
from spell_cli.tables import table
from spell_cli.terminal import ask, can_ask, safe_path, say
from spell_cli.times import local_time
from spell_proto import checks

_TITLE = TextLine("title", checks.TITLE_CHARS_MAX)


class KeysGroup(click.Group):
    """Lists its commands in the order in which they are needed."""

    command_class = SpellCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["list", "add", "generate", "rm"]


@click.group(
    "keys",
    cls=KeysGroup,
    epilog="\b\nExamples:\n  spell keys generate\n  spell keys add ~/.ssh/id_ed25519.pub",
)
def keys() -> None:
    """Manage the SSH keys that may push your code.

    On a local stack there is nothing to do: it has made a key for itself.
    """


@keys.command("list", examples=("spell keys list", "spell keys list --json"))
@json_option
def list_keys(as_json: bool) -> None:
    """List your keys."""
    found = _client(_settings()).ssh_keys()
    if as_json:
        say(json.dumps(found, ensure_ascii=True, indent=2))
    elif not found:
        say("There were no keys found for you.")
    else:
        rows = [
            [str(key["id"]), key["title"], local_time(key["created_at"]), key["fingerprint"]] for key in found
        ]
        say("\n".join(table(["ID", "TITLE", "ADDED", "FINGERPRINT"], rows)))


@keys.command("add", examples=("spell keys add", "spell keys add ~/.ssh/id_ed25519.pub -t laptop"))
@click.option("-t", "--title", type=_TITLE, metavar="TEXT", help="Default: the name of this machine.")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
def add(title: str | None, file: str | None) -> None:
    """Let the public key in FILE push code. Without FILE: the one in ~/.ssh."""
    path = Path(file) if file is not None else _own_public_key()
    _add(_settings(), title or socket.gethostname(), path)


@keys.command("generate", examples=("spell keys generate", "spell keys generate -t laptop -f"))
@click.option("-t", "--title", type=_TITLE, metavar="TEXT", help="Default: '<this machine> Spell CLI'.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing key without asking.")
def generate(title: str | None, force: bool) -> None:
    """Make a key for this machine and let it push code."""
    settings = _settings()
    path = settings.identity_file
    if path.exists() and not force and not (can_ask() and ask("Overwrite existing key?", default=False)):
        raise CliError(f"There is a key in {path} already. Use --force to overwrite it.")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    title = title or f"{socket.gethostname()} Spell CLI"
    _generate(path, title)
    _add(settings, title, path.with_name(path.name + ".pub"))


@keys.command("rm", examples=("spell keys rm laptop", "spell keys rm 3"))
@click.argument("key")
def remove(key: str) -> None:
    """Take a key away. KEY is its id, title or fingerprint."""
    client = _client(_settings())
    matching = [
        known
        for known in client.ssh_keys()
        if key in {str(known["id"]), known["title"], known["fingerprint"]}
    ]
    if not matching:
        raise CliError(f"No key found with id, title or fingerprint {key}")
    if len(matching) > 1:
        ids = ", ".join(str(known["id"]) for known in matching)
        raise CliError(f"{len(matching)} keys have the title {key}. Use one of the ids {ids}.")
    client.remove_ssh_key(matching[0]["id"])
    say(f"Successfully removed key {matching[0]['title']}.")


def _settings() -> Config:
    return config.load(os.environ)


def _client(settings: Config) -> Client:
    return Client(settings.connect())


def _add(settings: Config, title: str, path: Path) -> None:
    line = _public_key(path)
    key = _client(settings).add_ssh_key(title, line)
    say(f"Successfully added key {key['title']} ({key['fingerprint']}).")


def _public_key(path: Path) -> str:
    """The line in a file. A private key is not even read to its end, and never sent anywhere."""
    with path.open("rb") as file:
        text = file.read(checks.PUBLIC_KEY_CHARS_MAX + 1).decode(errors="replace").strip()
    if "PRIVATE KEY" in text:
        wrong = "this is a private key: keep it secret, and give the file that ends in .pub"
    elif not text or "\n" in text or "\0" in text or len(text) > checks.PUBLIC_KEY_CHARS_MAX:
        wrong = "this is not a public key: one line as in ~/.ssh/id_ed25519.pub is allowed"
    else:
        return text
    raise click.UsageError(f"{safe_path(str(path))}: {wrong}", click.get_current_context())


def _own_public_key() -> Path:
    found = sorted((Path.home() / ".ssh").glob("id_*.pub"))
    if not found:
        raise CliError("No public key found in ~/.ssh. Give a file, or use 'spell keys generate'.")
    if len(found) > 1:
        raise CliError(
            "There are several public keys in ~/.ssh: " + ", ".join(path.name for path in found) + "."
        )
    return found[0]


def _generate(path: Path, comment: str) -> None:
    public = path.with_name(path.name + ".pub")
    path.unlink(missing_ok=True)
    public.unlink(missing_ok=True)
    if shutil.which("ssh-keygen"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise CliError("The key could not be made.", detail=done.stderr.strip())
        return
    asyncssh = import_module("asyncssh")
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    public.write_bytes(key.export_public_key())
