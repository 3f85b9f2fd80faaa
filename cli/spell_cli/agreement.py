"""What will be in the run and what will not: said before anything is created, and asked where somebody can answer."""

import click

from spell_cli import terminal
from spell_cli.config import Config
from spell_cli.errors import RepositoryError
from spell_cli.repository import Repository, lfs_pointers, submodules

_FILES_SHOWN = 20
_LEFT_OUT = "Repo contains uncommitted changes that will not be included in the run."


def agree(repository: Repository, settings: Config, *, force: bool, ref: str | None) -> bool:
    """Whether the uncommitted changes go with the run.

    Raises:
        RepositoryError: the state of the repository does not allow a run.
        Abort: the user thinks better of it.
    """
    asking = terminal.can_ask() and not force
    _warn_of_what_git_keeps_elsewhere(repository)
    if ref is not None:
        if repository.changed:
            terminal.warn(_LEFT_OUT.replace("the run", f"the run of commit {repository.commit[:8]}"))
        return False
    include = _include(repository, settings, force=force)
    if repository.untracked:
        _without_untracked(repository, asking=asking)
    return include


def _include(repository: Repository, settings: Config, *, force: bool) -> bool:
    if not settings.include_uncommitted and repository.dirty:
        if not force:
            raise RepositoryError(
                f"Uncommitted changes to tracked files detected in repo {repository.toplevel} "
                "-- please commit first",
                detail=_listed(repository.dirty),
            )
        terminal.warn(_LEFT_OUT)
        return False
    if repository.unmerged:
        raise RepositoryError(
            f"There are merge conflicts in repo {repository.toplevel} -- please resolve them first",
            detail=_listed(repository.unmerged),
        )
    return bool(repository.changed)


def agree_without_code(*, force: bool) -> None:
    """There is no repository: nothing goes with the run.

    Raises:
        Abort: the user thinks better of it.
    """
    question = "Could not find a git repository, so no user files will be available. Continue anyway?"
    if force or not terminal.can_ask():
        terminal.warn("No git repository found! Running without a workspace.")
    elif not terminal.ask(question, default=True):
        raise click.Abort


def _warn_of_what_git_keeps_elsewhere(repository: Repository) -> None:
    modules = submodules(repository)
    if modules is not None:
        terminal.warn(
            "Spell does not currently support Git submodules. "
            "Files within submodules will not be available within the run.",
            _listed(modules),
        )
    pointers = lfs_pointers(repository)
    if pointers:
        terminal.warn(
            "Spell does not support git-lfs. Within the run these files are pointers, not what they point to.",
            _listed(pointers),
        )


def _without_untracked(repository: Repository, *, asking: bool) -> None:
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
