"""How blobs come to storage, and from it, with less than a request and a body each. Pure.

A large one that lies on storage's own machine may be read where it is: whoever has it open says under which number, and
what the file is known by. Where it is certainly new, nobody needs its digest before storage has taken it.

Many small ones come, and go, in one body: a request for each would cost more than its bytes. A pack is any number of
entries: the SHA-256 of a blob (32 bytes), its length (4 bytes, big-endian), its bytes.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from spell_proto.errors import InvalidError

#: Storage cannot read a file where it is: its bytes are to be sent.
FILE_UNREACHABLE = "file_unreachable"
#: A file was written to while storage read it: nothing of it is stored.
FILE_CHANGED = "file_changed"
#: A pack, and a blob that is worth packing.
PACK_BYTES_MAX = 4 << 20
BLOB_BYTES_MAX = 128 << 10
PACK_BLOBS_MAX = 500
#: Files from here on are worth a look at whether storage may have them, before all of them is read.
LOOKED_AT_BYTES_MIN = 8 << 20
LOOK_BYTES = 1 << 20
_ENTRY = struct.Struct(">32sI")
T = TypeVar("T")


def identity(status: os.stat_result) -> str:
    """What a file is known by on its machine."""
    return f"{status.st_dev}:{status.st_ino}"


def looked_at(size: int) -> tuple[int, int, int]:
    """The MiB, counted from 0, whose checksums tell most files of a size from each other: first, middle and last."""
    count = -(-size // LOOK_BYTES)
    return 0, count // 2, max(count - 1, 0)


def look(size: int, pieces: Iterable[bytes]) -> dict[str, str | int]:
    """What is asked about a file of a size, of which these are the MiB that are looked at."""
    sums = b"".join(zlib.crc32(piece).to_bytes(4, "big") for piece in pieces)
    return {"size": size, "sums": sums.hex()}


def version(status: os.stat_result) -> str:
    """What of a file is another one once it is written to."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def pack(blobs: Iterable[tuple[str, bytes]]) -> bytes:
    """Blobs by their digests."""
    return b"".join(
        part for digest, data in blobs for part in (_ENTRY.pack(bytes.fromhex(digest), len(data)), data)
    )


def unpack(body: bytes) -> dict[str, bytes]:
    """The blobs of a pack by what are said to be their digests.

    Raises:
        InvalidError: pack_invalid.
    """
    blobs: dict[str, bytes] = {}
    at = 0
    while at < len(body):
        if at + _ENTRY.size > len(body):
            raise _invalid(f"an entry at {at} breaks off")
        digest, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size + length
        if length > BLOB_BYTES_MAX or at > len(body):
            raise _invalid(f"a blob of {length} bytes ends at {at}")
        blobs[digest.hex()] = body[at - length : at]
    if len(blobs) > PACK_BLOBS_MAX:
        raise _invalid(f"{len(blobs)} blobs, {PACK_BLOBS_MAX} are allowed")
    return blobs


class Arriving:
    """A pack on its way to us, bit by bit. Given out is what was asked for and is what its digest says; what does not come,
    or comes damaged, stays `wanted`.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self.wanted = set(wanted)
        self._expected = set(self.wanted)
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The blobs of which the last byte has come, by their digests.

        Raises:
            InvalidError: pack_invalid, something comes that nobody has asked for.
        """
        self._held += data
        whole: list[tuple[str, bytes]] = []
        at = 0
        while at + _ENTRY.size <= len(self._held):
            raw, length = _ENTRY.unpack_from(self._held, at)
            digest, end = raw.hex(), at + _ENTRY.size + length
            if digest not in self._expected or length > BLOB_BYTES_MAX:
                raise _invalid(f"{digest} of {length} bytes was not asked for, or came twice")
            if end > len(self._held):
                break
            self._expected.discard(digest)
            blob = bytes(self._held[at + _ENTRY.size : end])
            if hashlib.sha256(blob).hexdigest() == digest:
                self.wanted.discard(digest)
                whole.append((digest, blob))
            at = end
        del self._held[:at]
        return whole


def portions(sized: Iterable[tuple[T, int]]) -> list[list[T]]:
    """Things of these sizes in as few packs as hold them. None is larger than a blob in a pack may be."""
    packs: list[list[T]] = []
    room = 0
    for thing, size in sized:
        taken = size + _ENTRY.size
        if not packs or room < taken or len(packs[-1]) == PACK_BLOBS_MAX:
            packs.append([])
            room = PACK_BYTES_MAX
        packs[-1].append(thing)
        room -= taken
    return packs


def check_count(digests: Sequence[str]) -> None:
    """Raise InvalidError where more is asked for than goes into one pack."""
    if len(digests) > PACK_BLOBS_MAX:
        raise InvalidError(
            "too_many_digests",
            f"digests: {len(digests)} of them, {PACK_BLOBS_MAX} are allowed",
            field="digests",
        )


def _invalid(why: str) -> InvalidError:
    return InvalidError("pack_invalid", f"body: {why}", field="body")
