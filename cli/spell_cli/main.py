"""The entry point of `spell`: finds the command, runs it, and turns what went wrong into words and an exit code.

A command's module is imported when the command is typed; `spell --help` imports none.
"""
# ruff: noqa: ARG002 -- click calls these methods, so click decides what they are given

# ruff: noqa: E402 -- see gc.disable

import gc

# Nothing that start-up makes is garbage. Looking for some costs a twentieth of it.
gc.disable()

import importlib
import os
import sys
from typing import Any

import click

from spell_cli.errors import ExitCode

#: command -> (module below spell_cli.commands, its line in `spell --help`)
COMMANDS = {
    "run": ("run", "Run a command: with its code, its environment, and keep what it makes."),
    "ps": ("show", "List runs."),
    "info": ("show", "Show everything about a run."),
    "logs": ("logs", "Show what a run says."),
    "wait": ("control", "Wait for runs to end."),
    "stop": ("control", "Stop runs and save what they made."),
    "kill": ("control", "Kill runs; nothing is saved."),
    "archive": ("control", "Put runs away that nobody needs; their files go."),
    "save": ("save", "Save what a running run has made so far."),
    "label": ("control", "Give a run a label, or take one away."),
    "ls": ("files", "List files: of runs, uploads, and what is published."),
    "cp": ("files", "Fetch files."),
    "du": ("looking", "Show how much resources hold."),
    "diff": ("looking", "Show how two resources differ: files, sizes, lines."),
    "upload": ("uploads", "Bring data of your own, to be mounted into runs."),
    "rm": ("uploads", "Take uploads away."),
    "link": ("links", "Give a resource a name of your own."),
    "unlink": ("links", "Take such a name away."),
    "patch": ("code", "Print the uncommitted changes that went with a run."),
    "repos": ("code", "List the repositories whose code the server has."),
    "events": ("events", "Show what happens to all runs."),
    "verify": ("verify", "Check that nothing was lost and every rule was kept."),
    "storage": ("storage", "Look after the stored files."),
    "status": ("stack", "Show the services, limits and counts."),
    "machine-types": ("machines", "Show the types of machines and what they have."),
    "up": ("stack", "Start the local stack."),
    "down": ("stack", "Stop the local stack."),
    "keys": ("keys", "Manage the SSH keys that may push your code."),
    "rerun": ("env", "Run again exactly what a run was."),
    "frameworks": ("frameworks", "List what --framework of a run may be."),
    "env": ("env", "Show and remove the environments that runs share."),
    "cluster": ("cluster", "Set up what all users share."),
    "completion": ("completion", "Print the completion script of your shell."),
}
_COMPLETE_VARIABLE = "_SPELL_COMPLETE"


class LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"spell_cli.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        completion = importlib.import_module("click.shell_completion")
        return [
            completion.CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = importlib.import_module("difflib").get_close_matches(args[0], COMMANDS, n=1)
            if near and "Did you mean" not in error.message:
                raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None
            raise


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n"
    '  spell run "python train.py"        run it, see what it says, keep what it makes\n'
    "  spell ls runs/1                    list the files that run 1 has made\n"
    "  spell cp runs/1 out                fetch them into ./out\n"
    "\n\nEvery command explains itself: spell run --help",
)
@click.version_option(package_name="spellrun", prog_name="spell")
@click.pass_context
def spell(ctx: click.Context) -> None:
    """Put `spell run` in front of a command: it runs with its code, its environment and its data, and what it
    makes is kept.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> int:
    """Run the command line and leave with its exit code."""
    _open_what_is_closed()
    code = _guarded(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or ExitCode.BROKEN_PIPE
    # Taking the interpreter apart takes 8 ms and nobody waits for anything in it.
    os._exit(code)


def _open_what_is_closed() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed: a file opened later must not take its place."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is this one: those below it are open by now.
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(opened, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _guarded(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except click.exceptions.Exit as end:
        return int(end.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        return ExitCode.BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort) as end:
        click.echo("\nAborted!" if isinstance(end, KeyboardInterrupt) else "Aborted!", err=True)
        return ExitCode.DETACHED if isinstance(end, KeyboardInterrupt) else ExitCode.REFUSED
    except Exception as error:  # noqa: BLE001  # the last border: every error becomes words here
        return int(importlib.import_module("spell_cli.complaints").complain_of(error))


def _dispatch(arguments: list[str]) -> int:
    if _COMPLETE_VARIABLE in os.environ:
        spell.main(arguments, prog_name="spell", complete_var=_COMPLETE_VARIABLE)
    with spell.make_context("spell", arguments) as context:
        gc.freeze()
        gc.enable()
        result = spell.invoke(context)
    return result if isinstance(result, int) else ExitCode.OK
