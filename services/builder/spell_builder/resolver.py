"""What a request becomes: the interpreter it is for, and exact versions with hashes (shell)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spell_builder import keys, layers, pins
from spell_builder.commands import Say
from spell_builder.conda import Conda
from spell_builder.errors import BuildFailedError
from spell_builder.flight import GivenUpError
from spell_builder.frameworks import Expanded, Frameworks
from spell_builder.keys import Interpreter
from spell_builder.pythons import Pythons
from spell_builder.sources import Sources
from spell_builder.uv import Uv
from spell_proto.conda import CondaFile
from spell_proto.environments import CheckView
from spell_proto.errors import InvalidError, UnavailableError
from spell_proto.requirements import Index, Parsed
from spell_proto.spec import EnvironmentRequest

#: Resolving is mostly waiting for the index.
RESOLVES_MAX = 8
#: For uv: take a package from whatever index, where hashes or whoever named the indexes vouch for it.
_ANYWHERE = ("--index-strategy", "unsafe-best-match")


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


@dataclass(frozen=True, slots=True)
class Means:
    """What requests are resolved with."""

    uv: Uv
    conda: Conda
    pythons: Pythons
    frameworks: Frameworks
    sources: Sources


class Resolver:
    """Requests to recipes."""

    installs_system_packages = False

    def __init__(self, means: Means) -> None:
        self.means = means
        self._uv = means.uv
        self._conda = means.conda
        self._pythons = means.pythons
        self._frameworks = means.frameworks
        self._sources = means.sources
        self._free = asyncio.Semaphore(RESOLVES_MAX)

    async def check(self, request: EnvironmentRequest) -> CheckView:
        """Refuse at once what this machine cannot or may not do.

        Raises:
            InvalidError: which part, and what there is.
        """
        if request.apt and not self.installs_system_packages:
            raise InvalidError(
                "environment_unsupported",
                "--apt: this server cannot make environments with it yet; an image that has what is needed can "
                "be named with --docker-image",
                field="environment.apt",
            )
        framework = self.framework(request)
        if framework is not None and framework.image:
            _nothing_beside(framework, request)
            return CheckView(image=framework.image)
        if framework is not None and framework.apt and not self.installs_system_packages:
            raise InvalidError(
                "environment_unsupported",
                f"--framework: {framework.name} needs system packages ({', '.join(framework.apt)}), which only the "
                "docker engine can install",
                field="environment.framework",
            )
        await self._sources.check(request)
        file = request.conda_file()
        if file is not None:
            self._conda.channels.of(file)
        await self._interpreter(request, framework)
        return CheckView()

    async def there(self, interpreter: Interpreter) -> bool:
        """Whether what was made for an interpreter can still be used."""
        return self._conda.there(interpreter) or await self._pythons.there(interpreter)

    async def python(self, request: EnvironmentRequest) -> str:
        """The Python that a request would get, as far as it is known before."""
        if request.conda is not None:
            return "the one of the conda file"
        return (await self._interpreter(request, self.framework(request))).version

    def framework(self, request: EnvironmentRequest) -> Expanded | None:
        """What the framework of a request asks for.

        Raises:
            InvalidError: there is none of that name.
        """
        if request.framework is None:
            return None
        return self._frameworks.expand(request.framework, request.accelerator)

    def stands(self, fingerprint: str) -> bool:
        """Whether a framework still is what it was when something was resolved with it."""
        return self._frameworks.stands(fingerprint)

    async def _interpreter(self, request: EnvironmentRequest, framework: Expanded | None) -> Interpreter:
        if request.python is not None or framework is None or not framework.python:
            return await self._pythons.named(request.python)
        try:
            return await self._pythons.within(framework.python)
        except InvalidError as error:
            error.message = f"--framework {framework.name}: {error.message}"
            raise

    async def recipe(self, request: EnvironmentRequest, say: Say, below: Below) -> Recipe:
        """Resolve a request. What pip installs over conda packages is resolved against these, so they are made first.

        Raises:
            BuildFailedError: it cannot be fulfilled.
        """
        try:
            image = (await self.check(request)).image
            framework = self.framework(request)
            if image is not None:
                raise BuildFailedError(
                    f"--framework {request.framework} is the image {image}, which is not built"
                )
            interpreter = await self._interpreter(request, framework)
        except InvalidError as error:
            raise BuildFailedError(error.message) from error
        except UnavailableError as error:
            raise GivenUpError(error.message) from error
        file = request.conda_file()
        if file is not None:
            return await self._conda_recipe(file, say, below)
        if not request.pip and request.requirements is None and framework is None:
            return Recipe(interpreter)
        return await self._pip_recipe(request, framework, interpreter, say)

    async def _pip_recipe(
        self, request: EnvironmentRequest, framework: Expanded | None, interpreter: Interpreter, say: Say
    ) -> Recipe:
        wanted, constraints = request.parsed()
        ours = () if framework is None else framework.pip
        lines, notes = keys.wanted((*ours, *request.pip, *(entry.requirement for entry in wanted.entries)))
        for note in (*notes, *(framework.notes if framework is not None else ())):
            say(note, False)
        named = tuple(dict.fromkeys((*wanted.indexes, *constraints.indexes)))
        limits = [entry.requirement for entry in constraints.entries]
        hashed = wanted.hashed and not request.pip and framework is None
        options = [*_options(named), *(_ANYWHERE if hashed else ())]
        async with self._free:
            try:
                found = await self._framework_indexes(interpreter, lines, limits, named, framework, say)
                resolved, indexes = found or (
                    await self._uv.resolve(interpreter, lines, limits, options, say),
                    named,
                )
            except BuildFailedError as error:
                raise _with_origin(error, framework, wanted, constraints) from error
        pinned = pins.held(resolved, (wanted, constraints), all_listed=hashed)
        return Recipe(interpreter, pins.with_indexes(indexes, pinned))

    async def _framework_indexes(
        self,
        interpreter: Interpreter,
        lines: list[str],
        limits: list[str],
        named: tuple[Index, ...],
        framework: Expanded | None,
        say: Say,
    ) -> tuple[str, tuple[Index, ...]] | None:
        """Exact versions with the indexes of a framework; None where it has none, or they cannot be reached: nobody has
        to be able to.
        """
        if framework is None or not framework.indexes:
            return None
        more = (Index("--extra-index-url", url, "frameworks") for url in framework.indexes)
        indexes = (*named, *more)
        # Whoever wrote the table trusts all of them: the newest version counts, wherever it is.
        options = [*_options(indexes), *_ANYWHERE]
        try:
            return await self._uv.resolve(interpreter, lines, limits, options, say, tries=1), indexes
        except BuildFailedError as error:
            unread = next((url for url in framework.indexes if urlsplit(url).netloc in str(error)), None)
            if unread is None:
                raise
            say(f"{unread} cannot be read; going on without it", False)
        return None

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
        indexes = _options(file.pip.indexes)
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
                if self._conda.gone(python):
                    raise GivenUpError("the conda packages were removed while they were used") from error
                raise _with_origin(error, None, file.pip) from error
        pinned = pins.held(found, (file.pip,), all_listed=file.pip.hashed)
        pip = pins.with_indexes(file.pip.indexes, pinned)
        return Recipe(layer.interpreter, layers.with_pip(layer.resolved, pip if pinned else ""))


def _options(indexes: Sequence[Index]) -> list[str]:
    """The indexes as uv takes them."""
    return pins.without_indexes(pins.with_indexes(indexes, ""))[0]


def _nothing_beside(framework: Expanded, request: EnvironmentRequest) -> None:
    """An image is the whole environment of its run."""
    given = {
        "--apt": request.apt,
        "--pip": request.pip,
        "--pip-req": request.requirements is not None or request.constraints is not None,
        "--python": request.python is not None,
    }
    beside = [flag for flag, value in given.items() if value]
    if beside:
        raise InvalidError(
            "flags_conflict",
            f"--framework: {framework.name} is an image with everything in it, so {' and '.join(beside)} cannot be "
            "specified with it",
            field="environment.framework",
        )


def _with_origin(error: BuildFailedError, framework: Expanded | None, *files: Parsed) -> BuildFailedError:
    """The error with the framework or the line of the file that named the package, where one did."""
    if error.package is None:
        return error
    name = canonicalize_name(error.package)
    if framework is not None and name in {
        canonicalize_name(Requirement(each).name) for each in framework.pip
    }:
        return type(error)(f"{error} (--framework {framework.name})", error.package)
    for parsed in files:
        for entry in parsed.entries:
            if entry.name == name:
                return type(error)(f"{error} ({pins.where(entry.origin)})", entry.name)
    return error
