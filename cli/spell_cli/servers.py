"""Where the server is and how to speak to it: an address that is known, or the local stack that starts itself."""

import os
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from spell_cli.errors import ConfigError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Address(NamedTuple):
    """Everything a connection needs."""

    host: str
    port: int
    tls: bool
    prefix: str
    token: str


class PushIdentity(NamedTuple):
    """What git needs to push: the private key to show, and the host keys to trust."""

    identity_file: Path
    known_hosts: Path


class Server(Protocol):
    """A server that may be asked for its address, and to come back when it does not answer."""

    def address(self) -> Address: ...

    def push_identity(self) -> PushIdentity: ...

    def recover(self) -> bool:
        """Try to bring it up again. True when it is worth asking at once."""

    def gone(self) -> bool:
        """Whether it is known that nobody will answer before somebody acts."""

    def describe(self) -> str: ...


class RemoteServer:
    """A server somebody configured."""

    def __init__(self, address: Address, identity: PushIdentity) -> None:
        self._address = address
        self._identity = identity

    def address(self) -> Address:
        return self._address

    def push_identity(self) -> PushIdentity:
        return self._identity

    def recover(self) -> bool:
        return False

    def gone(self) -> bool:
        return False

    def describe(self) -> str:
        return f"the server {self._address.host}:{self._address.port}"


def parse_url(url: str, token: str, *, where: str, insecure: bool) -> Address:
    """The address in a URL such as `https://spell.example.org`.

    Raises:
        ConfigError: it is no URL, or it would carry the token over the network in the clear.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{where}: {url!r} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{where}: {url!r} is not a URL like https://spell.example.org")
    if not _is_host(parts.hostname):
        raise ConfigError(f"{where}: {parts.hostname!r} is no name of a host and no address")
    if parts.username or parts.password:
        raise ConfigError(f"{where}: a URL with a user or password in it is not allowed; set a token instead")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not insecure:
        raise ConfigError(
            f"{where}: {url!r} would send your token unencrypted. Use https://, or set 'insecure: true' in the "
            "config file (or SPELL_INSECURE=1) if the network between is yours."
        )
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"), token)


def _is_host(name: str) -> bool:
    """Whether a name can be looked up at all: labels of 1 to 63 bytes without white space or controls."""
    try:
        labels = (name if name.isascii() else name.encode("idna").decode()).removesuffix(".").split(".")
    except UnicodeError:
        return False
    return all(0 < len(label) < 64 for label in labels) and name.isprintable() and " " not in name


def alive(pid: int) -> bool:
    """Whether a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
