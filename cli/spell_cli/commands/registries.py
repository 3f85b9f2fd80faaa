"""`spell cluster …-docker-registry`: which private registries images may come from. For administrators."""

import json
import os
from importlib import import_module
from typing import Any

import click

from spell_cli import config, passwords
from spell_cli.args import Known, SpellCommand, json_option
from spell_cli.client import Client
from spell_cli.errors import CliError
from spell_cli.tables import table
from spell_cli.terminal import say
from spell_cli.times import local_time
from spell_proto import images

#: Who Google's registries know when the password is the key of a service account.
_KEY_USER = "_json_key"
_PASSWORD_CHARS_MAX = 16_384
_DEFAULT_PROFILE = "default"


_REGISTRY = "The host that names of its images begin with. Without it: repositories of Amazon's."
_REPOSITORY = click.option("--repo", metavar="NAME", help="A repository of Amazon's; asked for unless given.")
_PROFILE = click.option(
    "-p", "--profile", metavar="NAME", help="AWS profile to change the role with.  [default: default]"
)


@click.command(
    "add-docker-registry",
    cls=SpellCommand,
    examples=(
        "spell cluster add-docker-registry --registry registry.example.org --username alice",
        "spell cluster add-docker-registry --registry ghcr.io --username alice --password-stdin < token",
        "spell cluster add-docker-registry --registry europe-docker.pkg.dev --password-stdin < key.json",
        "spell cluster add-docker-registry --repo text-generation --profile work",
    ),
)
@click.option("--registry", metavar="HOST", help=_REGISTRY)
@click.option("--username", metavar="NAME", help="Who the registry knows. Google's: _json_key unless given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin instead of asking for it.")
@_REPOSITORY
@_PROFILE
def add_docker_registry(
    registry: str | None, username: str | None, password_stdin: bool, repo: str | None, profile: str | None
) -> None:
    """Let runs use images of a private registry, for everybody; a login that is stored already is replaced.

    With --registry, the password, or access token, is asked for, tried at the registry, and never shown again. Use one
    that can only read. Google's registries take the JSON key of a service account as the password, Amazon's an access key.

    Without it, the IAM role of the cluster is given read permission to one of your repositories at Amazon.
    """
    if registry is None:
        if username is not None or password_stdin:
            raise _wrong("Missing option '--registry': --username and --password-stdin are for it.")
        _roles().add(_client(), repo, profile or _DEFAULT_PROFILE)
        return
    registry = images.registry_name(registry)
    google = images.is_google(registry)
    _refuse_roles(repo, profile, google=google)
    username = username or (_KEY_USER if google else None)
    if username is None:
        raise _wrong("Missing option '--username': who the registry knows.")
    password = _password(registry, username, password_stdin=password_stdin)
    stored = _client().put_registry(registry, username, password)
    if google:
        say("Successfully added permissions, you can now run jobs using your own docker images from GCR!")
    else:
        say(f"Successfully stored the login of {stored['username']} for {stored['registry']}.")


@click.command(
    "list-docker-registries",
    cls=SpellCommand,
    examples=("spell cluster list-docker-registries", "spell cluster list-docker-registries --json"),
)
@json_option
def list_docker_registries(as_json: bool) -> None:
    """List the private registries that a login is stored for."""
    found = _client().registries()["registries"]
    if as_json:
        say(json.dumps(found, ensure_ascii=True, indent=2))
    elif not found:
        say("There are no logins for registries stored.")
    else:
        rows = [[known["registry"], known["username"], local_time(known["created_at"])] for known in found]
        say("\n".join(table(["REGISTRY", "USERNAME", "ADDED"], rows)))


@click.command(
    "delete-docker-registry",
    cls=SpellCommand,
    examples=(
        "spell cluster delete-docker-registry --registry registry.example.org",
        "spell cluster delete-docker-registry --repo text-generation",
    ),
)
@click.option("--registry", type=Known("registry", "registries"), metavar="HOST", help=_REGISTRY)
@_REPOSITORY
@_PROFILE
def delete_docker_registry(registry: str | None, repo: str | None, profile: str | None) -> None:
    """Forget the login of a registry, or take read permission to one of your repositories at Amazon from the cluster.

    Runs can go on using images that their machine has already.
    """
    if registry is None:
        _roles().delete(_client(), repo, profile or _DEFAULT_PROFILE)
        return
    registry = images.registry_name(registry)
    google = images.is_google(registry)
    _refuse_roles(repo, profile, google=google)
    # The contract's own spelling.
    if google and not click.confirm("Comfirm removing access to registry?"):
        say("Access to registry not removed.")
        return
    _client().remove_registry(registry)
    say("Access to registry removed successfully." if google else f"Access to {registry} has been removed")


def _client() -> Client:
    return Client(config.load(os.environ).connect())


def _roles() -> Any:
    return import_module("spell_cli.commands.registry_roles")


def _refuse_roles(repo: str | None, profile: str | None, *, google: bool) -> None:
    if profile is not None and google:
        raise CliError("--profile is not a valid option for GCP clusters")
    if repo is not None or profile is not None:
        raise _wrong("--repo and --profile are for repositories of Amazon's; leave out --registry for those.")


def _wrong(message: str) -> click.UsageError:
    return click.UsageError(message, click.get_current_context())


def _password(registry: str, username: str, *, password_stdin: bool) -> str:
    if username == _KEY_USER:
        if not password_stdin:
            raise _wrong(
                "The password is the JSON key of a service account: use --password-stdin < key.json."
            )
        return passwords.key_from_stdin()
    if password_stdin:
        return passwords.from_stdin(_PASSWORD_CHARS_MAX)
    return passwords.asked(f"Password or access token of {username} for {registry}: ", _PASSWORD_CHARS_MAX)
