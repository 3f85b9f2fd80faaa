"""Environments of the docker engine: chains of images, each layer built once for everybody who waits (shell)."""

import asyncio
import functools
import hashlib
import time
from pathlib import Path
from typing import Unpack

from spell_builder import apt, image_layers, layers
from spell_builder.builder import Builder, Limits
from spell_builder.commands import Say
from spell_builder.docker import Docker, Work, to_its_end
from spell_builder.errors import BuildFailedError
from spell_builder.flight import Flight, GivenUpError, Ready
from spell_builder.image_cache import ImageCache
from spell_builder.image_maker import ImageMaker, Layer
from spell_builder.image_resolver import ImageResolver
from spell_builder.images import Images
from spell_builder.keys import Interpreter
from spell_builder.requests import Requests, patiently
from spell_builder.resolver import Below, Recipe
from spell_proto import logs
from spell_proto.spec import EnvironmentRequest

log = logs.get()

PROBE_SECONDS_MAX = 120.0
#: How the process 1 of a container ends that cannot start anything.
_NO_SHELL = 127


class ImageBuilder(Builder):
    """See `Builder`. A request is resolved on its foundation: a base image that has what every run needs."""

    def __init__(
        self,
        docker: Docker,
        images: Images,
        maker: ImageMaker,
        resolver: ImageResolver,
        requests: Requests,
        base_image: str,
        tasks: asyncio.TaskGroup,
        *,
        cache: ImageCache | None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(resolver, images, requests, tasks, bare=None, pushes=cache, **limits)
        self._docker = docker
        self._images = images
        self._maker = maker
        self._on_images = resolver
        self._base_image = base_image
        self._cache = cache

    def digest(self, plain: str) -> str:
        return hashlib.sha256(
            f"docker {self._base_image} {self._on_images.default_framework} {plain}".encode()
        ).hexdigest()

    async def _damaged(self, key: str) -> str | None:
        return await self._images.damage(key)

    async def known(self, digest: str) -> Ready | None:
        try:
            return await super().known(digest)
        except GivenUpError:
            return None  # the daemon is away: whoever needs it has to wait

    async def _fulfil(self, request: EnvironmentRequest, flight: Flight) -> Ready:
        problem = await self._docker.problem()
        if problem is not None and not await asyncio.to_thread(Path(self._docker.socket).exists):
            raise BuildFailedError(
                f"the environment has to be an image, and {problem} of this server's builder"
            )
        return await super()._fulfil(request, flight)

    async def _resolve(self, request: EnvironmentRequest, flight: Flight, below: Below) -> Recipe:
        framework = self._on_images.framework(request)
        base_image = (framework and framework.base_image) or self._base_image
        under = await self._foundation(base_image, request.python, flight)
        asked = (*(() if framework is None else framework.apt), *request.apt)
        if asked:
            under = await self._with_system(under, asked, request, flight, below)
        return await self._on_images.on(under, request, flight.say, below)

    async def _with_system(
        self,
        foundation: Recipe,
        asked: tuple[str, ...],
        request: EnvironmentRequest,
        flight: Flight,
        below: Below,
    ) -> Recipe:
        """A foundation with system packages: those of an earlier request that asked for the same, while they are
        recent, so that other packages on top need no other layer.
        """
        text = f"system {foundation.key} {' '.join(sorted(set(asked)))}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        found = await patiently(functools.partial(self._requests.find, digest))
        if found is not None and found.fresh and not request.latest:
            return self._recipe(found)
        recipe = await self._on_images.with_system(
            foundation, asked, flight.say, below, latest=request.latest
        )
        await patiently(functools.partial(self._requests.remember, digest, recipe))
        return recipe

    # ---- the foundation --------------------------------------------------------------------------------------

    async def _foundation(self, base_image: str, python: str | None, flight: Flight) -> Recipe:
        """What all environments on a base image stand on. It stays as it was when it was made first."""
        inspected = await self._docker.pulled(base_image, flight.say)
        base = image_layers.pinned(base_image, inspected)
        found = await self._founded(base, python)
        if found is not None:
            try:
                await self._share(found, flight)
            except BuildFailedError as error:
                log.info("the base of environments is made anew", base=base, problem=str(error))
                found = None
        if found is None:
            name = f"foundation {base} {python}"
            work = functools.partial(self._found, base, inspected["Id"], python)
            await self._followed(self._join(name, work), flight)
            found = await self._founded(base, python)
        if found is None:
            raise GivenUpError("the base of environments was not made")
        return found

    def _foundation_digest(self, base: str, python: str | None) -> str:
        return hashlib.sha256(f"foundation {base} {python or ''}".encode()).hexdigest()

    async def _founded(self, base: str, python: str | None) -> Recipe | None:
        digest = self._foundation_digest(base, python)
        found = await patiently(functools.partial(self._requests.find, digest))
        recipe = None if found is None else self._recipe(found)
        # Of an earlier version of ours, which made images otherwise.
        return None if found is None or recipe is None or recipe.key != found.key else recipe

    async def _found(self, base: str, image: str, python: str | None, flight: Flight) -> Ready:
        """Find out what a base image lacks, and make the foundation on it."""
        begun = time.monotonic()
        flight.say(f"Preparing the base image {base}")
        program = f"python{'.'.join(python.split('.')[:2])}" if python else "python3"
        digest = self._foundation_digest(base, python)
        packages = await self._lacking(base, image, program, python, flight.say)
        plan = Recipe(Interpreter("", "", "", "", base), layers.with_apt(packages, (), ""))
        async with self._builds, self._images.alone(digest) as lock:
            async with self._maker.made(plan, image, flight.say, lock, program) as layer:
                assert layer.interpreter is not None
                if python is not None and not _fits(layer.interpreter, python):
                    raise _no_python(python, base, [layer.interpreter.version.partition(" ")[2]])
                recipe = Recipe(layer.interpreter, plan.resolved)
                ready = await self._keep(layer, recipe, None, begun, flight)
            await patiently(functools.partial(self._requests.remember, digest, recipe))
        return ready

    async def _lacking(
        self, base: str, image: str, program: str, python: str | None, say: Say
    ) -> tuple[apt.Exact, ...]:
        script = image_layers.begin({}) + image_layers.probe(program)
        probed = await self._docker.run(Work(image, script, PROBE_SECONDS_MAX), say)
        if probed.code == _NO_SHELL and "exec /bin/sh failed" in probed.errors:
            raise BuildFailedError(
                f"the base image {base} has no shell (/bin/sh), so no command can be run in it"
            )
        said = apt.sections(probed.out)
        missing = said.get("missing", "").split()
        if not missing:
            return ()
        there = list(dict.fromkeys(said.get("there", "").split()))
        if probed.code or not said.get("apt", "").strip():
            raise BuildFailedError(
                f"the base image {base} lacks {', '.join(missing)}, and has no apt to install it with"
            )
        try:
            return await self._on_images.system(image, base, missing, say)
        except BuildFailedError as error:
            if python is not None and error.package == program:
                raise _no_python(python, base, there) from error
            raise

    # ---- layers ----------------------------------------------------------------------------------------------

    async def _below_of(self, recipe: Recipe) -> Recipe | None:
        foundation = recipe.interpreter
        if layers.is_conda(recipe.resolved):
            found = await self._founded(foundation.base, None)
            if found is None:
                raise BuildFailedError(f"what is known of the base image {foundation.base} is gone")
            foundation = found.interpreter
        return image_layers.below(recipe, foundation)

    async def _pulled(self, recipe: Recipe, flight: Flight) -> Ready | None:
        """Have an image that was built before from the image cache, without what it stands on."""
        key = recipe.key
        if self._cache is None:
            return None
        begun = time.monotonic()
        async with self._images.alone(key):
            if ready := self._ready(key, cached=True):
                return ready
            found = await self._cache.pulled(key, flight.say)
            if found is None:
                return None
            image, content = found
            await patiently(functools.partial(self._requests.imaged, key, image, None, content))
            await to_its_end(functools.partial(self._images.put, key, image))
            await self._cache.let_go(key)
        seconds = time.monotonic() - begun
        flight.say(f"Fetched from the image cache in {seconds:.1f} s")
        log.info("environment fetched", key=key, seconds=round(seconds, 3))
        return Ready(key, image, cached=True)

    async def _build(self, recipe: Recipe, flight: Flight) -> Ready:
        if ready := await self._pulled(recipe, flight):
            return ready
        under = await self._below_of(recipe)
        if under is not None:
            # Before a place among the builds is taken: the layer below needs one too.
            await self._share(under, flight)
        return await super()._build(recipe, flight)

    async def _make(self, recipe: Recipe, flight: Flight, lock: int, begun: float) -> bool:
        under = await self._below_of(recipe)
        python = ""
        if under is None:
            image = str((await self._docker.pulled(recipe.interpreter.base, flight.say))["Id"])
            python = recipe.interpreter.path
        elif self._images.complete(under.key):
            image = self._images.path(under.key)
        else:
            raise GivenUpError("the layer below was removed just now")
        async with self._maker.made(recipe, image, flight.say, lock, python) as layer:
            if layer.interpreter not in {None, recipe.interpreter}:
                raise BuildFailedError(
                    f"the Python of the base image {recipe.interpreter.base} is another one now"
                )
            await self._keep(layer, recipe, under, begun, flight)
        return False

    async def _keep(
        self, layer: Layer, recipe: Recipe, under: Recipe | None, begun: float, flight: Flight
    ) -> Ready:
        """Make an image of a layer. It has no name until everything is noted: a crash before leaves nothing to use."""
        key = recipe.key
        made = await to_its_end(functools.partial(self._maker.commit, layer, key))
        try:
            await self._note(recipe, layer.content, begun, flight)
            below = None if under is None else under.key
            await patiently(functools.partial(self._requests.imaged, key, made, below, layer.content))
        except BaseException:
            await to_its_end(functools.partial(self._docker.untag, made))
            raise
        await to_its_end(functools.partial(self._images.put, key, made))
        return Ready(key, made, cached=False)


def _fits(interpreter: Interpreter, version: str) -> bool:
    return f"{interpreter.version.partition(' ')[2]}.".startswith(f"{version}.")


def _no_python(version: str, image: str, there: list[str]) -> BuildFailedError:
    listed = f"; there is {', '.join(there)}" if there else ""
    return BuildFailedError(
        f"--python: there is no Python {version} in the base image {image}, nor among its packages{listed}"
    )
