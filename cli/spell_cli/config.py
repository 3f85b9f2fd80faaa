"""Settings of the command line: `~/.spell/config`, overridden by SPELL_DIR, SPELL_API_URL and SPELL_TOKEN.

YAML is only imported when there is a file to read; without one, and without a variable, the local stack is used.
"""

import importlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spell_cli.errors import ConfigError
from spell_cli.local_stack import LocalServer
from spell_cli.servers import PushIdentity, RemoteServer, Server, parse_url

_KNOWN = frozenset(
    {"server", "token", "owner", "include_uncommitted", "insecure", "identity_file", "known_hosts"}
    # The original's file may lie there; what it says about people and accounts is not needed.
    | {"type", "user_name", "email", "spell_admin_token"}
)
_TOKEN = re.compile(r"[!-~]{1,4096}", re.ASCII)
_TRUE = {"1", "true", "yes", "on"}


class Config(NamedTuple):
    """What is configured. Without `server` the local stack is meant."""

    spell_dir: Path
    server: str | None
    server_from: str
    token: str | None
    include_uncommitted: bool
    insecure: bool
    identity_file: Path
    known_hosts: Path
    warnings: tuple[str, ...]

    def connect(self, *, start: bool = True) -> Server:
        """The server to talk to. `start`: whether the local stack may be started for it."""
        if self.server is None:
            return LocalServer(self.spell_dir, start=start, token=self.token)
        if self.token is None:
            raise ConfigError(
                f"No token for the server in {self.server_from}: set 'token' in {self.spell_dir / 'config'}, "
                "or SPELL_TOKEN."
            )
        address = parse_url(self.server, self.token, where=self.server_from, insecure=self.insecure)
        return RemoteServer(address, PushIdentity(self.identity_file, self.known_hosts))


def spell_directory(environ: Mapping[str, str]) -> Path:
    """Where everything of ours on this machine lies."""
    given = environ.get("SPELL_DIR")
    return Path(given).expanduser().absolute() if given else Path.home() / ".spell"


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration.

    Raises:
        ConfigError: a file or variable that makes no sense, or a token that others can read.
    """
    spell_dir = spell_directory(environ)
    path = spell_dir / "config"
    values = _read(path)
    server, server_from = _text(values, "server", path), str(path)
    if environ.get("SPELL_API_URL"):
        server, server_from = environ["SPELL_API_URL"], "SPELL_API_URL"
    identity, hosts = _text(values, "identity_file", path), _text(values, "known_hosts", path)
    return Config(
        spell_dir=spell_dir,
        server=server,
        server_from=server_from,
        token=_token(environ.get("SPELL_TOKEN"), "SPELL_TOKEN")
        or (_token(_text(values, "token", path), f"{path}: 'token'") if server else None),
        include_uncommitted=_flag(values, "include_uncommitted", path, default=True),
        insecure=_flag(values, "insecure", path, default=environ.get("SPELL_INSECURE", "").lower() in _TRUE),
        identity_file=Path(identity).expanduser() if identity else spell_dir / "spell.pem",
        known_hosts=Path(hosts).expanduser() if hosts else spell_dir / "known_hosts",
        warnings=tuple(f"{path}: '{key}' is not a setting" for key in values if key not in _KNOWN),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"error reading config file {path}: {error.strerror}") from None
    yaml = importlib.import_module("yaml")
    try:
        values = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"error reading config file {_place(path, error)}: {_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"error reading config file {path}:1: lines like 'server: https://…' are expected")
    if "token" in values and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path} holds your token and others can read it. Run: chmod 600 {path}")
    return values


def _place(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}" if mark is not None else f"{path}"


def _problem(error: Exception) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def _text(values: Mapping[str, Any], key: str, path: Path) -> str | None:
    value = values.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise ConfigError(f"{path}: '{key}' should be text, not {value!r}")


def _token(value: str | None, where: str) -> str | None:
    """A token as a header may carry it. It is not echoed: it may be nearly right."""
    if value and not _TOKEN.fullmatch(value):
        raise ConfigError(
            f"{where} is no token: 1 to 4096 printable ASCII characters without a space are allowed"
        )
    return value


def _flag(values: Mapping[str, Any], key: str, path: Path, *, default: bool) -> bool:
    value = values.get(key, default)
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{path}: '{key}' should be true or false, not {value!r}")
