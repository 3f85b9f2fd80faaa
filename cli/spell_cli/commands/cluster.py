"""`spell cluster`: what administrators set up for everybody."""

import json
import os

import click

from spell_cli import config, passwords
from spell_cli.args import Known, OrderedGroup, json_option
from spell_cli.client import Client
from spell_cli.commands import buckets, publishing, registries
from spell_cli.tables import table
from spell_cli.terminal import say
from spell_cli.times import local_time


@click.group(
    "cluster",
    cls=OrderedGroup,
    epilog="\b\nExamples:\n"
    "  spell cluster add-git-credentials github.com --username alice\n"
    "  spell cluster add-docker-registry --registry registry.example.org --username alice\n"
    "  spell cluster add-bucket s3://team-data --access-key-id AKIAIOSFODNN7EXAMPLE",
)
def cluster() -> None:
    """Set up what all users share. For administrators."""


@cluster.command(
    "add-git-credentials",
    examples=(
        "spell cluster add-git-credentials github.com --username alice",
        "spell cluster add-git-credentials git.example.org:8443 --password-stdin < token",
    ),
)
@click.option("--username", default="git", show_default=True, metavar="NAME", help="Who the host knows.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin instead of asking for it.")
@click.argument("host", type=Known("host", "git_hosts"))
def add_git_credentials(username: str, password_stdin: bool, host: str) -> None:
    """Store what --github-url needs for private repositories of HOST, in place of what is stored.

    The password, or access token, is asked for and never shown again. Use one that can only read.
    """
    prompt = f"Password or access token of {username} for {host}: "
    password = passwords.from_stdin() if password_stdin else passwords.asked(prompt)
    client = Client(config.load(os.environ).connect())
    stored = client.put_git_credentials(host, username, password)
    say(f"Successfully stored credentials of {stored['username']} for {stored['host']}.")


@cluster.command(
    "list-git-credentials",
    examples=("spell cluster list-git-credentials", "spell cluster list-git-credentials --json"),
)
@json_option
def list_git_credentials(as_json: bool) -> None:
    """List the hosts that credentials are stored for."""
    found = Client(config.load(os.environ).connect()).git_credentials()
    if as_json:
        say(json.dumps(found, ensure_ascii=True, indent=2))
    elif not found:
        say("There are no credentials stored.")
    else:
        rows = [[known["host"], known["username"], local_time(known["created_at"])] for known in found]
        say("\n".join(table(["HOST", "USERNAME", "ADDED"], rows)))


@cluster.command("delete-git-credentials", examples=("spell cluster delete-git-credentials github.com",))
@click.argument("host", type=Known("host", "git_credentials"))
def delete_git_credentials(host: str) -> None:
    """Forget what is stored for HOST."""
    Client(config.load(os.environ).connect()).remove_git_credentials(host)
    say(f"Successfully deleted the credentials for {host}.")


for _command in (
    registries.add_docker_registry,
    registries.list_docker_registries,
    registries.delete_docker_registry,
    buckets.add_bucket,
    buckets.list_buckets,
    buckets.remove_bucket,
    publishing.publish,
):
    cluster.add_command(_command)
