"""How blobs come to storage with less than a request and a body each. Pure.

A large one that lies on storage's own machine may be read where it is: whoever has it open says under which number, and
what the file is known by.

Many small ones come in one body: a request for each would cost more than its bytes. A pack is any number of entries: the SHA-256 of a blob (32 bytes), its length (4 bytes, big-endian), its bytes.
"""

import os
import struct
from collections.abc import Iterable

from spell_proto.errors import InvalidError

#: Storage cannot read a file where it is: its bytes are to be sent.
FILE_UNREACHABLE = "file_unreachable"
#: A pack, and a blob that is worth packing.
PACK_BYTES_MAX = 4 << 20
BLOB_BYTES_MAX = 128 << 10
PACK_BLOBS_MAX = 500
_ENTRY = struct.Struct(">32sI")


def identity(status: os.stat_result) -> str:
    """What a file is known by on its machine."""
    return f"{status.st_dev}:{status.st_ino}"


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


def _invalid(why: str) -> InvalidError:
    return InvalidError("pack_invalid", f"body: {why}", field="body")
