"""The files of a commit as one stream, read from git objects: no checkout, no filters, no attributes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import NamedTuple

import orjson

from spell_storage import git

_PIECE_BYTES = 256 * 1024
#: No file of a tree may keep the stream waiting longer than this.
_SILENT_SECONDS_MAX = 60.0


class TreeFile(NamedTuple):
    """One file of a commit. `path` is raw bytes, as git keeps it."""

    mode: str
    blob: str
    path: bytes


def read_listing(printed: bytes) -> list[TreeFile]:
    """The files in what `git ls-tree -r -z` prints, submodules left out."""
    files = []
    for line in printed.split(b"\0")[:-1]:
        about, path = line.split(b"\t", 1)
        mode, kind, blob = about.decode().split()
        if kind == "blob":
            files.append(TreeFile(mode, blob, path))
    return files


async def stream(
    repositories: git.Repositories, repository: Path, commit: str
) -> AsyncGenerator[bytes, None]:
    """The tree stream of a commit: a line of JSON before each file's bytes, and a last line with their number.

    Raises:
        GitError: an object is missing or git failed; what was sent until then lacks the last line.
    """
    files = read_listing(await repositories.run(repository, "ls-tree", "-r", "-z", "--full-tree", commit))
    with git.stdin_of("".join(f"{file.blob}\n" for file in files).encode()) as blobs:
        process = await asyncio.create_subprocess_exec(
            *git.command(repository, "cat-file", "--batch", "--buffer"),
            stdin=blobs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=git.environment(),
            start_new_session=True,
            limit=_PIECE_BYTES,
        )
    assert process.stdout is not None
    try:
        contents = _Contents(process.stdout)
        for file in files:
            size = await contents.size_of(file.blob)
            head = {"mode": file.mode, "size": size, "path_hex": file.path.hex()}
            yield orjson.dumps(head) + b"\n"
            async for piece in contents.take(size):
                yield piece
            await contents.skip_newline()
        yield orjson.dumps({"end": len(files)}) + b"\n"
    finally:
        git.end(process)
        await process.wait()


class _Contents:
    """What `git cat-file --batch` prints: `<name> blob <size>`, the bytes, a newline."""

    def __init__(self, stdout: asyncio.StreamReader) -> None:
        self._stdout = stdout
        self._buffer = b""
        self._position = 0

    async def _more(self) -> None:
        async with asyncio.timeout(_SILENT_SECONDS_MAX):
            data = await self._stdout.read(_PIECE_BYTES)
        if not data:
            raise git.GitError("git cat-file ended early")
        self._buffer = self._buffer[self._position :] + data
        self._position = 0

    async def size_of(self, blob: str) -> int:
        while (end := self._buffer.find(b"\n", self._position)) < 0:
            await self._more()
        words = self._buffer[self._position : end].decode(errors="replace").split()
        self._position = end + 1
        if words[:2] != [blob, "blob"]:
            raise git.GitError(f"git cat-file: {' '.join(words)} was said of the blob {blob}")
        return int(words[2])

    async def take(self, size: int) -> AsyncIterator[bytes]:
        while size:
            if self._position == len(self._buffer):
                await self._more()
            piece = self._buffer[self._position : self._position + size]
            self._position += len(piece)
            size -= len(piece)
            yield piece

    async def skip_newline(self) -> None:
        if self._position == len(self._buffer):
            await self._more()
        self._position += 1
