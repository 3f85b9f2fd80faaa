"""conda layers: exact packages for what was asked, and their installation, by rattler in a process of its own (shell)."""

import copy
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from spell_builder import commands, layers, refusals
from spell_builder.channels import Channels
from spell_builder.commands import Say
from spell_builder.errors import BuildFailedError
from spell_builder.keys import Interpreter
from spell_builder.patience import patiently
from spell_proto.conda import CondaFile

SOLVE_SECONDS_MAX = 600.0
INSTALL_SECONDS_MAX = 3600.0
_HEAD_BYTES = 4096
_WORKER = ("-m", "spell_builder.rattling")


class Conda:
    """One for a builder. Packages have the path of their environment written into them, so it is part of its key."""

    def __init__(
        self, channels: Channels, environment: Mapping[str, str], cache: Path, environments: Path
    ) -> None:
        self.channels = channels
        self._environment = environment
        self._cache = cache
        self._environments = environments
        self._foundation: Interpreter | None = None

    def within(self, place: str, foundation: Interpreter) -> "Conda":
        """The same for packages that go to a place in an image, of which `foundation` is the Python."""
        other = copy.copy(self)
        other._environments, other._foundation = Path(place), foundation  # noqa: SLF001 -- another self
        return other

    def gone(self, path: Path) -> bool:
        """Whether an environment that was there is not any more; of one in an image this cannot be seen."""
        return self._foundation is None and not path.exists()

    async def solve(self, file: CondaFile, say: Say) -> str:
        """The exact packages of a file, as a text (see `layers`).

        Raises:
            BuildFailedError: there is no solution, or a channel cannot be read.
        """
        channels = self.channels.of(file)
        if file.exact:
            return layers.joined([package.text for package in file.exact])
        asked = {"channels": channels, "specs": self.channels.specs(file), "cache": str(self._cache)}
        answer = await self._patiently(asked, SOLVE_SECONDS_MAX, file, say)
        return layers.joined(answer["packages"])

    def interpreter(self, resolved: str) -> Interpreter:
        """The Python of a solution.

        Raises:
            BuildFailedError: it has none.
        """
        found = next((each for each in layers.conda_part(resolved) if each.name == "python"), None)
        if found is None:
            raise BuildFailedError("conda: there is no python among the exact packages of the file")
        libc = " ".join(platform.libc_ver())
        where, version = str(self._environments), f"CPython {unquote(found.version)}"
        if self._foundation is not None:
            return replace(self._foundation, path=where, version=version)
        return Interpreter(where, version, sysconfig.get_platform(), libc)

    def there(self, interpreter: Interpreter) -> bool:
        """Whether an environment that was made for this place is still where its packages think it is."""
        return interpreter.path == str(self._environments)

    async def install(self, new: Path, final: Path, resolved: str, say: Say, keep: int) -> None:
        """Install the packages of a solution in `new`, for being used as `final`."""
        packages = layers.conda_part(resolved)
        asked = {
            "packages": [
                {
                    "url": package.url,
                    "name": package.name,
                    "version": unquote(package.version),
                    "build": unquote(package.build),
                    "sha256": package.sha256,
                }
                for package in packages
            ],
            "prefix": str(new),
            "final": str(final),
            "cache": str(self._cache),
        }
        await self._patiently(asked, INSTALL_SECONDS_MAX, None, say, keep)
        say(f"Installed {len(packages)} conda packages", False)

    async def _patiently(
        self, asked: dict[str, Any], seconds: float, file: CondaFile | None, say: Say, keep: int | None = None
    ) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            return await self._ask(asked, seconds, file, say, keep)

        return await patiently(ask, say)

    async def _ask(
        self, asked: dict[str, Any], seconds: float, file: CondaFile | None, say: Say, keep: int | None
    ) -> dict[str, Any]:
        try:
            done = await commands.run(
                (sys.executable, *_WORKER),
                seconds,
                say,
                environment=self._environment,
                stdin=json.dumps(asked),
                keep=keep,
            )
        except TimeoutError:
            raise BuildFailedError(f"conda: there was no end within {seconds / 60:.0f} minutes") from None
        try:
            answer: dict[str, Any] = json.loads(done.out)
        except ValueError:
            last = (done.errors.strip().splitlines() or ["it gave no reason"])[-1]
            raise BuildFailedError(refusals.cut(f"conda: the work broke off: {last}")) from None
        if "failed" in answer:
            for line in answer["failed"].splitlines():
                say(refusals.hidden(line), True)
            raise refusals.failure(answer["failed"], answer["kind"], file)
        return answer


def settle(new: Path, final: Path) -> None:
    """Let programs that pip has installed in `new` find their interpreter in `final`."""
    before, after = os.fsencode(new), os.fsencode(final)
    for program in (new / "bin").iterdir():
        if program.is_symlink() or not program.is_file():
            continue
        with program.open("rb") as file:
            begins = file.read(_HEAD_BYTES)
        if begins.startswith(b"#!") and before in begins:
            head = program.read_bytes()
            mode = program.stat().st_mode
            program.write_bytes(head[:_HEAD_BYTES].replace(before, after) + head[_HEAD_BYTES:])
            program.chmod(mode)
