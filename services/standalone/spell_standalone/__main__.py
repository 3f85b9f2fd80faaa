"""`python -m spell_standalone up|down|status|serve`: the stack on this machine."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from spell_standalone import commands, supervisor
from spell_standalone.errors import StandaloneError
from spell_standalone.layout import Layout


def main(words: list[str]) -> int:
    """Do what the words say. The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m spell_standalone", description="The spell services on this machine."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (
        ("up", "start the stack in the background and wait until it is ready"),
        ("down", "stop it; runs go on"),
        ("status", "show its services"),
        ("serve", "be the supervisor, in the foreground"),
    ):
        command = verbs.add_parser(verb, help=what, description=what)
        command.add_argument("--dir", required=True, type=Path, help="the user's directory, as in ~/.spell")
        if verb == "down":
            command.add_argument("--purge", action="store_true", help="end all runs and remove all data")
        if verb == "status":
            command.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(words)
    # By its real name: a link to it is the same stack, whose sockets must be found.
    layout = Layout(given.dir.expanduser().resolve())
    try:
        layout.check()
        match given.verb:
            case "serve":
                return supervisor.serve(layout, os.environ)
            case "up":
                return asyncio.run(commands.up(layout, os.environ))
            case "down":
                return asyncio.run(commands.down(layout, everything=given.purge))
            case _:
                return asyncio.run(commands.status(layout, as_json=given.json))
    except StandaloneError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return os.EX_UNAVAILABLE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
