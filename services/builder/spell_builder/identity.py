"""Who a builder is towards a Docker daemon, and which of its processes still live (shell)."""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "process-"


class Identity:
    """`builder` stays the same as long as the data directory does; `process` is this process."""

    def __init__(self, builder: str, process: str, locks: Path) -> None:
        self.builder = builder
        self.process = process
        self._locks = locks

    def alive(self, process: str) -> bool:
        """Whether a process of this builder is still there: it holds its lock as long as it lives."""
        if process == self.process:
            return True
        try:
            with (self._locks / f"{_PREFIX}{process}").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        (self._locks / f"{_PREFIX}{process}").unlink(missing_ok=True)
        return False


@contextmanager
def identity(data: Path) -> Iterator[Identity]:
    """Our identity, for as long as the context lasts."""
    kept = data / "builder-id"
    if not kept.exists():
        new = data / f".builder-id-{uuid.uuid4().hex}"
        new.write_text(uuid.uuid4().hex)
        new.rename(kept)
    process, locks = uuid.uuid4().hex, data / "locks"
    path = locks / f"{_PREFIX}{process}"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield Identity(kept.read_text(), process, locks)
        finally:
            path.unlink(missing_ok=True)
