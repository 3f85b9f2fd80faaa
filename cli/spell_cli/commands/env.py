"""`spell env` and `spell rerun`: which environments there are, what is in one, and the same run again."""

import importlib
import json
import os
from typing import Any

import click

from spell_cli import config
from spell_cli.answers import Environments, EnvironmentUse, EnvironmentView
from spell_cli.args import Known, OrderedGroup, SpellCommand, json_option, run_id_argument
from spell_cli.client import Client
from spell_cli.tables import pairs, table
from spell_cli.terminal import note, say
from spell_cli.times import human_size, local_time

_KEY_CHARS = 12
_CONDA_LOCK = "\ndependencies:\n"
_SYSTEM = ("# apt: ", "# base: ")


def _client() -> Client:
    return Client(config.load(os.environ).connect())


def _print(value: Any) -> None:
    say(json.dumps(value, ensure_ascii=True, indent=2))


@click.group(
    "env",
    cls=OrderedGroup,
    epilog="\b\nExamples:\n  spell env list\n  spell env explain 7     # what run 7 had, and what changed before it\n"
    "  spell env lock 7 > lock.txt && spell run --pip-req lock.txt python train.py",
)
def env() -> None:
    """Show and remove environments: what runs asked for with --pip and the like, built once and shared."""


@env.command("list", examples=("spell env list", "spell env list --json"))
@json_option
def listed(as_json: bool) -> None:
    """List the environments that are ready, the last used first."""
    found = _client().environments()
    if as_json:
        _print(found)
        return
    rows = [_row(environment) for environment in found["environments"]]
    if rows:
        headers = ["KEY", "PYTHON", "PACKAGES", "SIZE", "RUNS", "LAST USED", "IN USE"]
        say("\n".join(table(headers, rows)))
    note(_room(found))


def _row(environment: EnvironmentView) -> list[str]:
    size = environment["bytes"]
    return [
        environment["key"][:_KEY_CHARS],
        environment["python"],
        str(environment["packages"]),
        "" if size is None else human_size(size),
        str(environment["runs"]),
        local_time(environment["used_at"]) if environment["used_at"] else "",
        "yes" if environment["in_use"] else "",
    ]


def _room(found: Environments) -> str:
    count = len(found["environments"])
    return f"{count} environment{'s' * (count != 1)}; at most {human_size(found['bytes_max'])} are kept."


@env.command("info", examples=("spell env info 3f2a9c", "spell env info 3f2a9c --json"))
@json_option
@click.argument("key", type=Known("key", "environments"), metavar="KEY")
def info(as_json: bool, key: str) -> None:
    """Show an environment: KEY is its key, or enough of it."""
    found = _client().environment(key)
    if as_json:
        _print(found)
        return
    say("\n".join(pairs([*_about(found["environment"]), ("Packages", _packages(found["lock"]))])))


def _about(environment: EnvironmentView) -> list[tuple[str, str]]:
    size, seconds = environment["bytes"], environment["build_seconds"]
    rows = [
        ("Key", environment["key"]),
        ("Python", environment["python"]),
        ("Status", "ready" if environment["ready"] else "removed; the next run that needs it has it built"),
        ("Built", local_time(environment["built_at"]) if environment["built_at"] else ""),
        ("Build Time", f"{seconds:.1f} s" if seconds is not None else ""),
        ("Size", human_size(size) if size is not None else ""),
        ("Runs", f"{environment['runs']}{', one is going on' * environment['in_use']}"),
    ]
    return [(name, value) for name, value in rows if value]


def _packages(lock: str) -> str:
    """The names and versions of a lock, without hashes."""
    heads = [line.split()[2].replace("=", "==", 1) for line in lock.splitlines() if line.startswith(_SYSTEM)]
    system = [f"{head} (apt)" for head in heads]
    if _CONDA_LOCK in lock:
        found = importlib.import_module("spell_proto.conda").parse_text(lock)
        exact = [f"{package.name} {package.version} {package.build}" for package in found.exact]
        return "\n".join([*exact, *(f"{entry.requirement} (pip)" for entry in found.pip.entries), *system])
    pinned = (line.removesuffix("\\").strip() for line in lock.splitlines() if line[:1] not in {"#", " ", ""})
    return "\n".join([*pinned, *system]) or "none"


@env.command("explain", examples=("spell env explain 7", "spell env explain 7 --json"))
@json_option
@run_id_argument
def explain(as_json: bool, run_id: int) -> None:
    """Say what environment a run had, whether it was built for it, and what is other than before."""
    use = _client().environment_of(run_id)
    if as_json:
        _print(use)
        return
    say("\n".join(pairs(_explained(use))))


def _explained(use: EnvironmentUse) -> list[tuple[str, str]]:
    detail = use["detail"]
    rows = [
        ("Run", str(use["run_id"])),
        ("Framework", use.get("framework") or ""),
        ("Environment", "reused: it was there already" if use["reused"] else "built for this run"),
        ("Versions Of", local_time(use["resolved_at"]) if use["resolved_at"] else ""),
        *_about(detail["environment"]),
    ]
    if use["compared_with"] is None:
        rows.append(("Changes", "no earlier run of yours had another environment"))
    else:
        changes = "\n".join(use["changes"]) or "none in the packages: another build of them"
        rows.append((f"Since Run {use['compared_with']}", changes))
    return [(name, value) for name, value in [*rows, ("Packages", _packages(detail["lock"]))] if value]


@env.command(
    "lock",
    examples=("spell env lock 7 > lock.txt", "spell run --pip-req lock.txt python train.py"),
)
@run_id_argument
def lock(run_id: int) -> None:
    """Print the exact versions that a run had, with hashes, as a requirements file; as a conda file where it had one.

    `spell run --pip-req`, or `--conda-file`, gives the same environment for it, whatever has been published since.
    """
    say(_client().environment_of(run_id)["detail"]["lock"].rstrip("\n"))


@env.command("rm", examples=("spell env rm 3f2a9c",))
@json_option
@click.argument("key", type=Known("key", "environments"), metavar="KEY")
def remove(as_json: bool, key: str) -> None:
    """Remove an environment that no run uses. The next run that needs it has it built again, the same."""
    removed = _client().remove_environment(key)
    if as_json:
        _print(removed)
    else:
        note(
            f"Removed {removed['keys'][0][:_KEY_CHARS]}." if removed["keys"] else "It was not there any more."
        )


@env.command("gc", examples=("spell env gc", "spell env gc --all"))
@click.option("--all", "everything", is_flag=True, help="All that no run uses.")
@json_option
def collect(everything: bool, as_json: bool) -> None:
    """Remove the longest unused environments until the rest has room."""
    removed = _client().collect_environments(everything=everything)
    if as_json:
        _print(removed)
    else:
        count = len(removed["keys"])
        note(f"Removed {count} environment{'s' * (count != 1)}, {human_size(removed['bytes'])}.")


@click.command(
    "rerun",
    cls=SpellCommand,
    examples=("spell rerun 7", "spell rerun -b 7"),
)
@click.option("-b", "--background", is_flag=True, help="Do not show its output.")
@click.option("-v", "--verbose", is_flag=True, help="Show every line of the platform.")
@run_id_argument
def rerun(background: bool, verbose: bool, run_id: int) -> int:
    """Run again exactly what a run was: its command, commit, uncommitted changes, variables and environment.

    Nothing of where you stand goes with it.
    """
    casting = importlib.import_module("spell_cli.casting")
    wishes = casting.Wishes(background=background, force=True, verbose=verbose)
    code: int = casting.cast_again(run_id, wishes)
    return code
