"""What `spell run` does once the command line is read: code, creation, and the view of the run."""

import contextlib
import importlib
import os
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from spell_cli import config, terminal
from spell_cli.agreement import agree, agree_without_code
from spell_cli.answers import Run
from spell_cli.args import usage_errors
from spell_cli.client import Client, new_idempotency_key
from spell_cli.config import Config
from spell_cli.follow import watch
from spell_cli.render import Line
from spell_cli.repository import Inspection, Repository, Snapshot, root_commit
from spell_cli.spec_from_args import Checked, check_targets, with_code
from spell_proto.errors import ConflictError, InvalidError


class Code(NamedTuple):
    """What is pushed where the server does not have it."""

    repository: Repository
    snapshot: Snapshot | None


class Wishes(NamedTuple):
    """How the user wants to be served."""

    background: bool
    force: bool
    verbose: bool


def cast_spell(request: Checked, inspection: Inspection | None, wishes: Wishes) -> int:
    """Create the run and show it to its end; the exit code of `spell run`. Without `inspection` nothing local goes
    with it.
    """
    settings = config.load(os.environ)
    for text in (*settings.warnings, *request.warnings):
        terminal.warn(text)
    with contextlib.ExitStack() as until_created:
        body, code = request.body, None
        if inspection is not None and (repository := inspection.result()) is not None:
            changes = agree(repository, settings, force=wishes.force, ref=inspection.ref)
            code = Code(repository, until_created.enter_context(_snapshot(repository, settings, changes)))
            with usage_errors():
                body = with_code(body, repository, code.snapshot)
        elif inspection is not None:
            agree_without_code(force=wishes.force)
        with usage_errors():
            check_targets(body)
        body = _with_needs(body, code)
        client = Client(settings.connect())
        run = _create(client, body, code, settings)
    return _shown(client, run, wishes)


def cast_again(run_id: int, wishes: Wishes) -> int:
    """Create a run that is exactly what another one was, and show it to its end."""
    settings = config.load(os.environ)
    for text in settings.warnings:
        terminal.warn(text)
    client = Client(settings.connect())
    return _shown(client, client.rerun(run_id, new_idempotency_key()), wishes)


def _shown(client: Client, run: Run, wishes: Wishes) -> int:
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


def _with_needs(body: dict[str, Any], code: Code | None) -> dict[str, Any]:
    """The request with what the projects need that its requirements name."""
    if not (body.get("environment") or {}).get("requirements"):
        return body
    projects = importlib.import_module("spell_cli.projects")  # most runs name no file
    with usage_errors():
        found: dict[str, Any] = projects.with_needs(body, *(code or (None, None)))
    return found


def _snapshot(
    repository: Repository, settings: Config, changes: bool
) -> AbstractContextManager[Snapshot | None]:
    if not changes:
        return contextlib.nullcontext()
    terminal.say(terminal.of_stdout().marked("✨", "Preparing uncommitted changes…"))
    module = importlib.import_module("spell_cli.snapshot")  # most work trees are clean
    taken: AbstractContextManager[Snapshot | None] = module.taken(repository, settings.spell_dir)
    return taken


def _create(client: Client, body: dict[str, Any], code: Code | None, settings: Config) -> Run:
    """Create the run; bring the commit first where the server does not have it."""
    key = new_idempotency_key()
    try:
        try:
            return client.create_run(body, key)
        except ConflictError as error:
            if error.code != "commit_unknown" or code is None:
                raise
        known = client.put_repository(root_commit(code.repository), code.repository.name)
        push = importlib.import_module("spell_cli.push").push  # most commits are known
        push(*code, known["remote_url"], client.server.push_identity(), settings.spell_dir)
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
