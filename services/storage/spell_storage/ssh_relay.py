"""Joins a git process to an SSH channel, and reads along what a push is about to do (shell)."""

import asyncio
import time

import asyncssh

from spell_proto.git import environment
from spell_storage import git

_PIECE_BYTES = 128 * 1024
#: A ref's name, two object names and what a client says about itself.
_COMMAND_BYTES_MAX = 4096


class TooManyRefsError(Exception):
    """A push wants more refs than one push may."""


class CommandCounter:
    """Counts the refs in what `git push` sends before its pack: lines, each after its length, up to an empty one."""

    def __init__(self, refs_max: int) -> None:
        self._refs_max = refs_max
        self._refs = 0
        self._buffer = b""
        #: Bytes of the present line that are still to come.
        self._rest = 0
        self._over = False

    def feed(self, data: bytes) -> None:
        """Look at the next bytes.

        Raises:
            TooManyRefsError: there are too many, or a line is longer than any that git sends.
        """
        if self._over:
            return
        data, position = self._buffer + data, 0
        while True:
            skipped = min(self._rest, len(data) - position)
            position += skipped
            self._rest -= skipped
            if self._rest or len(data) - position < 4:
                break
            try:
                length = int(data[position : position + 4], 16)
            except ValueError:
                length = 0  # no push at all: git will say so
            if length < 4:
                self._over = True
                break
            self._refs += 1
            if self._refs > self._refs_max or length > _COMMAND_BYTES_MAX:
                raise TooManyRefsError
            position += 4
            self._rest = length - 4
        self._buffer = b"" if self._over else data[position:]


class Relay:
    """One push: its channel, and the git process that receives it."""

    def __init__(
        self, process: asyncssh.SSHServerProcess[bytes], refs_max: int, silent_seconds: float
    ) -> None:
        self._process = process
        self._refs_max = refs_max
        self._silent_seconds = silent_seconds
        self._heard_at = time.monotonic()
        self._refusal = ""

    async def run(self, words: list[str], noted: str, held: int) -> int:
        """Relay until git ends; it is killed when the channel breaks. Returns the exit status."""
        child = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**environment(), "SPELL_PUSHED": noted},
            start_new_session=True,
            limit=_PIECE_BYTES,
            pass_fds=(held,),
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                giving = tasks.create_task(self._give(child, child.stdin))
                watching = tasks.create_task(self._watch(child))
                out = tasks.create_task(self._take(child.stdout, self._process.stdout))
                err = tasks.create_task(self._take(child.stderr, self._process.stderr))
                await asyncio.wait({out, err})
                await child.wait()
                giving.cancel()
                watching.cancel()
        except* (asyncssh.Error, OSError, EOFError) as errors:
            raise ConnectionError(repr(errors.exceptions[0])) from errors
        finally:
            git.end(child)
            await child.wait()
        if self._refusal:
            self._process.stderr.write(f"spell: {self._refusal}\n".encode())
            return 1
        assert child.returncode is not None
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    async def _give(self, child: asyncio.subprocess.Process, stdin: asyncio.StreamWriter) -> None:
        counter = CommandCounter(self._refs_max)
        while data := await self._process.stdin.read(_PIECE_BYTES):
            self._heard_at = time.monotonic()
            try:
                counter.feed(data)
                stdin.write(data)
                await stdin.drain()
            except TooManyRefsError:
                self._refusal = f"at most {self._refs_max} refs per push"
                git.end(child)
                return
            except (BrokenPipeError, ConnectionResetError, RuntimeError):
                # git reads no more (uvloop says RuntimeError for a closed pipe); what it printed still goes out.
                return
        stdin.close()

    async def _take(self, source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
        while data := await source.read(_PIECE_BYTES):
            self._heard_at = time.monotonic()
            sink.write(data)
            await sink.drain()

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        # A clock that every byte winds up.
        while (left := self._heard_at + self._silent_seconds - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)
        self._refusal = f"nothing was heard for {self._silent_seconds:.0f} s"
        git.end(child)
