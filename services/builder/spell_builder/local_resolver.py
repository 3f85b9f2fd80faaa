"""What a request becomes on this machine: exact system packages for a layer over it, and what goes on top (shell)."""

from collections.abc import Iterable
from dataclasses import replace

from spell_builder import apt, layers
from spell_builder.commands import Say
from spell_builder.errors import BuildFailedError
from spell_builder.frameworks import Expanded
from spell_builder.keys import Interpreter
from spell_builder.overlaid import over
from spell_builder.resolver import Below, Means, Recipe, Resolver
from spell_builder.system import System
from spell_proto.environments import CheckView
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest

_NAMED_MAX = 5


class LocalResolver(Resolver):
    """See `Resolver`. `system` says what apt can do here."""

    installs_system_packages = True

    def __init__(self, means: Means, system: System) -> None:
        super().__init__(means)
        self.system = system

    async def check(self, request: EnvironmentRequest) -> CheckView:
        wanted = _wanted(request, self.framework(request))
        problem = await self.system.problem() if wanted else None
        if problem is not None:
            field = "apt" if request.apt else "framework"
            raise InvalidError(
                "environment_unsupported",
                f"--{field}: {', '.join(wanted[:_NAMED_MAX])}: system packages need Docker here, because {problem}",
                field=f"environment.{field}",
                hint="Install Docker on the machine and start it (systemctl start docker).",
            )
        return await super().check(request)

    async def there(self, interpreter: Interpreter) -> bool:
        """Whether what was made for an interpreter, and this machine, can still be used."""
        if interpreter.base and interpreter.base != self.system.base():
            return False
        return await super().there(replace(interpreter, base=""))

    async def recipe(self, request: EnvironmentRequest, say: Say, below: Below) -> Recipe:
        try:
            await self.check(request)
            wanted = _wanted(request, self.framework(request))
        except InvalidError as error:
            raise BuildFailedError(error.message) from error
        rest = request.model_copy(update={"apt": ()})
        if not wanted:
            return await super().recipe(request, say, below)
        async with self._free:
            packages = await self.system.resolve(wanted, say, latest=request.latest)
        if not packages:
            say(f"This machine has {', '.join(wanted)} already", False)
            found = await _OnTop(self.means).recipe(rest, say, below)
            # Only as long as the machine stays as it is.
            return replace(found, interpreter=replace(found.interpreter, base=self.system.base()))
        # Packages that are compiled may need what was just asked for.
        layer = self.layer(packages, self.system.base())
        means = replace(self.means, uv=over(self._uv, self.system, await below(layer)))
        found = await _OnTop(means).recipe(rest, say, below)
        return Recipe(
            replace(found.interpreter, base=layer.interpreter.base),
            layers.with_apt((), packages, found.resolved),
        )

    def layer(self, packages: Iterable[apt.Exact], base: str) -> Recipe:
        """The environment with nothing but system packages, which all with the same ones have in common."""
        return Recipe(replace(self._uv.interpreter, base=base), layers.with_apt((), packages, ""))


class _OnTop(Resolver):
    """For what goes on top of system packages that were seen to."""

    installs_system_packages = True


def _wanted(request: EnvironmentRequest, framework: Expanded | None) -> tuple[str, ...]:
    """The packages that were asked for, and those that the framework needs."""
    return tuple(dict.fromkeys((*(framework.apt if framework is not None else ()), *request.apt)))
