"""The interpreters that are on this machine: which there are, and which one a version means (shell)."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import orjson
from packaging.specifiers import SpecifierSet

from spell_builder.errors import BuildFailedError
from spell_builder.keys import Interpreter
from spell_builder.uv import Uv
from spell_proto import logs
from spell_proto.errors import InvalidError

log = logs.get()

#: How long a list is believed, when it does not hold what is asked for, before the machine is looked at again.
LOOK_AGAIN_SECONDS = 5.0
ANSWER_SECONDS_MAX = 20.0
_ASKED_AT_ONCE = 4
#: What the content of an environment depends on; see `keys.Interpreter`. A wrapper answers for what it starts.
ABOUT = (
    "import json, os, platform, sys, sysconfig; "
    "print(json.dumps([os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable), "
    "platform.python_implementation() + ' ' + platform.python_version() + getattr(sys, 'abiflags', ''), "
    "sysconfig.get_platform(), ' '.join(platform.libc_ver())]))"
)


class Pythons:
    """All interpreters, the one that environments have by default first."""

    def __init__(self, uv: Uv) -> None:
        self._uv = uv
        self._found: list[Interpreter] = [uv.interpreter]
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()

    async def named(self, version: str | None) -> Interpreter:
        """The interpreter of a version as it was asked for (`3.12`): the default one where it fits, else the newest.

        Raises:
            InvalidError: there is none; the sentence names those that there are.
        """
        if version is None:
            return self._uv.interpreter
        found = _fitting(version, self._found)
        if found is None:
            await self._look()
            found = _fitting(version, self._found)
        if found is None:
            raise InvalidError(
                "python_unknown",
                f"--python: there is no Python {version} on this machine. There is: {self._listed()}",
                field="environment.python",
            )
        return found

    async def within(self, versions: str) -> Interpreter:
        """The default interpreter where its version is in a range, else the newest one that is.

        Raises:
            InvalidError: there is none; the sentence names those that there are.
        """
        allowed = SpecifierSet(versions)
        for look in (False, True):
            if look:
                await self._look()
            for each in self._found:
                if allowed.contains(_number(each), prereleases=True):
                    return each
        raise InvalidError(
            "python_unknown",
            f"it needs Python {versions}, and there is none on this machine. There is: {self._listed()}",
            field="environment.python",
        )

    def _listed(self) -> str:
        return ", ".join(dict.fromkeys(_version(each) for each in sorted(self._found, key=_order)))

    async def there(self, interpreter: Interpreter) -> bool:
        """Whether an interpreter is still what it was when an environment was made for it."""
        if interpreter in self._found:
            return True
        await self._look()
        return interpreter in self._found

    async def _look(self) -> None:
        async with self._looking:
            if self._looked_at is not None and time.monotonic() - self._looked_at < LOOK_AGAIN_SECONDS:
                return
            paths = {os.path.realpath(path) for path in await self._paths()}
            free = asyncio.Semaphore(_ASKED_AT_ONCE)
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(_about(path, free)) for path in sorted(paths)]
            found = {each for task in asked if (each := task.result()) is not None}
            default = self._uv.interpreter
            self._found = [default, *sorted(found - {default}, key=_order, reverse=True)]
            self._looked_at = time.monotonic()

    async def _paths(self) -> Iterable[str]:
        """Those that uv finds, and those of pyenv: on PATH it has only shims, which start any of them."""
        try:
            listed = orjson.loads(await self._uv.pythons())
        except (BuildFailedError, orjson.JSONDecodeError) as error:
            log.warning("uv cannot list the interpreters", problem=str(error))
            listed = []
        paths = [str(item["path"]) for item in listed if item.get("path")]
        paths += [str(path) for path in self._uv.pyenv.glob("versions/*/bin/python3")]
        return [path for path in paths if Path(path).parent.name != "shims"]


async def _about(path: str, free: asyncio.Semaphore) -> Interpreter | None:
    async with free:
        try:
            process = await asyncio.create_subprocess_exec(
                *(path, "-I", "-c", ABOUT),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                cwd="/",
            )
        except OSError:
            return None
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                out, _ = await process.communicate()
            return Interpreter(*map(str, orjson.loads(out)))
        except (TimeoutError, orjson.JSONDecodeError, TypeError):
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _version(interpreter: Interpreter) -> str:
    """`3.12.1`, of `CPython 3.12.1`."""
    return interpreter.version.partition(" ")[2] or interpreter.version


def _number(interpreter: Interpreter) -> str:
    """`3.13.0`, of `CPython 3.13.0rc1t`."""
    found = re.match(r"[0-9.]*[0-9]", _version(interpreter))
    return found[0] if found else "0"


def _order(interpreter: Interpreter) -> tuple[list[int], str]:
    digits = "".join(each if each.isdigit() else " " for each in _version(interpreter))
    return [int(each) for each in digits.split()], interpreter.path


def _fitting(version: str, found: list[Interpreter]) -> Interpreter | None:
    return next((each for each in found if f"{_version(each)}.".startswith(f"{version}.")), None)
