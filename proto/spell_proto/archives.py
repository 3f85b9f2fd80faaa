"""Has archives of environments made, fetched and unpacked, without being in the way of anything else (shell)."""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from typing import IO, Any

from spell_proto.archive_format import ArchiveError, DamagedError
from spell_proto.errors import FullError, SpellError
from spell_proto.http import Caller

#: More than that for one archive, and whatever is at work hangs.
SECONDS_MAX = 3600.0
_PIECE_BYTES = 1 << 20
_PROGRAM = (sys.executable, "-I", "-m", "spell_proto.archive_format")


@dataclass(frozen=True, slots=True)
class Packed:
    """What an archive is known by, and how long it is."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came out of an archive: its `stamp`, and the bytes that its files take."""

    stamp: str
    size: int


async def pack(source: str, target: IO[bytes]) -> Packed:
    """Write the archive of a directory to an open file, with little of the processor.

    Raises:
        ArchiveError: something in it cannot be read.
        FullError: there is no room for it.
    """
    return Packed(**await _work("pack", source, target))


async def unpack(archive: IO[bytes], digest: str, target: str, *, sealed: bool) -> Unpacked:
    """Make the directory `target` of an archive; `sealed` forbids all writing in it. What was begun is left there.

    Raises:
        DamagedError: it has another digest.
        ArchiveError: it could not be unpacked.
        FullError: there is no room for it.
    """
    verb = "unpack-sealed" if sealed else "unpack"
    return Unpacked(**await _work(verb, target, archive, digest))


async def fetch(storage: Caller, digest: str, size: int, file: IO[bytes]) -> None:
    """Have an archive's bytes in an open file. What it holds already is not asked for again.

    Raises:
        RefusedError: storage has none, or something is wrong with it.
        UnavailableError: storage does not answer, or breaks off.
    """
    held = file.seek(0, os.SEEK_END)
    if held > size:
        file.truncate(0)
        held = file.seek(0)
    if held == size:
        return
    headers = {"Range": f"bytes={held}-"} if held else None
    async with storage.open("GET", f"/archives/{digest}", headers=headers, stream=True) as answer:
        if held and answer.status != 206:
            # It comes from the beginning all the same.
            file.truncate(file.seek(0))
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            await asyncio.to_thread(file.write, piece)
    await asyncio.to_thread(file.flush)


async def _work(verb: str, path: str, file: IO[bytes], *more: str) -> dict[str, Any]:
    number = file.fileno()
    words = (*_PROGRAM, str(os.getpid()), verb, path, str(number), *more)
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        cwd="/",
        pass_fds=(number,),
    )
    try:
        async with asyncio.timeout(SECONDS_MAX):
            out, errors = await process.communicate()
    except TimeoutError:
        raise ArchiveError(f"there was no end within {SECONDS_MAX / 60:.0f} minutes") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        last = (errors.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
        raise ArchiveError(f"the work broke off: {last}") from None
    if "failed" in answer:
        raise _KINDS.get(answer["kind"], ArchiveError)(*answer["failed"])
    return answer


_KINDS: dict[str, type[SpellError]] = {"damaged": DamagedError, "full": FullError}
