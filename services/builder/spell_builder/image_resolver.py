"""What a request becomes on a base image: its Python, exact system packages, and what goes on top of them (shell)."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from packaging.specifiers import SpecifierSet

from spell_builder import apt, image_layers, layers
from spell_builder.commands import Done, Say
from spell_builder.contained import Room, Where, contained
from spell_builder.docker import CACHE, LISTS, Docker, Work
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_builder.frameworks import Expanded
from spell_builder.keys import Interpreter
from spell_builder.patience import patiently
from spell_builder.pythons import Pythons
from spell_builder.resolver import Below, Means, Recipe, Resolver
from spell_builder.uv import Uv
from spell_proto.apt import parse
from spell_proto.environments import CheckView
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest

RESOLVE_SECONDS_MAX = 900.0
#: How long the lists of an index count as those of now.
FRESH_MINUTES = 60

#: Gives what every environment stands on: of a version of Python, or of the default one.
Foundation = Callable[[str | None, Say], Awaitable[Recipe]]


class ImageResolver(Resolver):
    """Requests to recipes of images."""

    installs_system_packages = True

    def __init__(self, means: Means, docker: Docker, room: Room, default_framework: str) -> None:
        """`default_framework` is for requests that name none; empty for none."""
        super().__init__(means)
        self.default_framework = default_framework
        self._docker = docker
        self._room = room

    async def check(self, request: EnvironmentRequest) -> CheckView:
        problem = await self._docker.problem()
        if problem is not None:
            raise InvalidError(
                "environment_unsupported",
                f"--apt: system packages need Docker, and {problem}",
                field="environment.apt",
                hint="Install Docker where the server runs and start it, or name its socket: SPELL_DOCKER_SOCKET.",
            )
        return await super().check(request)

    def framework(self, request: EnvironmentRequest) -> Expanded | None:
        return super().framework(self._whole(request))

    def _whole(self, request: EnvironmentRequest) -> EnvironmentRequest:
        """The request with the framework that everybody gets who does not say what an environment stands on."""
        if request.framework is not None or request.conda is not None or not self.default_framework:
            return request
        return request.model_copy(update={"framework": self.default_framework})

    async def _interpreter(self, request: EnvironmentRequest, framework: Expanded | None) -> Interpreter:
        """Which Python there is, the image has to tell."""
        del request, framework
        return self._uv.interpreter

    async def there(self, interpreter: Interpreter) -> bool:
        """What was made from an image can be made again from it."""
        return bool(interpreter.base)

    async def python(self, request: EnvironmentRequest) -> str:
        if request.conda is not None:
            return "the one of the conda file"
        return f"Python {request.python}" if request.python is not None else "the one of the image"

    async def with_system(
        self, foundation: Recipe, asked: Sequence[str], say: Say, below: Below, *, latest: bool
    ) -> Recipe:
        """A foundation with system packages.

        Raises:
            BuildFailedError: there is no such package or version, or they do not go together.
        """
        image = str(await below(foundation))
        base = foundation.interpreter.base
        found = await self.system(image, base, asked, say, fresh_minutes=0 if latest else FRESH_MINUTES)
        resolved = layers.with_apt(layers.base_part(foundation.resolved), found, "")
        return Recipe(foundation.interpreter, resolved)

    async def on(self, under: Recipe, request: EnvironmentRequest, say: Say, below: Below) -> Recipe:
        """Resolve what goes on top of system packages. These are made first, where something is resolved against them.

        Raises:
            BuildFailedError: it cannot be fulfilled.
        """
        base, system = layers.base_part(under.resolved), layers.apt_part(under.resolved)
        where = Where("")

        async def below_conda(recipe: Recipe) -> Path:
            full = Recipe(recipe.interpreter, layers.with_apt(base, system, recipe.resolved))
            where.image = str(await below(full))
            return Path(image_layers.CONDA)

        rest = self._whole(request).model_copy(update={"apt": ()})
        if request.conda is None:
            # Packages that are compiled may need what was just asked for.
            where.image = str(await below(under))
        uv, python = self._uv, under.interpreter
        resolver = _Within(
            replace(
                self.means,
                uv=contained(uv, python, self._docker, self._room, where),
                conda=self._conda.within(image_layers.CONDA, python),
                pythons=_OnePython(uv, python),
            )
        )
        found = await resolver.recipe(rest, say, below_conda)
        return Recipe(found.interpreter, layers.with_apt(base, system, found.resolved))

    # ---- apt -------------------------------------------------------------------------------------------------

    async def system(
        self, image: str, base: str, asked: Sequence[str], say: Say, *, fresh_minutes: int = FRESH_MINUTES
    ) -> tuple[apt.Exact, ...]:
        """The exact system packages that an image would get.

        Raises:
            BuildFailedError: there is no such package or version, or they do not go together.
        """
        wanted = [parse(each) for each in asked]
        names = [each.name for each in wanted]
        script = apt.begin(self.variables(base), fresh_minutes=fresh_minutes) + apt.look(names)
        plain = all(each.operator in {"", "=="} for each in wanted)
        if plain:
            # Nothing has to be chosen, so one container is enough.
            pinned = [f"{each.name}={each.version}" if each.operator else each.name for each in wanted]
            script += apt.plan(sorted(set(pinned)))
        looked = await self._apt(image, script, say)
        found = apt.sections(looked.out)
        words = apt.words(wanted, found.get("policy", ""), found.get("names", ""))
        if looked.code:
            raise apt.failure(looked.errors)
        if not plain:
            again = apt.begin(self.variables(base), fresh_minutes=FRESH_MINUTES) + apt.plan(words)
            planned = await self._apt(image, again, say)
            if planned.code:
                raise apt.failure(planned.errors)
            found = apt.sections(planned.out)
        return apt.packages(found.get("plan", ""), found.get("records", ""))

    def variables(self, base: str) -> dict[str, str]:
        """For apt in a container. Images have different sources, so each base has lists of its own."""
        lists = f"{CACHE}/apt-lists/{hashlib.sha256(base.encode()).hexdigest()[:16]}"
        return self._room.variables | {apt.LISTS: lists}

    async def _apt(self, image: str, script: str, say: Say) -> Done:
        """Let a script of apt's run in an image, again while the network is in trouble."""
        whole = image_layers.begin(self._room.variables) + script
        work = Work(image, whole, RESOLVE_SECONDS_MAX, self._room.files, self._room.tools, cache=LISTS)

        async def ask() -> Done:
            try:
                done = await self._docker.run(work, say)
            except TimeoutError:
                minutes = work.seconds / 60
                raise BuildFailedError(f"apt: there was no end within {minutes:.0f} minutes") from None
            if done.code and isinstance(failure := apt.failure(done.errors), IndexUnreachableError):
                raise failure
            return done

        return await patiently(ask, say)


class _Within(Resolver):
    """For what goes on top of system packages, which are seen to already."""

    installs_system_packages = True


class _OnePython(Pythons):
    """The Python of an image, whatever is asked for: whoever chose the image has seen to that."""

    def __init__(self, uv: Uv, interpreter: Interpreter) -> None:
        super().__init__(uv)
        self._one = interpreter

    async def named(self, version: str | None) -> Interpreter:
        del version
        return self._one

    async def within(self, versions: str) -> Interpreter:
        version = self._one.version.partition(" ")[2]
        if not SpecifierSet(versions).contains(version, prereleases=True):
            raise InvalidError(
                "python_unknown",
                f"it needs Python {versions}, and the base image has {version}",
                field="environment.python",
            )
        return self._one
