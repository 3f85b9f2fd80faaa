"""`spell run`: reads the command line, sets git to work, and hands over to `spell_cli.casting`."""

import importlib
from pathlib import Path
from typing import Any

import click

from spell_cli.args import Known, Label, SpellCommand, complete_file, usage_errors
from spell_cli.errors import CliError
from spell_cli.repository import Inspection
from spell_cli.spec_from_args import (
    Checked,
    CondaText,
    OptionNames,
    Requirements,
    RunArguments,
    check,
    misplaced,
    typed,
)


class RunCommand(SpellCommand):
    """Options end at the first word; everything from there on is the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        words = ctx.params.get("words") or ()
        before = given[: len(given) - len(words)]
        if words and before[-1:] != ["--"] and not ctx.resilient_parsing:
            self._refuse_misplaced(ctx, before, words)
        return rest

    def _refuse_misplaced(self, ctx: click.Context, before: list[str], words: tuple[str, ...]) -> None:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        names = OptionNames(
            with_value={
                name: option.metavar or "VALUE"
                for option in options
                if not option.is_flag
                for name in option.opts
            },
            flags=frozenset(name for option in options if option.is_flag for name in option.opts),
        )
        found = misplaced(words, names)
        if found is None:
            return
        moved, rest = found
        corrected = " ".join(["spell run", *(typed(word) for word in [*before, *moved, *rest])])
        raise click.UsageError(
            f"{moved[0]} stands behind the command and would be given to it. Options come first:\n\n"
            f"  {corrected}\n\n"
            "If it is meant for the command, write -- before the command.",
            ctx,
        )


@click.command(
    "run",
    cls=RunCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
    examples=(
        'spell run "python train.py"',
        "spell run --pip scikit-learn --env EPOCHS=5 python train.py",
        "spell run --python 3.12 --pip-req requirements.txt python train.py",
        "spell run --conda-file environment.yml python train.py",
        "spell run --apt ffmpeg --pip moviepy python cut.py",
        "spell run --framework pytorch --pip timm python train.py",
        "spell run -t CPU --timeout 2h --label baseline ./train.sh --lr 0.1",
        'spell run "cat data.csv | wc -l"     # one word: a line for the shell',
        "spell run -b -- python -m train      # do not wait for its end",
        "spell run --mount runs/7/data:/mnt/data python train.py --data /mnt/data",
        "spell run --commit-ref v1.2 python train.py",
        "spell run --docker-image python:3.12-slim python train.py",
        "spell run --github-url https://github.com/owner/repository make test",
    ),
)
@click.option(
    "-t",
    "--machine-type",
    type=Known("type", "machine_types"),
    metavar="TYPE",
    help="Type of machine to run on.",
)
@click.option(
    "--framework",
    type=Known("name", "frameworks"),
    metavar="NAME[==VERSION]",
    help="Framework to run with; `spell frameworks` lists them.",
)
@click.option(
    "--apt",
    multiple=True,
    metavar="PACKAGE",
    help="Debian package to install, as ffmpeg or 'ffmpeg>=7:5'. Repeatable.",
)
@click.option("--pip", multiple=True, metavar="PACKAGE", help="Python package to install. Repeatable.")
@click.option(
    "--pip-req",
    metavar="FILE",
    shell_complete=complete_file,
    help="Python packages to install, from a requirements file.",
)
@click.option(
    "--conda-file",
    metavar="FILE",
    shell_complete=complete_file,
    help="Packages and Python of a conda environment file.",
)
@click.option(
    "--python",
    type=Known("version", "pythons"),
    metavar="VERSION",
    help="Version of Python.  [default: that of the machine]",
)
@click.option("--latest", is_flag=True, help="Newest versions of packages, whatever an equal run got lately.")
@click.option(
    "--docker-image",
    "--docker_image",
    "--from",
    "docker_image",
    metavar="IMAGE",
    help="Run in this Docker image, with what it has installed.",
)
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Environment variable. Repeatable.")
@click.option(
    "-m",
    "--mount",
    "mounts",
    multiple=True,
    metavar="RESOURCE[:PATH]",
    help="Mount what is at runs/N, uploads/NAME, public/…, s3://…, gs://… or a link of yours, or in it. PATH: in the "
    "directory of the command, where its own name is the default, or below /spell, /mnt or /data. Repeatable.",
)
@click.option("-d", "--description", metavar="TEXT", help="Default: the message of the current commit.")
@click.option("--label", "labels", multiple=True, type=Label(), metavar="NAME", help="Repeatable.")
@click.option("--timeout", metavar="TIME", help="Stop after this time: minutes, or as in 90s, 2h, 3d.")
@click.option(
    "-c",
    "--commit-ref",
    type=Known("ref", "refs"),
    metavar="REF",
    help="Run this commit, branch or tag instead, without uncommitted changes.",
)
@click.option("--github-url", metavar="URL", help="Run the code of a repository that the server fetches.")
@click.option(
    "--github-ref",
    metavar="REF",
    help="Its branch, tag or commit.  [default: master, or its default branch]",
)
@click.option(
    "--save-every",
    metavar="TIME",
    help="Save what it has made this often: minutes, or as in 30s, 2h.",
)
@click.option(
    "--no-save",
    multiple=True,
    metavar="PATTERN",
    help="Files not to save, as a line of .gitignore names them. Repeatable.",
)
@click.option("-b", "--background", is_flag=True, help="Do not show its output.")
@click.option("-f", "--force", is_flag=True, help="Skip interactive prompts.")
@click.option("-v", "--verbose", is_flag=True, help="Show every line of the platform.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be built and where it would run; create nothing."
)
@click.argument(
    "words",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    metavar="COMMAND [ARGS]...",
    shell_complete=complete_file,
)
def run(
    pip_req: str | None,
    conda_file: str | None,
    commit_ref: str | None,
    github_url: str | None,
    background: bool,
    force: bool,
    verbose: bool,
    dry_run: bool,
    **given: Any,
) -> int:
    """Run COMMAND, with the code of the git repository you stand in, uncommitted changes to tracked files included.

    Options come before the command; everything after its first word belongs to it. A command that is one quoted
    string is a line for the shell.

    Exits with the exit code of the command; 70 if the run failed, 75 if it was interrupted, 137 if it was killed.
    """
    with usage_errors():
        arguments = RunArguments(
            pip_req=_requirements(pip_req),
            conda_file=_conda(conda_file),
            commit_ref=commit_ref,
            github_url=github_url,
            **given,
        )
        request = check(arguments)
    # git reads the work tree while Python reads the modules that talk to the server.
    inspection = Inspection(_here(), commit_ref) if github_url is None else None
    return _carry_out(
        request, inspection, dry_run, {"background": background, "force": force, "verbose": verbose}
    )


def _carry_out(
    request: Checked, inspection: Inspection | None, dry_run: bool, wishes: dict[str, bool]
) -> int:
    if dry_run:
        foretold: int = importlib.import_module("spell_cli.foretelling").foretell(request, inspection)
        return foretold
    casting = importlib.import_module("spell_cli.casting")
    code: int = casting.cast_spell(request, inspection, casting.Wishes(**wishes))
    return code


def _requirements(path: str | None) -> Requirements | None:
    if path is None:
        return None
    found: Requirements = importlib.import_module("spell_cli.requirements").read(path, Path(_here()))
    return found


def _conda(path: str | None) -> CondaText | None:
    if path is None:
        return None
    found: CondaText = importlib.import_module("spell_cli.conda_file").read(path, Path(_here()))
    return found


def _here() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        raise CliError("The directory you stand in does not exist any more.") from None
