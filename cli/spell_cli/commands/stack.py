"""`spell up`, `down` and `status`: the local stack, and how the caller stands with the server."""

import json
import os
from typing import Any

import click

from spell_cli import config, local_stack
from spell_cli.answers import Health, Status
from spell_cli.args import SpellCommand, json_option
from spell_cli.client import Client
from spell_cli.errors import ConfigError, ExitCode, UnreachableError
from spell_cli.progress import Progress
from spell_cli.tables import table
from spell_cli.terminal import ask, can_ask, complain, note, of_stdout, say, warn
from spell_cli.times import human_size

_PATIENCE_SECONDS = 2.0


@click.command("up", cls=SpellCommand, examples=("spell up",))
def up() -> int:
    """Start the local stack, unless it runs, and wait until it is ready.

    'spell run' does this by itself; nothing has to be installed or set up.
    """
    settings = config.load(os.environ)
    if settings.server is not None:
        warn(
            f"{settings.server_from} names the server {settings.server}: that one is used, not the local stack."
        )
    code = local_stack.manage(settings.spell_dir, "up")
    client = local_stack.read_client(settings.spell_dir)
    if code == 0 and client is not None:
        say(f"The local stack is running at {client['url']}.")
    return code


@click.command("down", cls=SpellCommand, examples=("spell down", "spell down --purge"))
@click.option("--purge", is_flag=True, help="End all runs and remove all data: runs, logs, files.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def down(purge: bool, yes: bool) -> int:
    """Stop the local stack.

    Runs go on by themselves and are picked up by the next 'spell up'.
    """
    spell_dir = config.spell_directory(os.environ)
    if not purge:
        return local_stack.manage(spell_dir, "down")
    data = spell_dir / "local"
    if not yes:
        if not can_ask():
            complain(
                f"This removes all runs, logs and files in {data}. Nobody is here to be asked: use --yes."
            )
            return ExitCode.REFUSED
        question = f"This ends all runs and removes all runs, logs and files in {data}. Continue?"
        if not ask(question, default=False):
            raise click.Abort
    return local_stack.manage(spell_dir, "down", "--purge")


@click.command("status", cls=SpellCommand, examples=("spell status", "spell status --json"))
@json_option
def status(as_json: bool) -> int:
    """Show the services, then your limits and counts. Exits with 69 when no server answers."""
    settings = config.load(os.environ)
    with Progress("Asking"):
        stack = local_stack.status(settings.spell_dir) if settings.server is None else None
        answer, problem = _ask(settings)
    if as_json:
        document: dict[str, Any] = {"server": settings.server, "stack": stack, "status": answer}
        say(json.dumps(document, ensure_ascii=True, indent=2))
    else:
        _show(stack, answer)
    if answer is None:
        complain(problem)
        if settings.server is None:
            note("'spell up' starts the local stack; 'spell run' does it by itself.")
        return ExitCode.UNREACHABLE
    return ExitCode.OK


def _ask(settings: config.Config) -> tuple[Status | None, str]:
    client = Client(settings.connect(start=False), patience=_PATIENCE_SECONDS)
    try:
        return client.status(), ""
    except UnreachableError as error:
        return None, error.message
    except ConfigError:
        if settings.server is not None:
            raise
        return None, "The local stack does not know our token."
    finally:
        client.close()


def _show(stack: dict[str, Any] | None, answer: Status | None) -> None:
    health = {service["service"]: service for service in answer["services"]} if answer is not None else {}
    if stack is not None and stack["services"]:
        say(f"Local stack: {stack['state']}" + (f" at {stack['url']}" if stack.get("url") else ""))
        rows = [_stack_row(service, health.get(service["name"])) for service in stack["services"]]
        say(
            "\n".join(
                table(["SERVICE", "STATE", "PID", "RESTARTS", "UPTIME", "MEMORY", "DETAIL"], rows, _paint)
            )
            + "\n"
        )
    elif health:
        rows = [
            [service["service"], "ok" if service["ok"] else "unwell", service["version"], service["detail"]]
            for service in health.values()
        ]
        say("\n".join(table(["SERVICE", "STATE", "VERSION", "DETAIL"], rows, _paint)) + "\n")
    if answer is not None:
        # What the limit leaves free is held up by machines alone; what is beyond it would wait in any case.
        for_machine = min(answer["queued"], max(0, answer["runs_max"] - answer["active"]))
        say(
            "Run history:\n"
            f"- total: {answer['total']} runs\n"
            f"- running: {answer['active']} runs\n"
            f"- currently queued due to concurrency: {answer['queued'] - for_machine} runs\n"
            f"- currently waiting for a machine: {for_machine} runs\n"
            f"- plan concurrency limit: {answer['runs_max']} runs"
        )
        saved = answer.get("saved")
        if saved is not None:
            say(
                "Saved files:\n"
                f"- files: {saved['files']}{_of(str(saved['files_max'] or ''))}\n"
                f"- size: {human_size(saved['bytes'])}B{_of(human_size(saved['bytes_max']) + 'B' if saved['bytes_max'] else '')}"
            )


def _of(limit: str) -> str:
    return f" of {limit}" if limit else ""


def _stack_row(service: dict[str, Any], health: Health | None) -> list[str]:
    unwell = health is not None and not health["ok"]
    return [
        service["name"],
        "unwell" if unwell and service["state"] == "running" else service["state"],
        str(service["pid"] or "-"),
        str(service["restarts"]),
        _uptime(service["uptime_seconds"]),
        f"{human_size(service['pss_bytes'])}B" if service["pss_bytes"] else "-",
        (health["detail"] if health is not None else "") or service.get("problem") or "",
    ]


def _uptime(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600}h"


def _paint(header: str, cell: str) -> str:
    if header != "STATE" or cell == header:
        return cell
    return of_stdout().coloured(cell, "green" if cell in {"running", "ok"} else "red")
