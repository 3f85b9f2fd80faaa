"""What a request becomes: the interpreter it is for, and exact versions with hashes (shell)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from spell_builder import keys, layers, pins
from spell_builder.commands import Say
from spell_builder.conda import Conda
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_builder.flight import GivenUpError
from spell_builder.keys import Interpreter
from spell_builder.pythons import Pythons
from spell_builder.uv import Uv
from spell_proto.conda import CondaFile
from spell_proto.errors import InvalidError, shown
from spell_proto.requirements import Index, Parsed
from spell_proto.spec import EnvironmentRequest

#: Resolving is mostly waiting for the index.
RESOLVES_MAX = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that an environment is made from. Equal recipes have equal keys."""

    interpreter: Interpreter
    resolved: str = ""

    @property
    def key(self) -> str:
        return keys.environment_key(self.interpreter, self.resolved)


#: Gives the directory of an environment that is below another.
Below = Callable[[Recipe], Awaitable[Path]]


class Resolver:
    """Requests to recipes."""

    def __init__(self, uv: Uv, conda: Conda, pythons: Pythons, index_hosts: str) -> None:
        self._uv = uv
        self._conda = conda
        self._pythons = pythons
        self._hosts = frozenset(host for host in index_hosts.lower().replace(",", " ").split() if host)
        self._free = asyncio.Semaphore(RESOLVES_MAX)

    async def check(self, request: EnvironmentRequest) -> None:
        """Refuse at once what this machine cannot or may not do.

        Raises:
            InvalidError: which part, and what there is.
        """
        for flag, given in (("--apt", request.apt), ("--framework", request.framework)):
            if given:
                raise InvalidError(
                    "environment_unsupported",
                    f"{flag}: this server cannot make environments with it yet; an image that has what is needed can "
                    "be named with --docker-image",
                    field=f"environment.{flag[2:]}",
                )
        for parsed in request.parsed():
            for index in parsed.indexes:
                self._check_index(index, "--pip-req")
        file = request.conda_file()
        if file is not None:
            self._conda.channels.of(file)
            for index in file.pip.indexes:
                self._check_index(index, "--conda-file")
        await self._pythons.named(request.python)

    async def there(self, interpreter: Interpreter) -> bool:
        """Whether what was made for an interpreter can still be used."""
        return self._conda.there(interpreter) or await self._pythons.there(interpreter)

    async def python(self, request: EnvironmentRequest) -> str:
        """The Python that a request would get, as far as it is known before."""
        if request.conda is not None:
            return "the one of the conda file"
        return (await self._pythons.named(request.python)).version

    def _check_index(self, index: Index, flag: str) -> None:
        if index.host not in self._hosts:
            allowed = ", ".join(sorted(self._hosts)) or "none"
            raise InvalidError(
                "pip_index_not_allowed",
                f"{flag}: {pins.where(index.origin)}: {index.option}: the host {shown(index.host)} is not on the "
                f"operator's list (SPELL_INDEX_HOSTS); allowed: {allowed}",
                field="environment.requirements",
                hint="Without the line, packages come from the index that the operator has set.",
            )

    async def recipe(self, request: EnvironmentRequest, say: Say, below: Below) -> Recipe:
        """Resolve a request. What pip installs over conda packages is resolved against these, so they are made first.

        Raises:
            BuildFailedError: it cannot be fulfilled.
        """
        try:
            await self.check(request)
            interpreter = await self._pythons.named(request.python)
        except InvalidError as error:
            raise BuildFailedError(error.message) from error
        file = request.conda_file()
        if file is not None:
            return await self._conda_recipe(file, say, below)
        if not request.pip and request.requirements is None:
            return Recipe(interpreter)
        wanted, constraints = request.parsed()
        lines, notes = keys.wanted((*request.pip, *(entry.requirement for entry in wanted.entries)))
        for note in notes:
            say(note, False)
        indexes = tuple(dict.fromkeys((*wanted.indexes, *constraints.indexes)))
        async with self._free:
            try:
                resolved = await self._uv.resolve(
                    interpreter,
                    lines,
                    [entry.requirement for entry in constraints.entries],
                    pins.without_indexes(pins.with_indexes(indexes, ""))[0],
                    say,
                )
            except BuildFailedError as error:
                raise _with_origin(error, wanted, constraints) from error
        hashed = wanted.hashed and not request.pip
        pinned = pins.held(resolved, (wanted, constraints), all_listed=hashed)
        return Recipe(interpreter, pins.with_indexes(indexes, pinned))

    async def _conda_recipe(self, file: CondaFile, say: Say, below: Below) -> Recipe:
        async with self._free:
            packages = await self._conda.solve(file, say)
        layer = Recipe(self._conda.interpreter(packages), packages)
        if not file.pip.entries:
            return layer
        python = await below(layer) / "bin" / "python"
        lines, notes = keys.wanted(tuple(entry.requirement for entry in file.pip.entries))
        for note in notes:
            say(note, False)
        indexes = pins.without_indexes(pins.with_indexes(file.pip.indexes, ""))[0]
        async with self._free:
            try:
                missing = await self._uv.missing(python, lines, indexes, say)
                interpreter = replace(layer.interpreter, path=str(python))
                found = (
                    await self._uv.resolve(interpreter, missing, (), indexes, say, alone=True)
                    if missing
                    else ""
                )
            except BuildFailedError as error:
                if not python.exists():
                    raise GivenUpError("the conda packages were removed while they were used") from error
                raise _with_origin(error, file.pip) from error
        pinned = pins.held(found, (file.pip,), all_listed=file.pip.hashed)
        pip = pins.with_indexes(file.pip.indexes, pinned)
        return Recipe(layer.interpreter, layers.with_pip(layer.resolved, pip if pinned else ""))


def _with_origin(error: BuildFailedError, *files: Parsed) -> BuildFailedError:
    """The error with the line of the file that named the package, where one did."""
    if error.package is None:
        return error
    name = canonicalize_name(error.package)
    for parsed in files:
        for entry in parsed.entries:
            if entry.name == name:
                kind = IndexUnreachableError if isinstance(error, IndexUnreachableError) else BuildFailedError
                return kind(f"{error} ({pins.where(entry.origin)})", entry.name)
    return error
