"""What the commands share: their behaviour on the command line, parameter types, and options that recur."""
# ruff: noqa: ARG001, ARG002 -- click calls these, so click decides what they are given

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from spell_proto import checks
from spell_proto.errors import InvalidError

_F = TypeVar("_F", bound=Callable[..., Any])


class SpellCommand(click.Command):
    """A command that has examples, and refuses an option that holds one value when it is given twice."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        if examples:
            kwargs["epilog"] = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
        super().__init__(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with usage_errors(ctx):
            if not ctx.resilient_parsing:
                self._refuse_repeated(ctx, list(args))
            return super().parse_args(ctx, args)

    def _refuse_repeated(self, ctx: click.Context, args: list[str]) -> None:
        order = self.make_parser(ctx).parse_args(args)[2]
        for parameter in order:
            if not isinstance(parameter, click.Option) or parameter.multiple or parameter.is_flag:
                continue
            if order.count(parameter) > 1:
                name = max(parameter.opts, key=len)
                raise click.UsageError(
                    f"{name} is given {order.count(parameter)} times; once is allowed", ctx
                )


class OrderedGroup(click.Group):
    """A command with commands of its own, listed in the order in which they stand in the code."""

    command_class = SpellCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@contextlib.contextmanager
def usage_errors(ctx: click.Context | None = None) -> Iterator[None]:
    """A field that is wrong on the command line is a usage error."""
    try:
        yield
    except click.UsageError as error:
        error.ctx = error.ctx or ctx
        raise
    except InvalidError as error:
        message = f"{error.message}\n{error.hint}" if error.hint else error.message
        raise click.UsageError(message, ctx or click.get_current_context()) from None


class RunId(click.ParamType[int]):
    """The id of a run."""

    name = "run_id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else checks.run_id(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return _complete("run_ids", incomplete)


class Label(click.ParamType[str]):
    """A label of a run."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return checks.label(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return _complete("labels", incomplete)


class Number(click.ParamType[int]):
    """A whole number within a range, for the option `--<field>`."""

    name = "number"

    def __init__(self, field: str, least: int, most: int) -> None:
        self._field = field
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        return checks.whole_number(value, self._field, self._least, self._most)


class TextLine(click.ParamType[str]):
    """A name or title of at most so many characters, for the option `--<field>`."""

    name = "text"

    def __init__(self, field: str, most: int, known: str = "") -> None:
        self._field = field
        self._most = most
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return checks.line(value, self._field, self._most, name=f"--{self._field}")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return _complete(self._known, incomplete) if self._known else []


class Known(click.ParamType[str]):
    """A name of something that is known; which names there are is asked for on a TAB."""

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return _complete(self._what, incomplete)


def _complete(what: str, incomplete: str) -> list[Any]:
    found: list[Any] = importlib.import_module("spell_cli.suggestions").suggest(what, incomplete)
    return found


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of files here, found by the shell itself."""
    return [importlib.import_module("click.shell_completion").CompletionItem(incomplete, type="file")]


def run_id_argument(function: _F) -> _F:
    """One run."""
    return click.argument("run_id", type=RunId(), metavar="RUN_ID")(function)


def run_ids_argument(function: _F) -> _F:
    """One run or several."""
    return click.argument("run_ids", type=RunId(), metavar="RUN_ID...", nargs=-1, required=True)(function)


def json_option(function: _F) -> _F:
    """Output for programs."""
    return click.option("as_json", "--json", is_flag=True, help="Print JSON.")(function)
