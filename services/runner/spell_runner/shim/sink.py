"""Where the output of a command ends: the attempt's journal, counted, hashed and capped (shell).

Standard library only: this is loaded once by the fork server and then only forked.
"""

import hashlib
import os
import time

from spell_proto.journal import HEADER, RecordKind, encode_json
from spell_runner.shim import linux
from spell_runner.shim.launch import SPARE_BYTES

#: Room for output is taken from the disk in steps that grow with the journal, up to this.
STEP_BYTES_MAX = 1 << 20


def now_us() -> int:
    return time.time_ns() // 1000


class Sink:
    """Appends records to a journal, one write each, so that a reader and a crash see whole records or a torn last one."""

    def __init__(self, path: str, bytes_max: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._fd).st_size
        self._ahead = self.size  # up to here the disk has room for us, the spare bytes included
        self._room = bytes_max
        self._hash = hashlib.sha256()
        self.written = {RecordKind.STDOUT: 0, RecordKind.STDERR: 0}
        self._dropped = {RecordKind.STDOUT: 0, RecordKind.STDERR: 0}

    @property
    def dropped(self) -> int:
        return sum(self._dropped.values())

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def output(self, kind: RecordKind, chunk: bytes) -> None:
        """What the command wrote: kept as long as there is room, counted in any case."""
        self.written[kind] += len(chunk)
        kept = chunk[: self._room]
        if kept and self._append(HEADER.pack(len(kept), kind, now_us()), kept):
            self._room -= len(kept)
            self._hash.update(kept)
        else:
            kept = b""
        self._dropped[kind] += len(chunk) - len(kept)

    def phase(self, phase: str, text: str) -> None:
        """A line of the platform's own. It may be lost on a full disk; the command's bytes are then counted as dropped."""
        self._append(b"", encode_json(RecordKind.PHASE, now_us(), phase=phase, text=text))

    def note(self, text: str) -> None:
        """A line of the platform's own that everybody should see."""
        self._append(b"", encode_json(RecordKind.NOTE, now_us(), level="info", text=text, important=True))

    def close(self) -> None:
        """Say what was not kept."""
        if self.dropped:
            gap = {
                "stdout_bytes": self._dropped[RecordKind.STDOUT],
                "stderr_bytes": self._dropped[RecordKind.STDERR],
            }
            self._append(b"", encode_json(RecordKind.GAP, now_us(), **gap), spare=True)
        os.close(self._fd)

    def _append(self, head: bytes, body: bytes, *, spare: bool = False) -> bool:
        """Whether there was room. The spare bytes behind the end are for what must be said."""
        if not spare and not self._has_room(len(head) + len(body)):
            return False
        try:
            done = os.writev(self._fd, (head, body)) == len(head) + len(body)
        except OSError:
            done = False
        if done:
            self.size += len(head) + len(body)
        else:
            # The disk is full, or the file too large: take back the torn record, so that what follows can be read.
            os.ftruncate(self._fd, self.size)
            self._ahead = self.size
        return done

    def _has_room(self, length: int) -> bool:
        need = length + SPARE_BYTES
        if self.size + need <= self._ahead:
            return True
        for more in (min(self.size, STEP_BYTES_MAX), 0):
            try:
                linux.set_aside(self._fd, self.size, need + more)
            except OSError:
                continue
            self._ahead = self.size + need + more
            return True
        return False
