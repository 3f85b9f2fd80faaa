"""Code on its way to a machine: a pack with what it lacks, and the patch between two commits."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import orjson

from spell_proto import checks
from spell_proto.errors import ConflictError, InvalidError
from spell_proto.views import PackAsked, PackHead
from spell_storage import git
from spell_storage.code import Code
from spell_storage.streams import Streams

WANTS_MAX = 64
HAVES_MAX = 10_000
#: git holds a file and what became of it in memory, three times over: not of any size, and large ones one at a time.
PATCH_FILE_BYTES_MAX = 1 << 30
_LARGE_BYTES = 32 << 20
#: So many objects are looked for in files; more are worth a process.
_LOOKED_UP_MAX = 32
_TAG_FORMAT = "--format=%(objecttype) %(objectname) %(refname:strip=2)"
_PACKING = ("--revs", "--thin", "--delta-base-offset", "--stdout", "-q")
_SHALLOW_LINE = re.compile(r"[0-9a-f]{40,64}", re.ASCII)
# As git says it to somebody without settings of their own, in a form that carries everything.
_DIFFING = (
    "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
    "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=none",
)  # fmt: skip


class Packs:
    """Reads commits that `code` knows."""

    def __init__(
        self, code: Code, repositories: git.Repositories, *, patch_file_bytes_max: int = PATCH_FILE_BYTES_MAX
    ) -> None:
        self._patch_file_bytes_max = patch_file_bytes_max
        self._code = code
        self._git = repositories
        self._streams = Streams()
        self._large = Streams(at_once=1)

    async def pack(self, owner_id: int, repository_id: int, asked: PackAsked) -> AsyncGenerator[bytes, None]:
        """A line of JSON (`PackHead`), then a thin pack with what the wanted commits need and the others do not have.

        Raises:
            InvalidError: something that is asked for is no commit hash, or too much is asked for.
            NotFoundError: a wanted commit is not in this repository.
        """
        if not 1 <= len(asked.want) <= WANTS_MAX or len(asked.have) > HAVES_MAX:
            raise InvalidError(
                "pack_too_many", f"want: 1 to {WANTS_MAX} commits, have: at most {HAVES_MAX}", field="want"
            )
        for name in (*asked.want, *asked.have):
            checks.commit(name)
        for name in asked.want:
            await self._code.commit(owner_id, name, repository_id)
        path = self._git.path(owner_id, repository_id)
        tags = await self._tags(path, asked.want)
        head = PackHead(tags=tuple(tags), shallow=await self._cut_off(path, asked.want))
        wants = (*asked.want, *(tag for _, tag in tags))
        lines = (*wants, "--not", *await self._known(path, asked.have))
        return self._streams.read(
            path,
            "pack-objects",
            *_PACKING,
            given=_lines(lines),
            head=orjson.dumps(head.model_dump()) + b"\n",
        )

    async def patch(
        self, owner_id: int, repository_id: int, before: str, after: str
    ) -> AsyncGenerator[bytes, None]:
        """What `git apply` makes `after` of `before` with.

        Raises:
            NotFoundError: one of them is not in this repository.
            ConflictError: a file is too large for a patch.
        """
        for name in (before, after):
            await self._code.commit(owner_id, name, repository_id)
        path = self._git.path(owner_id, repository_id)
        largest = await self._largest_change(path, before, after)
        if largest > self._patch_file_bytes_max:
            raise ConflictError(
                "patch_too_large",
                f"a file of {largest >> 20} MiB has changed; "
                f"patches are made of files of up to {self._patch_file_bytes_max >> 20} MiB",
            )
        streams = self._streams if largest < _LARGE_BYTES else self._large
        return streams.read(path, "diff", *_DIFFING, before, after, "--")

    async def _largest_change(self, path: Path, before: str, after: str) -> int:
        """Of all files that differ, the most bytes that one has on both sides together."""
        raw = await self._git.run(path, "diff-tree", "-r", "-z", "--raw", "--no-renames", before, after, "--")
        pairs = [entry.split(b" ")[2:4] for entry in raw.split(b"\0")[:-1:2]]
        given = b"".join(name + b"\n" for pair in pairs for name in pair)
        printed = await self._git.run(path, "cat-file", "--batch-check=%(objectsize)", given=given)
        # What is not there on one side is "missing", and so is a commit of a submodule.
        sizes = [int(line) if line.isdigit() else 0 for line in printed.splitlines()]
        return max(map(sum, zip(sizes[::2], sizes[1::2], strict=True)), default=0)

    async def _tags(self, path: Path, wants: Iterable[str]) -> list[tuple[str, str]]:
        """Annotated tags of commits that are on the way to the wanted ones: name and object."""
        if not await asyncio.to_thread(git.has_tags, path):
            return []
        merged = [f"--merged={name}" for name in wants]
        printed = await self._git.run(path, "for-each-ref", *merged, _TAG_FORMAT, git.TAGS)
        tags = []
        for line in printed.splitlines():
            kind, tag, name = line.split(b" ", 2)
            # A name that is no text cannot be told in JSON; git describe does without it.
            if kind == b"tag" and _is_text(name):
                tags.append((name.decode(), tag.decode()))
        return tags

    async def _cut_off(self, path: Path, wants: Iterable[str]) -> tuple[str, ...]:
        """The commits on the way to the wanted ones whose parents are left out, as they were never pushed."""
        try:
            cut = set(_SHALLOW_LINE.findall((path / "shallow").read_text("ascii")))
        except FileNotFoundError:
            return ()
        if not cut:
            return ()
        printed = await self._git.run(path, "rev-list", *wants)
        return tuple(name for name in printed.decode().split() if name in cut)

    async def _known(self, path: Path, haves: Iterable[str]) -> list[str]:
        asked = list(dict.fromkeys(haves))
        if len(asked) <= _LOOKED_UP_MAX:
            return [name for name in asked if git.has_object(path, name)]
        printed = await self._git.run(path, "cat-file", "--batch-check", given=_lines(asked))
        answers = (line.split() for line in printed.decode().splitlines())
        return [words[0] for words in answers if words[1:2] in (["commit"], ["tag"])]


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()
