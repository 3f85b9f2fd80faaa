"""Checksums of an object, one for each MiB of it, so that any part of it can be checked by itself (pure).

CRC-32 finds every damage that disks and wires do. What is sent by people is checked by its SHA-256 as well.
"""

import hashlib
import zlib

#: What one checksum is of; the last piece of an object may be shorter.
PIECE_BYTES = 1 << 20
_SUM_BYTES = 4


class Digesting:
    """Takes the SHA-256, the checksums and the size of bytes as they come."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._sums = bytearray()
        self._running = 0

    def add(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        view = memoryview(data)
        while view:
            part = view[: PIECE_BYTES - self.size % PIECE_BYTES]
            self._running = zlib.crc32(part, self._running)
            self.size += len(part)
            view = view[len(part) :]
            if self.size % PIECE_BYTES == 0:
                self._sums += self._running.to_bytes(_SUM_BYTES, "big")
                self._running = 0

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def sums(self) -> bytes:
        last = self._running.to_bytes(_SUM_BYTES, "big") if self.size % PIECE_BYTES else b""
        return bytes(self._sums) + last


def is_piece(sums: bytes, number: int, piece: bytes) -> bool:
    """Whether `piece` is the one of this number, counted from 0, of what `sums` were taken of."""
    place = number * _SUM_BYTES
    return zlib.crc32(piece).to_bytes(_SUM_BYTES, "big") == sums[place : place + _SUM_BYTES]


def covering(first: int, length: int, size: int) -> tuple[int, int]:
    """Where the whole pieces begin and end that hold `length` bytes from `first` of an object of `size` bytes."""
    begin = first - first % PIECE_BYTES
    last = first + length
    return begin, min(size, last + -last % PIECE_BYTES)
