"""Notices that the message bus has met a full disk: after that it stores nothing any more until it is started again."""

import os
from pathlib import Path

#: As NATS writes it into its log, each time it is asked to store something.
_COMPLAINT = b"JetStream failed to store"
_REASON = b"no space left on device"
ROOM_BYTES_MIN = 16 << 20
_READ_BYTES_MAX = 1 << 20


class BusDisk:
    """Follows the log of the bus, and looks at the disk that both are on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = self._size()
        self._hurt = False

    def hurt_and_free(self) -> bool:
        """Whether the bus has met a full disk since it was last said to, and the disk has room again.

        What cannot be looked at any more is neither: somebody may be removing the stack under us.
        """
        try:
            return self._hurt_and_free()
        except OSError:
            return False

    def _hurt_and_free(self) -> bool:
        size = self._size()
        if size != self._read:
            self._hurt = self._hurt or self._complains(min(self._read, size))
            self._read = size
        if not self._hurt:
            return False
        disk = os.statvfs(self._log.parent)
        # Some file systems make files as they need them, and tell of none.
        no_files = disk.f_files > 0 and disk.f_favail == 0
        if no_files or disk.f_bavail * disk.f_frsize < ROOM_BYTES_MIN:
            return False
        self._hurt = False
        return True

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def _complains(self, offset: int) -> bool:
        with self._log.open("rb") as file:
            file.seek(offset)
            return any(
                _COMPLAINT in line and _REASON in line for line in file.read(_READ_BYTES_MAX).splitlines()
            )
