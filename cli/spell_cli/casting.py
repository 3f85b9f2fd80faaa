"""What `spell run` does once the command line is read: code, creation, and the view of the run."""

import importlib
import os
from typing import Any, NamedTuple

import click

from spell_cli import config, terminal
from spell_cli.answers import Run
from spell_cli.args import usage_errors
from spell_cli.client import Client, new_idempotency_key
from spell_cli.config import Config
from spell_cli.errors import RepositoryError
from spell_cli.follow import watch
from spell_cli.render import Line
from spell_cli.repository import Inspection, Repository, root_commit
from spell_cli.spec_from_args import Checked, with_code
from spell_proto.errors import ConflictError, InvalidError

_FILES_SHOWN = 20


class Wishes(NamedTuple):
    """How the user wants to be served."""

    background: bool
    force: bool
    verbose: bool


def cast_spell(request: Checked, inspection: Inspection, wishes: Wishes) -> int:
    """Create the run and show it to its end; the exit code of `spell run`."""
    settings = config.load(os.environ)
    for text in (*settings.warnings, *request.warnings):
        terminal.warn(text)
    repository = inspection.result()
    _agree(repository, settings, force=wishes.force)
    body = request.body
    if repository is not None:
        with usage_errors():
            body = with_code(body, repository)
    client = Client(settings.connect())
    run = _create(client, body, repository, settings)
    casting = Line("💫", f"Casting spell #{run['id']}…")
    if wishes.background:
        shown = terminal.of_stdout()
        terminal.say(shown.marked(*casting))
        terminal.say(shown.marked("✨", f"View logs with `spell logs {run['id']}`"))
        return 0
    return watch(
        client,
        run["id"],
        verbose=wishes.verbose,
        live=True,
        first=[casting, Line("✨", "Stop viewing logs with ^C")],
        created=run,
    )


def _agree(repository: Repository | None, settings: Config, *, force: bool) -> None:
    """Say what will not be in the run, and ask where somebody can answer."""
    asking = terminal.can_ask() and not force
    if repository is None:
        question = "Could not find a git repository, so no user files will be available. Continue anyway?"
        if not asking:
            terminal.warn("No git repository found! Running without a workspace.")
        elif not terminal.ask(question, default=True):
            raise click.Abort
        return
    if repository.has_submodules:
        terminal.warn(
            "Spell does not currently support Git submodules. "
            "Files within submodules will not be available within the run."
        )
    if repository.changed:
        if not settings.include_uncommitted and not force:
            raise RepositoryError(
                f"Uncommitted changes to tracked files detected in repo {repository.toplevel} "
                "-- please commit first",
                detail=_listed(repository.changed),
            )
        terminal.warn("Repo contains uncommitted changes that will not be included in the run.")
    if not repository.untracked:
        return
    if not asking:
        terminal.warn(
            "Repo contains untracked files that will not be included in the run.",
            _listed(repository.untracked),
        )
        return
    terminal.say(
        f"There are some untracked files in repo {repository.toplevel}. They won't be available on this run.\n"
        + _listed(repository.untracked)
    )
    if not terminal.ask("Continue the run anyway?", default=True):
        raise click.Abort


def _listed(paths: tuple[str, ...]) -> str:
    lines = ["\t" + terminal.safe_path(path) for path in paths[:_FILES_SHOWN]]
    if len(paths) > _FILES_SHOWN:
        lines.append(f"\t… and {len(paths) - _FILES_SHOWN} more")
    return "\n".join(lines)


def _create(client: Client, body: dict[str, Any], repository: Repository | None, settings: Config) -> Run:
    """Create the run; bring the commit first where the server does not have it."""
    key = new_idempotency_key()
    try:
        try:
            return client.create_run(body, key)
        except ConflictError as error:
            if error.code != "commit_unknown" or repository is None:
                raise
        known = client.put_repository(root_commit(repository.toplevel), repository.name)
        push = importlib.import_module("spell_cli.push").push  # most commits are known
        push(repository, known["remote_url"], client.server.push_identity(), settings.spell_dir)
        return client.create_run(body, key)
    except InvalidError as error:
        if error.code == "machine_type_unknown" and error.hint is None:
            error.hint = importlib.import_module("spell_cli.suggestions").near_machine_type(
                client, str(body.get("machine_type"))
            )
        raise
    except KeyboardInterrupt:
        terminal.note("\nThe run may have been created all the same: 'spell ps' lists it.")
        raise
