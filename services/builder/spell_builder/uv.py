"""uv as a subprocess: resolve, make an environment, install; its lines are passed on as they come (shell)."""

import contextlib
import os
import platform
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from spell_builder import commands, complaints, pins
from spell_builder.brought import Brought
from spell_builder.commands import Say
from spell_builder.errors import BuildFailedError, MissingUvError
from spell_builder.keys import Interpreter
from spell_builder.patience import TRIES, patiently
from spell_builder.repositories import Repositories

RESOLVE_SECONDS_MAX = 600.0
INSTALL_SECONDS_MAX = 3600.0
COMPILE_SECONDS_MAX = 600.0
VENV_SECONDS_MAX = 60.0
LIST_SECONDS_MAX = 60.0
#: A line of what uv would do.
_ADDED = re.compile(
    r" \+ (?P<name>[^\s=]+)(?:==(?P<version>\S+)(?: \(from (?P<built>\S+)\))?| @ (?P<url>\S+))"
)

_PASSED = frozenset(
    {"PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "NETRC"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}
    | {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}
)
#: These would send the work to another interpreter or another place than the one it is meant for.
_NOT_PASSED = frozenset(
    {"UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_BREAK_SYSTEM_PACKAGES", "UV_PROJECT_ENVIRONMENT"}
)


def base_interpreter() -> Interpreter:
    """The real interpreter under ours: never a virtual environment, never a shim."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return Interpreter(
        path=os.path.realpath(base),
        version=f"{platform.python_implementation()} {platform.python_version()}{sys.abiflags}",
        platform=sysconfig.get_platform(),
        libc=" ".join(platform.libc_ver()),
    )


def scrubbed(environ: Mapping[str, str], data: Path) -> dict[str, str]:
    """What uv gets to see: where the index is and how to reach it; no secrets of the service, no user's home."""
    passed = {
        name: value
        for name, value in environ.items()
        if name in _PASSED or (name.startswith("UV_") and name not in _NOT_PASSED)
    }
    if "PIP_INDEX_URL" in environ and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & passed.keys():
        passed["UV_DEFAULT_INDEX"] = environ["PIP_INDEX_URL"]
    # We try again ourselves, and say so.
    passed.setdefault("UV_HTTP_RETRIES", "1")
    ours = {"HOME": str(data / "home"), "LC_ALL": "C.UTF-8", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
    # Its own: what is in it goes when it is above its limit.
    ours["UV_CACHE_DIR"] = str(data / "uv-cache")
    # A package has no say in where another one comes from, as pip has it.
    ours["UV_NO_SOURCES"] = "1"
    return passed | ours | Brought().variables()


@dataclass(frozen=True, slots=True)
class Uv:
    """The program, the interpreter it works for, and its environment."""

    program: str
    interpreter: Interpreter
    environment: Mapping[str, str]
    home: Path
    pyenv: Path
    repositories: Repositories

    async def resolve(
        self,
        interpreter: Interpreter,
        requirements: Sequence[str],
        constraints: Sequence[str],
        indexes: Sequence[str],
        say: Say,
        *,
        alone: bool = False,
        tries: int = TRIES,
    ) -> str:
        """Exact versions with hashes for what was asked. `indexes` are options that name them. With `alone`, what
        the packages need is left out.

        Raises:
            BuildFailedError: there is no solution, or a package cannot be read.
            IndexUnreachableError: the index does not answer, also after `tries`.
        """
        words = ["pip", "compile", "-", "--generate-hashes", "--no-header", "--no-annotate"]
        words += ["--no-emit-index-url", "--python", interpreter.path, *indexes]
        words += ["--no-deps"] if alone else []

        async def work(lines: Sequence[str], variables: Mapping[str, str]) -> str:
            text, limits = _text(lines[: len(requirements)]), _text(lines[len(requirements) :])
            # In memory: whatever happens, nothing of it is left anywhere.
            with os.fdopen(os.memfd_create("constraints"), "w") as file:
                file.write(limits)
                file.flush()
                held = file.fileno()
                more = ["-c", f"/proc/self/fd/{held}"] if limits else []
                return await self._patiently(
                    [*words, *more],
                    RESOLVE_SECONDS_MAX,
                    say,
                    stdin=text,
                    keep=held,
                    tries=tries,
                    variables=variables,
                )

        resolved = await self.repositories.over([*requirements, *constraints], say, work)
        pins.only_allowed(resolved)
        return resolved

    async def missing(
        self, python: Path, requirements: Sequence[str], indexes: Sequence[str], say: Say
    ) -> list[str]:
        """What would have to be installed besides what is there: exact versions. Nothing is installed.

        Raises:
            BuildFailedError: there is no solution, or a package cannot be read.
        """
        found: list[str] = []

        def hear(line: str, failing: bool) -> None:
            change = _ADDED.fullmatch(line)
            if change is not None:
                url = change["url"] or change["built"]
                exact = f" @ {url}" if url else f"=={change['version']}"
                found.append(f"{change['name']}{exact}")
            elif failing:
                say(line, failing)

        words = ["pip", "install", "--dry-run", "--break-system-packages", "--python", str(python)]

        async def work(lines: Sequence[str], variables: Mapping[str, str]) -> None:
            found.clear()
            await self._patiently(
                [*words, *indexes, "-r", "-"],
                RESOLVE_SECONDS_MAX,
                hear,
                stdin=_text(lines),
                variables=variables,
            )

        await self.repositories.over(requirements, say, work)
        return sorted(set(found))

    async def pythons(self) -> str:
        """What uv knows of the interpreters that are installed, as JSON. Nothing is downloaded."""
        words = [self.program, "python", "list", "--only-installed", "--offline", "--output-format", "json"]
        # Its own interpreters lie in a user's home.
        environment = dict(self.environment) | {"HOME": str(self.home)}
        return await self._run(words, LIST_SECONDS_MAX, commands.unsaid, environment=environment)

    async def cache(self, *words: str, say: Say) -> None:
        """Have uv remove something of its cache. It waits until nobody uses that.

        Raises:
            BuildFailedError: it could not.
        """
        await self._run([self.program, "cache", *words], INSTALL_SECONDS_MAX, say)

    async def make(self, directory: Path, interpreter: Interpreter, say: Say, keep: int) -> None:
        """A bare environment that can be moved. `keep` is a descriptor the process holds open while it lives."""
        words = ["venv", "--quiet", "--relocatable", "--no-project", "--python", interpreter.path]
        await self._run([self.program, *words, str(directory)], VENV_SECONDS_MAX, say, keep=keep)

    async def install(
        self, directory: Path, pinned: Path, indexes: Sequence[str], say: Say, keep: int
    ) -> None:
        """Install what `pinned` holds, each file checked against its hash and each repository at its commit, copied so
        that no run reaches the cache.
        """
        hashed, repositories = pins.apart(pinned.read_text())
        words = installing(str(directory / "bin" / "python"), indexes)
        if hashed:
            pinned.write_text(hashed)
            strictly = [*words, "--require-hashes", "-r", str(pinned)]
            await self._patiently(strictly, INSTALL_SECONDS_MAX, say, keep=keep)

        async def work(lines: Sequence[str], variables: Mapping[str, str]) -> None:
            await self._patiently(
                [*words, "-r", "-"],
                INSTALL_SECONDS_MAX,
                say,
                stdin=_text(lines),
                keep=keep,
                variables=variables,
            )

        if repositories:
            await self.repositories.over(repositories, say, work)

    async def compile(self, directory: Path, say: Say, keep: int) -> None:
        """Compile byte code now: a run sees the environment read-only and could never keep what it compiles.

        The tests that packages carry are half of the work, and hardly ever imported.
        """
        words = [
            "-I",
            "-m",
            "compileall",
            "-qq",
            "-j",
            "0",
            "-x",
            r"[/\\]tests?[/\\]",
            str(directory / "lib"),
        ]
        begun = time.monotonic()
        # Files for other versions of Python do not compile, and that is fine.
        with contextlib.suppress(BuildFailedError):
            await self._run([str(directory / "bin" / "python"), *words], COMPILE_SECONDS_MAX, say, keep=keep)
            say(f"Compiled byte code in {time.monotonic() - begun:.1f} s", False)

    async def _patiently(
        self,
        words: Sequence[str],
        seconds: float,
        say: Say,
        *,
        stdin: str = "",
        keep: int | None = None,
        tries: int = TRIES,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        environment = {**self.environment, **(variables or {})}

        async def ask() -> str:
            return await self._run(
                [self.program, *words], seconds, say, stdin=stdin, keep=keep, environment=environment
            )

        return await patiently(ask, say, tries)

    async def _run(
        self,
        words: Sequence[str],
        seconds: float,
        say: Say,
        *,
        stdin: str = "",
        keep: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        try:
            done = await commands.run(
                words, seconds, say, stdin=stdin, keep=keep, environment=environment or self.environment
            )
        except TimeoutError:
            raise BuildFailedError(
                f"pip: uv did not come to an end within {seconds / 60:.0f} minutes"
            ) from None
        if done.code != 0:
            raise complaints.failure(done.errors)
        return done.out


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def installing(python: str, indexes: Sequence[str]) -> list[str]:
    """The words that install exactly what is named behind them."""
    # A Python of conda or of a system may say that it is not ours to install into.
    options = ["--no-deps", "--link-mode", "copy", "--break-system-packages", *indexes]
    # The hashes say which file it is, wherever it is from.
    options += ["--index-strategy", "unsafe-best-match"]
    return ["pip", "install", "--python", python, *options]


def locate(environ: Mapping[str, str], data: Path, repositories: Repositories) -> Uv:
    """The uv of our own installation, else one on PATH.

    Raises:
        MissingUvError: there is none.
    """
    try:
        program: str | None = str(find_uv_bin())
    except FileNotFoundError:
        program = shutil.which("uv")
    if program is None:
        raise MissingUvError("uv is missing: install spellrun[builder]")
    home = Path(environ.get("HOME", "/nonexistent"))
    pyenv = Path(environ.get("PYENV_ROOT", home / ".pyenv"))
    return Uv(program, base_interpreter(), scrubbed(environ, data), home, pyenv, repositories)
