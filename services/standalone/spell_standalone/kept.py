"""What a stack decides once and keeps in `settings.json`: ports, passwords, the first user and its token."""

import dataclasses
import getpass
import json
import re
import secrets
import socket
from pathlib import Path

from spell_standalone import nats, postgres
from spell_standalone.errors import StandaloneError
from spell_standalone.layout import replace_file

MACHINE_ID = "local"
PORTS = ("gateway", "nats", "ssh")


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """Settings of one stack. Ports change only when somebody else has taken them."""

    ports: dict[str, int]
    postgres_passwords: dict[str, str]
    nats_passwords: dict[str, str]
    token: str
    machine_id: str
    user: str
    registry_token: str


def load(path: Path) -> Kept:
    """The settings in `path`, made now where there are none; ports that are taken are chosen anew.

    Raises:
        StandaloneError: the file is there and cannot be read.
    """
    known = _read(path)
    ports = {name: port for name, port in known.ports.items() if name in PORTS and _free(port)}
    for name in PORTS:
        if name not in ports:
            ports[name] = _choose(set(ports.values()) | set(known.ports.values()))
    kept = dataclasses.replace(
        known,
        ports=ports,
        postgres_passwords=_passwords((postgres.ADMIN, *postgres.ROLES), known.postgres_passwords),
        nats_passwords=_passwords(
            (nats.SERVICE, nats.SUBSCRIBER, nats.runner(known.machine_id)), known.nats_passwords
        ),
    )
    text = json.dumps(dataclasses.asdict(kept), indent=2) + "\n"
    if not path.exists() or path.read_text() != text:
        replace_file(path, text)
    return kept


def _read(path: Path) -> Kept:
    try:
        members = json.loads(path.read_text())
    except FileNotFoundError:
        return Kept({}, {}, {}, "spell_" + secrets.token_urlsafe(32), MACHINE_ID, _user_name(), _secret())
    except (OSError, ValueError) as error:
        raise StandaloneError(f"{path} cannot be read: {error}") from None
    try:
        return Kept(
            {str(name): int(port) for name, port in members["ports"].items()},
            {str(name): str(value) for name, value in members["postgres_passwords"].items()},
            {str(name): str(value) for name, value in members["nats_passwords"].items()},
            str(members["token"]),
            str(members["machine_id"]),
            str(members["user"]),
            # Later than the rest: the settings of an older version lack it.
            str(members.get("registry_token") or _secret()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StandaloneError(f"{path} is not a settings file of this version: {error!r}") from None


def _user_name() -> str:
    """The login name, as far as the platform accepts it as a user's name."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        name = ""
    return re.sub(r"[^A-Za-z0-9_.-]", "", name)[:64] or "me"


def _secret() -> str:
    return secrets.token_hex(24)


def _passwords(names: tuple[str, ...], known: dict[str, str]) -> dict[str, str]:
    return {name: known.get(name) or _secret() for name in names}


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a connection that lingers in TIME_WAIT does not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _choose(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
