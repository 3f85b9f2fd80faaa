"""`spell completion`: the script that makes a shell complete commands, options, run ids, labels and machine types."""

import click
from click.shell_completion import get_completion_class

from spell_cli.args import SpellCommand


@click.command(
    "completion",
    cls=SpellCommand,
    examples=(
        'eval "$(spell completion bash)"                                # in ~/.bashrc',
        'eval "$(spell completion zsh)"                                 # in ~/.zshrc',
        "spell completion fish > ~/.config/fish/completions/spell.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of your shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "spell", "_SPELL_COMPLETE").source())
