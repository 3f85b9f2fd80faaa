"""Checks that an environment key stands for one content, for ever (I17): the builder's part of `spell verify`."""

import asyncio
import random

from spell_builder import contents
from spell_builder.directories import Directories
from spell_builder.requests import Requests
from spell_proto.views import Check, Verdict

#: Of all environments together, one call reads so much content, and looks at so many files: some seconds at most.
BYTES_MAX = 64 * 1024 * 1024
FILES_MAX = 200_000
_NAMED_MAX = 5
_KEY_SHOWN = 12


async def verdict(requests: Requests, directories: Directories, key: str | None) -> Verdict:
    """Check one environment, or all.

    Always: each key has had one content, and the list in each directory is the one that was recorded. Within the
    limits: that the files are those of the list, by name, kind and size, and the content of some of them, others
    each time. Byte code is not looked at.
    """
    recorded = await requests.contents(key)
    problems = [
        f"environment {name[:_KEY_SHOWN]} was built with {len(digests)} different contents"
        for name, digests in recorded.items()
        if len(digests) > 1
    ]
    problems += await asyncio.to_thread(_on_disk, directories, recorded, key)
    more = len(problems) - _NAMED_MAX
    check = Check(
        id="I17",
        title="An environment key stands for one content, and that is on disk",
        ok=not problems,
        checked=len(recorded),
        detail=_told("; ".join(problems[:_NAMED_MAX]) + (f"; and {more} more" if more > 0 else "")),
    )
    return Verdict(checks=(check,))


def _told(detail: str) -> str:
    """Without what no JSON can hold: the path of a file need be no text."""
    return detail.encode(errors="backslashreplace").decode()


def _on_disk(directories: Directories, recorded: dict[str, list[str]], key: str | None) -> list[str]:
    """The environments in another order each time, so that the limits hide none of them for long."""
    problems = []
    bytes_left, files_left = BYTES_MAX, FILES_MAX
    there = [name for name in directories.all_complete() if key in {None, name}]
    for name in random.sample(there, len(there)):
        listed = directories.listed(name)
        if listed is None:
            continue
        wrong: list[str] = []
        if contents.digest(listed) not in recorded.get(name, []):
            wrong = ["its content was never recorded"]
        elif files_left > 0:
            files_left -= listed.count(b"\n")
            wrong, read = _differences(directories, name, listed, bytes_left)
            bytes_left -= read
        # One that was removed meanwhile is not wrong, it is gone.
        if directories.complete(name):
            problems += [f"environment {name[:_KEY_SHOWN]}: {problem}" for problem in wrong]
    return problems


def _differences(directories: Directories, key: str, listed: bytes, bytes_max: int) -> tuple[list[str], int]:
    try:
        return contents.differences(str(directories.path(key)), listed, bytes_max)
    except (OSError, ValueError, TypeError) as error:
        return [f"it cannot be read: {error}"], 0
