"""Reads files of this machine into storage: digest, checksums and copy in one pass of a thread (shell)."""

import asyncio
import os
from collections.abc import AsyncGenerator
from io import FileIO

from spell_proto import blob_packs
from spell_proto.errors import InvalidError
from spell_storage import local_files
from spell_storage.sums import Digesting

#: Small enough that bytes are still in the processor's cache when they are written after their digest was taken.
PIECE_BYTES = 256 << 10
#: After so many bytes it is looked up whether anybody still waits for them, and the disk begins to write them: a flush at
#: the end finds little left to do, which halves the time of several files.
STEP_BYTES = 16 << 20


def check_version(file: FileIO, version: str) -> int:
    """The size of a file that is this `version` still.

    Raises:
        InvalidError: file_changed.
    """
    status = os.fstat(file.fileno())
    if blob_packs.version(status) != version:
        raise InvalidError(blob_packs.FILE_CHANGED, "file: it was written to meanwhile", field="version")
    return status.st_size


async def steps(file: FileIO, size: int, digesting: Digesting, to: int | None) -> AsyncGenerator[int, None]:
    """Bring the first `size` bytes of a file to a descriptor, if there is one; how many each step brought. A file that is
    shorter has another digest.
    """
    left = size
    while left:
        count = await local_files.to_its_end(_step, file, min(left, STEP_BYTES), digesting, to)
        yield count
        if not count:
            return
        left -= count


async def pieces(file: FileIO, size: int) -> AsyncGenerator[bytes, None]:
    """The same bytes, to be sent elsewhere."""
    left = size
    while left and (piece := await asyncio.to_thread(file.read, min(left, 4 * PIECE_BYTES))):
        yield piece
        left -= len(piece)


def _step(file: FileIO, wanted: int, digesting: Digesting, to: int | None) -> int:
    buffer = memoryview(bytearray(min(PIECE_BYTES, wanted)))
    done = 0
    while done < wanted:
        count = file.readinto(buffer[: wanted - done])
        if not count:
            break
        digesting.add(buffer[:count])
        if to is not None:
            local_files.write(to, buffer[:count])
        done += count
    if to is not None:
        local_files.begin_to_flush(to)
    return done
