"""What a request becomes: the interpreter it is for, and exact versions with hashes (shell)."""

import asyncio
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from spell_builder import keys, pins
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_builder.keys import Interpreter
from spell_builder.pythons import Pythons
from spell_builder.uv import Say, Uv
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


class Resolver:
    """Requests to recipes."""

    def __init__(self, uv: Uv, pythons: Pythons, index_hosts: str) -> None:
        self._uv = uv
        self._pythons = pythons
        self._hosts = frozenset(host for host in index_hosts.lower().replace(",", " ").split() if host)
        self._free = asyncio.Semaphore(RESOLVES_MAX)

    async def check(self, request: EnvironmentRequest) -> None:
        """Refuse at once what this machine cannot or may not do.

        Raises:
            InvalidError: which part, and what there is.
        """
        for parsed in request.parsed():
            for index in parsed.indexes:
                self._check_index(index)
        await self._pythons.named(request.python)

    async def python(self, request: EnvironmentRequest) -> str:
        """The Python that a request would get."""
        return (await self._pythons.named(request.python)).version

    def _check_index(self, index: Index) -> None:
        if index.host not in self._hosts:
            allowed = ", ".join(sorted(self._hosts)) or "none"
            raise InvalidError(
                "pip_index_not_allowed",
                f"--pip-req: {pins.where(index.origin)}: {index.option}: the host {shown(index.host)} is not on the "
                f"operator's list (SPELL_INDEX_HOSTS); allowed: {allowed}",
                field="environment.requirements",
                hint="Without the line, packages come from the index that the operator has set.",
            )

    async def recipe(self, request: EnvironmentRequest, say: Say) -> Recipe:
        """Resolve a request.

        Raises:
            BuildFailedError: it cannot be fulfilled.
        """
        try:
            await self.check(request)
            interpreter = await self._pythons.named(request.python)
        except InvalidError as error:
            raise BuildFailedError(error.message) from error
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
