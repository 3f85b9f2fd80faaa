"""Where everything of a stack lies: `<user directory>/local`, its sockets, logs and files."""

import os
from dataclasses import dataclass
from pathlib import Path

from spell_standalone.errors import StandaloneError

#: A unix socket path has room for 107 bytes; the longest name we put into `run/` is this one.
_LONGEST_SOCKET = "run/supervisor.sock"
DATA_BYTES_MAX = 107 - len(_LONGEST_SOCKET) - 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one stack. `user` is `$SPELL_DIR`, shared with the command line; `data` is the stack's alone."""

    user: Path

    @property
    def data(self) -> Path:
        return self.user / "local"

    @property
    def run(self) -> Path:
        return self.data / "run"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def lock(self) -> Path:
        return self.data / "supervisor.lock"

    @property
    def control(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def kept(self) -> Path:
        return self.data / "settings.json"

    @property
    def client(self) -> Path:
        return self.data / "client.json"

    @property
    def subscriber_url(self) -> Path:
        return self.data / "subscriber.url"

    @property
    def known_hosts(self) -> Path:
        return self.data / "known_hosts"

    @property
    def identity(self) -> Path:
        return self.user / "spell.pem"

    @property
    def public_identity(self) -> Path:
        return self.user / "spell.pem.pub"

    @property
    def token(self) -> Path:
        return self.data / "token"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def socket_url(self, name: str) -> str:
        return f"unix://{self.run / name}.sock"

    def make(self) -> None:
        """Make the directories, closed to everybody else.

        Raises:
            StandaloneError: the path leaves no room for the names of unix sockets, or cannot be made.
        """
        length = len(os.fsencode(self.data))
        if length > DATA_BYTES_MAX:
            raise StandaloneError(
                f"the path {self.data} has {length} bytes, and unix sockets below it have room for "
                f"{DATA_BYTES_MAX}: set SPELL_DIR to a shorter path"
            )
        try:
            self.user.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (self.data, self.run, self.logs):
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o700)
        except OSError as error:
            raise StandaloneError(
                f"{error.filename or self.user} cannot be a directory of the stack: {error.strerror}"
            ) from error


def replace_file(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
