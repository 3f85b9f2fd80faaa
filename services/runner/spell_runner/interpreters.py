"""Whether an environment from another machine finds the Python here that it was built for (shell)."""

import asyncio
import contextlib
import os
from pathlib import Path

import orjson

from spell_proto.environments import Python
from spell_proto.state import Reason
from spell_runner.errors import AttemptError

ANSWER_SECONDS_MAX = 20.0
#: What the builder asks of one, too; see `Python`.
_ABOUT = (
    "import json, platform, sys, sysconfig; "
    "print(json.dumps([platform.python_implementation() + ' ' + platform.python_version() + getattr(sys, 'abiflags', ''), "
    "sysconfig.get_platform(), ' '.join(platform.libc_ver())]))"
)


class Interpreters:
    """Asks each interpreter once, for as long as its file stays the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], Python | None] = {}

    async def check(self, wanted: Python | None) -> None:
        """See that the interpreter is there, where one is needed.

        Raises:
            AttemptError: it is not, or is another one than it must be.
        """
        if wanted is None:
            return
        found = await self._found(wanted.path)
        if found is None or (found.version, found.platform) != (wanted.version, wanted.platform):
            there = "is not there" if found is None else f"is {found.version} ({found.platform})"
            raise AttemptError(
                Reason.BUILD_FAILED,
                f"the environment was built for {wanted.version} ({wanted.platform}) in {wanted.path}, which {there} "
                "on this machine",
            )
        if not _new_enough(found.libc, wanted.libc):
            raise AttemptError(
                Reason.BUILD_FAILED,
                f"the environment was built with {wanted.libc}, and this machine has {found.libc or 'another C library'}",
            )

    async def _found(self, path: str) -> Python | None:
        try:
            shape = os.stat(path)  # noqa: PTH116 -- on the way to a start
        except OSError:
            return None
        known = path, shape.st_ino, shape.st_mtime_ns
        if known not in self._known:
            self._known[known] = await _asked(path)
        return self._known[known]


async def _asked(path: str) -> Python | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *(path, "-I", "-c", _ABOUT),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            cwd=Path("/"),
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            out, _ = await process.communicate()
        version, platform, libc = map(str, orjson.loads(out))
    except (TimeoutError, ValueError):
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return Python(path=path, version=version, platform=platform, libc=libc)


def _new_enough(found: str, wanted: str) -> bool:
    """Whether what was built with one C library (`glibc 2.36`) runs with another."""
    if found == wanted:
        return True
    (name, _, here), (wanted_name, _, there) = found.partition(" "), wanted.partition(" ")
    try:
        return name == wanted_name and _numbers(here) >= _numbers(there)
    except ValueError:
        return False


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
