"""`spell keys`: the SSH keys that may push code in the caller's name."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path

import click

from spell_cli import config
from spell_cli.args import Known, OrderedGroup, TextLine, json_option
from spell_cli.client import Client
from spell_cli.config import Config
from spell_cli.errors import CliError
from spell_cli.tables import table
from spell_cli.terminal import ask, can_ask, safe_path, say
from spell_cli.times import local_time
from spell_proto import checks

_TITLE = TextLine("title", checks.TITLE_CHARS_MAX)


@click.group(
    "keys",
    cls=OrderedGroup,
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
    """Let the public key in FILE push code. Without FILE it is asked for, or the one in ~/.ssh is taken."""
    path = Path(file) if file is not None else _own_public_key()
    if title is None and can_ask():
        title = click.prompt("Title", default=socket.gethostname(), type=_TITLE)
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
    # Made aside and known to the server before it takes the place of one that works.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as directory:
        made = Path(directory, "key")
        _generate(made, title)
        _add(settings, title, _public_half(made))
        _public_half(made).replace(_public_half(path))
        made.replace(path)


@keys.command("rm", examples=("spell keys rm laptop", "spell keys rm 3"))
@click.argument("key", type=Known("key", "keys"))
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
    if can_ask():
        default = str(found[0]) if found else None
        given = click.prompt("Public key file", default=default, type=click.Path(exists=True, dir_okay=False))
        return Path(str(given))
    if not found:
        raise CliError("No public key found in ~/.ssh. Give a file, or use 'spell keys generate'.")
    if len(found) > 1:
        names = ", ".join(safe_path(path.name) for path in found)
        raise CliError(f"There are several public keys in ~/.ssh: {names}. Give one of them.")
    return found[0]


def _public_half(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _generate(path: Path, comment: str) -> None:
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
    _public_half(path).write_bytes(key.export_public_key())
