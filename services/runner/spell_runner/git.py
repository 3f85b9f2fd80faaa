"""Git processes over stores of ours, which nothing in a repository has a say in: what they get to know, and what they
read (shell).
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from spell_proto.git import environment
from spell_runner.errors import StoreDamagedError, TreeRefusedError

#: What `ls-tree` may say of one tree: small trees can name endless ones.
LISTING_BYTES_MAX = 256 << 20
READ_BYTES = 1 << 20
_COMPLAINT_BYTES_MAX = 500

# No setting of the machine or of its user, and none of the code's.
_OPTIONS = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "pack.threads=2",
    # Blobs above this are streamed instead of held in memory.
    "-c", "core.bigFileThreshold=16m",
)  # fmt: skip
# What old but honest histories hold.
_HONEST = "zeroPaddedFilemode=ignore,badTimezone=ignore,missingSpaceBeforeDate=ignore"
#: Takes a pack from its input, checks every object of it, and that all they name is there.
INDEX_PACK = ("index-pack", "--stdin", "--fix-thin", f"--strict={_HONEST}")
#: Makes few packs of many small ones, so that each object is copied a few times only.
REPACK = ("repack", "-d", "-n", "-q", "--geometric=2")


class Entry(NamedTuple):
    """One line of `ls-tree`: a file, link, directory or submodule."""

    mode: str
    kind: str
    name: str
    path: bytes


def command(store: Path, *arguments: str) -> list[str]:
    """The words of a git call on a store of ours."""
    return ["git", f"--git-dir={store}", *_OPTIONS, *arguments]


def listing(store: Path, tree: str) -> list[Entry]:
    """Everything in a tree, directories before what they hold.

    Raises:
        StoreDamagedError: the tree, or one in it, is not there.
        TreeRefusedError: it has no end.
    """
    with _reading(store, "ls-tree", "-r", "-t", "-z", "--full-tree", tree) as (output, ended):
        said = bytearray()
        while data := output.read(READ_BYTES):
            said += data
            if len(said) > LISTING_BYTES_MAX:
                raise TreeRefusedError("it holds more files than a machine can take")
        ended()
    entries = []
    for line in bytes(said).split(b"\0")[:-1]:
        about, _, path = line.partition(b"\t")
        mode, kind, name = about.decode("ascii").split(" ")
        entries.append(Entry(mode, kind, name, path))
    return entries


class Contents:
    """The contents of objects, in the order in which they were asked for."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self._left = 0

    def next(self, name: str) -> int:
        """Go to the next object, which must be the blob `name`; its size."""
        assert self._left == 0
        words = self._output.readline().decode("ascii", "replace").split()
        if words[:2] != [name, "blob"]:
            raise StoreDamagedError(f"the object {name} is not there: {' '.join(words)[:200]}")
        self._left = int(words[2])
        if self._left == 0:
            self._end()
        return int(words[2])

    def read(self) -> bytes:
        """Some more of the current object; empty at its end."""
        if self._left == 0:
            return b""
        data = self._output.read(min(self._left, READ_BYTES))
        if not data:
            raise StoreDamagedError("an object breaks off")
        self._left -= len(data)
        if self._left == 0:
            self._end()
        return data

    def _end(self) -> None:
        if self._output.read(1) != b"\n":
            raise StoreDamagedError("an object is longer than announced")


@contextmanager
def contents(store: Path, names: Sequence[str]) -> Iterator[Contents]:
    """Read blobs as they are: without filters, attributes or conversions."""
    asked = "".join(f"{name}\n" for name in names).encode()
    with _reading(store, "cat-file", "--batch", "--buffer", given=asked) as (output, _):
        yield Contents(output)


def end_of(complaints: IO[bytes]) -> str:
    """The last that a process has complained about, on one line."""
    complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - _COMPLAINT_BYTES_MAX))
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return "; ".join(line for line in lines[-2:] if not line.startswith("warning: "))


@contextmanager
def _reading(
    store: Path, *arguments: str, given: bytes = b""
) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """What a process says, and a function that hears whether it all went well."""
    # Files: pipes would have to be written to, and emptied, while we read.
    with (
        tempfile.TemporaryFile(prefix="spell-asked-") as asked,
        tempfile.TemporaryFile(prefix="spell-complaints-") as complaints,
    ):
        asked.write(given)
        asked.seek(0)
        with subprocess.Popen(
            command(store, *arguments),
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=complaints,
            bufsize=READ_BYTES,
            env=environment(),
        ) as process:

            def ended() -> None:
                if process.wait() != 0:
                    raise StoreDamagedError(end_of(complaints))

            assert process.stdout is not None
            try:
                yield process.stdout, ended
            finally:
                process.kill()
