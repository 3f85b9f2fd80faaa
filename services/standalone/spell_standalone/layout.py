"""Where everything of a stack lies: `<user directory>/local`, its sockets, logs and files.

The sockets lie in `run` in there. Where that path is too long for a unix socket, they lie in a short directory of the
machine instead, named after the user and a hash of the data directory: whoever knows the user directory finds it, two
stacks never share one, and a reboot that empties it does no harm.
"""

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from spell_standalone.errors import StandaloneError

#: A unix socket path has room for 107 bytes; the longest name we put into `run/` is this one.
_LONGEST_SOCKET = "run/supervisor.sock"
DATA_BYTES_MAX = 107 - len(_LONGEST_SOCKET) - 1
_SHORT_BASE = Path("/tmp")  # noqa: S108 -- the directory in it is checked: ours, closed, and no link


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one stack. `user` is the real path of `$SPELL_DIR`, shared with the command line; `data` is the
    stack's alone.
    """

    user: Path

    @property
    def data(self) -> Path:
        return self.user / "local"

    @property
    def pids(self) -> Path:
        return self.data / "run"

    @property
    def run(self) -> Path:
        if len(os.fsencode(self.data)) <= DATA_BYTES_MAX:
            return self.pids
        # Not below XDG_RUNTIME_DIR: it is set in some shells of a user and not in others, and all must find this.
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return _SHORT_BASE / f"spell-{os.geteuid()}-{digest}"

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
        return self.pids / f"{name}.pid"

    def socket_url(self, name: str) -> str:
        return f"unix://{self.run / name}.sock"

    def make(self) -> None:
        """Make the directories, closed to everybody else.

        Raises:
            StandaloneError: one cannot be made, or somebody else has made it.
        """
        try:
            self.user.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (self.data, self.pids, self.run, self.logs):
                directory.mkdir(mode=0o700, exist_ok=True)
                self.check()
                directory.chmod(0o700)
        except OSError as error:
            raise StandaloneError(
                f"{error.filename or self.user} cannot be a directory of the stack: {error.strerror}"
            ) from error

    def check(self) -> None:
        """Anybody can make a name in the short place: what stands there must be a directory of ours, and no link.

        Raises:
            StandaloneError: it is not.
        """
        if self.run == self.pids or not os.path.lexists(self.run):
            return
        status = self.run.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise StandaloneError(
                f"{self.run} is where the sockets of the stack belong, and is no directory of this user: remove it, "
                "or set SPELL_DIR to a shorter path"
            )

    def remove_short(self) -> None:
        """Remove the directory of the sockets where it is not below the data directory."""
        if self.run != self.pids:
            self.check()
            shutil.rmtree(self.run, ignore_errors=True)


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
