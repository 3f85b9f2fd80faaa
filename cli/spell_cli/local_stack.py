"""The stack on this machine: found through `client.json`, started when it is needed, never imported."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from spell_cli.errors import ConfigError, UnreachableError
from spell_cli.progress import Progress
from spell_cli.servers import Address, PushIdentity, alive, parse_url

_START_SECONDS_MAX = 180


class LocalServer:
    """The server of the local stack. `start` says whether it may be started when it does not answer."""

    def __init__(self, spell_dir: Path, *, start: bool, token: str | None = None) -> None:
        self._dir = spell_dir
        self._start = start
        self._token = token
        self._client: dict[str, Any] | None = None

    def address(self) -> Address:
        client = self._read()
        return parse_url(
            client["url"], self._token or client["token"], where=str(client_file(self._dir)), insecure=False
        )

    def push_identity(self) -> PushIdentity:
        client = self._read()
        return PushIdentity(Path(client["identity_file"]), Path(client["known_hosts"]))

    def recover(self) -> bool:
        if not self._start:
            return False
        self._client = None
        start(self._dir)
        return True

    def gone(self) -> bool:
        self._client = None
        client = read_client(self._dir)
        return client is None or not alive(client["pid"])

    def describe(self) -> str:
        return "the local stack"

    def _read(self) -> dict[str, Any]:
        if self._client is None:
            self._client = read_client(self._dir)
        if self._client is None and self._start:
            start(self._dir)
            self._client = read_client(self._dir)
        if self._client is None:
            raise UnreachableError("The local stack is not running.", hint="Start it with 'spell up'.")
        return self._client


def client_file(spell_dir: Path) -> Path:
    """Where the supervisor says how to reach it."""
    return spell_dir / "local" / "client.json"


def read_client(spell_dir: Path) -> dict[str, Any] | None:
    """What the supervisor says, or None where it never ran or is being replaced."""
    try:
        client = json.loads(client_file(spell_dir).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except PermissionError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from None
    if not isinstance(client, dict) or not {"url", "token", "pid"} <= client.keys():
        return None
    return client


def start(spell_dir: Path) -> None:
    """Start the stack, or wait until the one that is starting is ready.

    Raises:
        UnreachableError: it did not come up; its own words are the detail.
    """
    words: list[str] = []
    with Progress("Starting the local stack") as progress, _spawn(spell_dir, "up") as process:
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            words.append(line)
            progress.update(line)
    if process.returncode != 0:
        raise UnreachableError(
            "The local stack could not be started.",
            detail="\n".join(words[-40:]),
            hint="'spell up' tries again; 'spell status' says what is running.",
        )


def _spawn(spell_dir: Path, *verb: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command(spell_dir, *verb), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def command(spell_dir: Path, *verb: str) -> list[str]:
    """The command line that manages the stack."""
    # -P: the directory the user stands in is no place to import from.
    return [sys.executable, "-P", "-m", "spell_standalone", *verb, "--dir", str(spell_dir)]


def manage(spell_dir: Path, *verb: str) -> int:
    """Run a verb of the stack's own command in the foreground, its words on our terminal; its exit code."""
    return subprocess.run(command(spell_dir, *verb), check=False).returncode


def status(spell_dir: Path) -> dict[str, Any] | None:
    """What the supervisor says about its services, or None where it cannot say."""
    process = subprocess.run(
        command(spell_dir, "status", "--json"),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=_START_SECONDS_MAX,
    )
    try:
        answer = json.loads(process.stdout)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
