"""A stand-in for the `ssh` binary where there is none: exactly what git needs to push, over asyncssh.

git calls it as `python -m spell_cli.ssh [options] [-p PORT] USER@HOST COMMAND`. It trusts only the host keys in
UserKnownHostsFile, shows only the identity it is given, and asks nothing.
"""

import asyncio
import re
import sys
from pathlib import Path
from typing import NamedTuple

import asyncssh

_CONNECT_SECONDS = 30.0
_WITH_VALUE = frozenset("bcDEeFIiJLlmOopQRSWw")


class Invocation(NamedTuple):
    """What git asked for."""

    host: str
    user: str | None
    port: int
    identity_file: str | None
    known_hosts: str | None
    config: str | None
    alive_seconds: float
    command: str


def parse(arguments: list[str]) -> Invocation:
    """The parts of an ssh command line that matter for a push."""
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        letter = word[1:2]
        if letter not in _WITH_VALUE:
            continue
        value = word[2:] or rest.pop(0)
        if letter == "o":
            name, _, text = (
                value.replace(" ", "=", 1).partition("=") if "=" not in value else value.partition("=")
            )
            values[name.lower()] = text
        else:
            values[letter] = value
    if not rest:
        raise SystemExit("usage: python -m spell_cli.ssh [options] [user@]host command")
    user, _, host = rest[0].rpartition("@")
    return Invocation(
        host=host,
        user=user or values.get("l"),
        port=int(values.get("p", "22")),
        identity_file=_path(values.get("identityfile") or values.get("i")),
        known_hosts=_path(values.get("userknownhostsfile")),
        config=values.get("F"),
        alive_seconds=float(values.get("serveraliveinterval", "0")),
        command=" ".join(rest[1:]),
    )


def _path(text: str | None) -> str | None:
    """A file name without what keeps ssh from reading something into it."""
    if text is None:
        return None
    if text.startswith('"'):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    return text.replace("%%", "%")


async def run(call: Invocation) -> int:
    """Run the command over there with our stdin, stdout and stderr."""
    async with asyncio.timeout(_CONNECT_SECONDS):
        connection = await asyncssh.connect(
            call.host,
            call.port,
            username=call.user or (),
            client_keys=[call.identity_file] if call.identity_file else (),
            known_hosts=call.known_hosts or (),
            config=[call.config] if call.config and Path(call.config).exists() else [],
            agent_path=None,
            keepalive_interval=call.alive_seconds,
        )
    async with connection:
        process = await connection.create_process(
            call.command,
            stdin=sys.stdin.buffer,
            stdout=sys.stdout.buffer,
            stderr=sys.stderr.buffer,
            encoding=None,
        )
        result = await process.wait()
    return result.exit_status if result.exit_status is not None else 255


def main() -> int:
    """The exit code of the command over there, or 255 as ssh has it."""
    try:
        return asyncio.run(run(parse(sys.argv[1:])))
    except (OSError, asyncssh.Error, TimeoutError) as error:
        sys.stderr.write(f"ssh: {str(error) or type(error).__name__}\n")
        return 255


if __name__ == "__main__":
    sys.exit(main())
