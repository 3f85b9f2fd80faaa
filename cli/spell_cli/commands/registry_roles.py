"""The dialogues about repositories of Amazon's: what the role of the cluster may read, and what it may read no more."""

import time
from collections.abc import Callable, Collection

import click

from spell_cli.amazon import READ_POLICY, Account, name_of, registry_of
from spell_cli.client import Client
from spell_cli.errors import CliError
from spell_cli.tables import safe
from spell_cli.terminal import say
from spell_proto.errors import InvalidError, NotFoundError

#: What is changed at Amazon is not true everywhere at once.
SETTLED_SECONDS_MAX = 30.0
_PAUSE_SECONDS = 2.0
_ADDING = """This command will
    - Allow Spell to get authorization tokens to access your docker registry
    - If no repository is specified, list your repositories in the registry
    - Add read permissions for that repository to the IAM role associated with the cluster
All of this will be done with your AWS profile '{}' which has Access Key ID '{}' and region '{}' - continue?"""
_DELETING = """This command will
    - If no repository is specified, list the repositories that Spell has access to
    - Remove read permissions for that repository from the IAM role associated with the cluster
All of this will be done with your AWS profile '{}' which has Access Key ID '{}' and region '{}' - continue?"""


def add(client: Client, repository: str | None, profile: str) -> None:
    """Let the role of the cluster read a repository."""
    account = _account(client, profile)
    if not click.confirm(_ADDING.format(safe(account.profile), account.access_key, account.region)):
        return
    account.check_owner()
    repositories = {one.name: one for one in account.repositories()}
    readable = account.readable()
    there = {name for name, one in repositories.items() if one.arn in readable}
    if repository is None:
        if not repositories.keys() - there:
            say("Spell already has access to all repos found in your AWS account")
            return
        say("Spell does not yet have access to the following repos found in your AWS account:")
        _list(repositories.keys() - there)

        def problem(name: str) -> str | None:
            if name not in repositories:
                return f"No repository named {safe(name)} found"
            return f"Spell already has permissions to access {safe(name)}" if name in there else None

        repository = _chosen("Please choose a repository", problem)
    elif repository not in repositories:
        raise CliError(f"No repository named {safe(repository)} found")
    one = repositories[repository]
    if repository in there:
        say(f"Policy {READ_POLICY} of {account.role} already has permissions to access {repository}")
    else:
        account.allow([*readable, one.arn])
    _store(client, one.registry)
    if repository not in there:
        say(f"Successfully added read permission to {repository}")
    if not readable:
        say(f"You can now run using images from repository {repository}")


def delete(client: Client, repository: str | None, profile: str) -> None:
    """Let the role of the cluster read a repository no more."""
    account = _account(client, profile)
    if not click.confirm(_DELETING.format(safe(account.profile), account.access_key, account.region)):
        return
    account.check_owner()
    readable = account.readable()
    here = {name_of(arn): arn for arn in readable if arn.split(":")[3] == account.region}
    if not here:
        say("Spell does not have access to any docker repositories in your registry")
        return

    def problem(name: str) -> str | None:
        return None if name in here else f"Spell has no access to repository named {safe(name)}"

    if repository is None:
        say("Spell has access to the following repos:")
        _list(here)
        repository = _chosen("Please choose a repository", problem)
    elif (wrong := problem(repository)) is not None:
        raise CliError(wrong)
    left = [arn for arn in readable if arn != here[repository]]
    if left:
        account.allow(left)
    else:
        say("Removing ECR policy and token generation policy as no remaining ECR repos are accessible.")
        account.allow_nothing()
    registry = registry_of(here[repository])
    if registry not in map(registry_of, left):
        _forget(client, registry)
    say(f"Access to {repository} has been removed")


def _account(client: Client, profile: str) -> Account:
    role = client.registries()["aws_role"]
    if role is None:
        raise CliError(
            "This cluster has no IAM role: an operator names it in SPELL_AWS_ROLE. Without one, store an access key: "
            "spell cluster add-docker-registry --registry ACCOUNT.dkr.ecr.REGION.amazonaws.com --username ACCESS_KEY_ID"
        )
    return Account(profile, role)


def _list(names: Collection[str]) -> None:
    for name in sorted(names):
        say(f"- {safe(name)}")


def _chosen(question: str, problem: Callable[[str], str | None]) -> str:
    """A name that somebody gives, asked for until there is none wrong with it."""
    while True:
        name = str(click.prompt(question))
        wrong = problem(name)
        if wrong is None:
            return name
        say(wrong)


def _store(client: Client, registry: str) -> None:
    until = time.monotonic() + SETTLED_SECONDS_MAX
    while True:
        try:
            client.put_registry(registry)
        except InvalidError as error:
            if error.code != "registry_login_refused" or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _forget(client: Client, registry: str) -> None:
    try:
        client.remove_registry(registry)
    except NotFoundError:
        return
