"""Removes from one git repository what nothing needs any more, whatever is pushed in the meantime (shell).

Theory of operation
-------------------
git's own collection trusts in time: an object that is old and that no ref needs is removed, although a push may be
about to make a ref that needs it. Here nothing is removed that was not looked at under a lock that excludes pushes,
and under that lock as little as possible is done:

1. alone: refs are made for what is kept, and removed for what is not. No object goes.
2. beside pushes, which may take as long as it likes: git packs what refs need into one pack and everything else into
   a second one, a "cruft" pack. No object goes; what comes in meanwhile lies in packs and files of its own.
3. alone again: if nothing that was made a ref or recorded since 2 began needs an object of the cruft pack, that pack is
   removed. Otherwise it stays, and what is needed of it is in the first pack next time.

Killed at any line, it leaves a repository that has all it needs, and the next pass goes on.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spell_storage import git
from spell_storage.remote import FETCHED

REPACK_SECONDS_MAX = 3600.0
WALK_SECONDS_MAX = 300.0
#: A repository with more packs or loose objects than this is packed anew although nothing is removed.
PACKS_MAX = 40
LOOSE_MAX = 2_000
_NAME_BYTES_MAX = 64


@dataclass(frozen=True, slots=True)
class Packed:
    """What a repository was when it was packed anew: what its refs stood for, and where the rest went."""

    tips: frozenset[str]
    cruft: tuple[Path, ...]


async def set_refs(
    repositories: git.Repositories, path: Path, kept: Iterable[str], held: tuple[int, ...], *, unused: bool
) -> int:
    """Step 1: make every commit in `kept`, all of them there, a ref; remove other commits' refs, and of an `unused`
    mirror its branches, and tags of what nothing needs then. Returns how many refs were removed.
    """
    refs = await _refs(repositories, path)
    wanted = {f"br_{name}": name for name in kept}
    changes: list[bytes] = []
    stay: list[str] = []
    have: set[str] = set()
    for ref, name in refs.items():
        place, last = ref.rpartition(b"/")[::2]
        if place in {git.PUSHED.encode(), git.KEPT.encode()}:
            if wanted.get(last.decode()) == name:
                have.add(name)
                stay.append(name)
            else:
                changes.append(b"delete %b" % ref)
        elif ref.startswith(FETCHED.encode() + b"/"):
            if unused:
                changes.append(b"delete %b" % ref)
            else:
                stay.append(name)
    for name in set(wanted.values()) - have:
        changes.append(f"create {git.KEPT}/br_{name} {name}".encode())
        stay.append(name)
    tags = {ref: name for ref, name in refs.items() if ref.startswith(git.TAGS.encode() + b"/")}
    changes += [b"delete %b" % ref for ref in await _useless(repositories, path, tags, stay)]
    if changes:
        given = b"".join(change + b"\n" for change in changes)
        await repositories.run(path, "update-ref", "--no-deref", "--stdin", given=given, held=held)
    return sum(change.startswith(b"delete") for change in changes)


async def pack_anew(repositories: git.Repositories, path: Path, held: tuple[int, ...]) -> Packed:
    """Step 2."""
    tips = frozenset((await _refs(repositories, path)).values())
    await repositories.run(path, "pack-refs", "--all", held=held)
    await repositories.run(
        path, "repack", "--cruft", "-d", "-q", seconds=REPACK_SECONDS_MAX, held=held
    )  # fmt: skip
    return Packed(tips, tuple(path.glob("objects/pack/pack-*.mtimes")))


async def drop_cruft(
    repositories: git.Repositories, path: Path, packed: Packed, recorded: Iterable[str]
) -> int:
    """Step 3, with all commits that are on record; returns how many bytes were removed."""
    await asyncio.to_thread(git.clear_temporary, path)
    tips = {*(await _refs(repositories, path)).values(), *recorded} - packed.tips
    needed: set[str] = set()
    if tips and packed.cruft:
        given = "".join([*(f"{name}\n" for name in tips), *(f"^{name}\n" for name in packed.tips)])
        printed = await repositories.run(
            path, "rev-list", "--objects", "--stdin", given=given.encode(), seconds=WALK_SECONDS_MAX
        )
        needed = {line[:_NAME_BYTES_MAX].split(b" ", 1)[0].decode() for line in printed.splitlines()}
    removed = 0
    for mtimes in packed.cruft:
        if not await asyncio.to_thread(_holds_any, mtimes.with_suffix(".idx"), needed):
            removed += await asyncio.to_thread(_remove_pack, mtimes)
    return removed


def wants_packing(path: Path) -> bool:
    """Whether a repository is in many pieces, or has some that nothing needed at the last pass."""
    packs = list(path.glob("objects/pack/*.pack"))
    cruft = any(path.glob("objects/pack/*.mtimes"))
    # As git does: one directory of 256 tells how many there are.
    loose = 256 * sum(1 for _ in path.glob("objects/17/*"))
    return cruft or len(packs) > PACKS_MAX or loose > LOOSE_MAX


async def _refs(repositories: git.Repositories, path: Path) -> dict[bytes, str]:
    printed = await repositories.run(path, "for-each-ref", "--format=%(objectname) %(refname)")
    pairs = (line.split(b" ", 1) for line in printed.splitlines())
    return {ref: name.decode() for name, ref in pairs}


async def _useless(
    repositories: git.Repositories, path: Path, tags: dict[bytes, str], stay: list[str]
) -> list[bytes]:
    """The tags of commits that none of `stay` has in its history, and of what is no commit."""
    if not tags:
        return []
    asked = "".join(f"{name}^{{commit}}\n" for name in tags.values())
    printed = await repositories.run(path, "cat-file", "--batch-check=%(objectname)", given=asked.encode())
    commits = dict(zip(tags, (line.decode() for line in printed.splitlines()), strict=True))
    missing = {ref for ref, name in commits.items() if " " in name}
    tagged = {name for ref, name in commits.items() if ref not in missing}
    given = "".join([*(f"{name}\n" for name in tagged), *(f"^{name}\n" for name in stay)])
    printed = await repositories.run(
        path, "rev-list", "--stdin", given=given.encode(), seconds=WALK_SECONDS_MAX
    )
    apart = set(printed.decode().split())
    return [ref for ref, name in commits.items() if ref in missing or name in apart]


def _holds_any(index: Path, names: set[str]) -> bool:
    return any(git.in_index(index, bytes.fromhex(name)) for name in names)


def _remove_pack(mtimes: Path) -> int:
    """Remove a pack, its index first: without that git does not see it. The mark of a cruft pack goes last, so that a
    pass that is killed in here is gone on with.
    """
    removed = 0
    for suffix in (".idx", ".rev", ".bitmap", ".pack", ".mtimes"):
        path = mtimes.with_suffix(suffix)
        with contextlib.suppress(FileNotFoundError):
            removed += path.stat().st_size
            path.unlink()
    return removed
