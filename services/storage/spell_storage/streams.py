"""What a git process prints, piece by piece: as fast as it is read, and killed with its reader (shell)."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from spell_proto.errors import UnavailableError
from spell_proto.git import environment
from spell_storage import git

PIECE_BYTES = 256 * 1024
STREAMS_AT_ONCE = 4
#: How long a reader waits for its turn, git may stay silent, and all of it may take.
TURN_SECONDS_MAX = 60.0
SILENT_SECONDS_MAX = 300.0
STREAM_SECONDS_MAX = 3600.0


class Streams:
    """Git processes whose output is too big to be held. Not more than a few at once."""

    def __init__(self, at_once: int = STREAMS_AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def read(
        self, repository: Path, *arguments: str, given: bytes = b"", head: bytes = b""
    ) -> AsyncGenerator[bytes, None]:
        """`head`, then what git prints.

        Raises:
            UnavailableError: too many streams are being read already.
            git.GitError: git failed, or took too long; what came until then is not all of it.
        """
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                await self._turns.acquire()
        except TimeoutError:
            raise UnavailableError("unavailable", "too much code is being read; try again") from None
        try:
            if head:
                yield head
            with tempfile.TemporaryFile(prefix="spell-stderr-") as complaint:
                printed = _printed(repository, arguments, given, complaint.fileno())
                async with aclosing(printed):
                    async for piece in printed:
                        yield piece
        finally:
            self._turns.release()


async def _printed(
    repository: Path, arguments: tuple[str, ...], given: bytes, complaint: int
) -> AsyncGenerator[bytes, None]:
    with git.stdin_of(given) as stdin:
        process = await asyncio.create_subprocess_exec(
            *git.command(repository, *arguments),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=complaint,
            env=environment(),
            start_new_session=True,
            limit=PIECE_BYTES,
        )
    assert process.stdout is not None
    # Not asyncio.timeout: between two pieces it is the reader's code that runs.
    clock = asyncio.get_running_loop().call_later(STREAM_SECONDS_MAX, git.end, process)
    try:
        while True:
            try:
                async with asyncio.timeout(SILENT_SECONDS_MAX):
                    piece = await process.stdout.read(PIECE_BYTES)
            except TimeoutError:
                raise git.GitError(f"git {arguments[0]} printed nothing for too long") from None
            if not piece:
                break
            yield piece
        if await process.wait():
            raise git.GitError(f"git {arguments[0]} failed with {process.returncode}: {_tail(complaint)}")
    finally:
        clock.cancel()
        git.end(process)
        await process.wait()


def _tail(complaint: int) -> str:
    with open(complaint, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()[-500:].decode(errors="replace").strip()
