"""Makes one layer: a container of the layer below does the work, and becomes the image (shell)."""

import asyncio
import contextlib
import functools
import hashlib
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from aiodocker.containers import DockerContainer

from spell_builder import apt, complaints, contents, image_layers, layers, pins
from spell_builder.commands import Say
from spell_builder.contained import Room, repositories
from spell_builder.docker import LISTS, PACKAGES, Docker, Work
from spell_builder.errors import BuilderError, BuildFailedError, IndexUnreachableError
from spell_builder.image_resolver import ImageResolver
from spell_builder.keys import Interpreter
from spell_builder.patience import patiently
from spell_builder.resolver import Means, Recipe
from spell_builder.uv import INSTALL_SECONDS_MAX, installing
from spell_proto.errors import SpellError

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is made and not yet an image. `config` is what the image is to say of itself, and `content` the
    digest of what it will be.
    """

    container: DockerContainer
    interpreter: Interpreter | None
    config: dict[str, Any]
    content: str


@dataclass(frozen=True, slots=True)
class _Step:
    """What makes a layer, and how its failures are read."""

    script: str
    files: dict[str, bytes]
    failure: Any
    prefix: Path | None = None
    repositories: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[str, ...] = ()
    cache: str = ""
    #: What is tried before, where it cannot do any harm to what all builds share.
    harmless: "_Step | None" = None

    def over(self, lines: Sequence[str], variables: Mapping[str, str], directory: Path) -> "_Step":
        """The step with the repositories that it needs, as they are read from a directory of this machine."""
        if not self.repositories:
            return self
        told, binds = repositories(variables, directory)
        files = {**self.files, image_layers.GIT: "".join(f"{line}\n" for line in lines).encode()}
        return replace(self, files=files, variables=told, binds=binds)


class _NoWheelError(BuilderError):
    """Packages cannot be installed without building one of them."""


class _Quiet:
    """Says nothing any more once something has failed: it is tried in another way."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def __call__(self, line: str, failing: bool) -> None:
        if not failing:
            self._say(line, failing)


class ImageMaker:
    """One for a builder. `place` is where packages are laid out on this machine before they go into a container."""

    def __init__(
        self, docker: Docker, room: Room, means: Means, resolver: ImageResolver, place: Path
    ) -> None:
        self._docker = docker
        self._room = room
        self._conda = means.conda
        self._repositories = means.uv.repositories
        self._resolver = resolver
        self._place = place

    @asynccontextmanager
    async def made(
        self, recipe: Recipe, image: str, say: Say, lock: int, python: str = ""
    ) -> AsyncIterator[Layer]:
        """The topmost layer of a recipe, on an image that has all the others. `python` is the program to make the base
        of environments for.

        Raises:
            BuildFailedError: it cannot be made.
        """
        async with AsyncExitStack() as stack:
            step = await self._step(stack, recipe, python, say, lock)

            async def work(lines: Sequence[str], variables: Mapping[str, str]) -> Layer:
                whole = step.over(lines, variables, self._repositories.directory)
                if step.harmless is not None:
                    with contextlib.suppress(_NoWheelError):
                        tried = functools.partial(
                            self._tried, stack, step.harmless, image, recipe, _Quiet(say)
                        )
                        return await patiently(tried, say)
                return await patiently(functools.partial(self._tried, stack, whole, image, recipe, say), say)

            if step.repositories:
                yield await self._repositories.over(step.repositories, say, work)
            else:
                yield await work((), {})

    async def _step(self, stack: AsyncExitStack, recipe: Recipe, python: str, say: Say, lock: int) -> _Step:
        base = recipe.interpreter.base
        resolved = recipe.resolved
        if pip := layers.pip_part(resolved):
            indexes, pinned = pins.without_indexes(pip)
            hashed, cloned = pins.apart(pinned)
            words = installing(f"{image_layers.place(recipe)}/bin/python", indexes)
            files = {image_layers.PINNED: hashed.encode()}
            install = functools.partial(
                image_layers.with_pip, recipe, words, hashed=bool(hashed), git=bool(cloned)
            )
            harmless = None
            if not cloned and not layers.is_conda(resolved):
                harmless = _Step(install(built=False), files, complaints.failure, cache=PACKAGES)
            return _Step(install(), files, complaints.failure, repositories=tuple(cloned), harmless=harmless)
        if layers.is_conda(resolved):
            prefix = self._place / uuid.uuid4().hex / Path(image_layers.CONDA).name
            stack.push_async_callback(asyncio.to_thread, shutil.rmtree, prefix.parent, ignore_errors=True)
            prefix.parent.mkdir(parents=True)
            await self._conda.install(
                prefix, Path(image_layers.CONDA), layers.without_apt(resolved), say, lock
            )
            return _Step(image_layers.compiled(image_layers.CONDA), {}, complaints.failure, prefix)
        packages = layers.base_part(resolved) if python else layers.apt_part(resolved)
        script = ""
        if packages:
            begin = apt.begin(self._resolver.variables(base), fresh_minutes=24 * 60)
            script = begin + apt.install(packages)
        return _Step(
            script + (image_layers.foundation(python) if python else ""), {}, apt.failure, cache=LISTS
        )

    async def _tried(self, stack: AsyncExitStack, step: _Step, image: str, recipe: Recipe, say: Say) -> Layer:
        begin = image_layers.begin({**self._room.variables, **step.variables})
        work = Work(
            image,
            begin + step.script + image_layers.content(recipe),
            INSTALL_SECONDS_MAX,
            {
                **self._room.files,
                **step.files,
                image_layers.CONTENTS: Path(contents.__file__).read_bytes(),
            },
            self._room.tools,
            step.binds,
            step.cache,
        )
        async with AsyncExitStack() as own:
            container = await own.enter_async_context(self._docker.container(work))
            if step.prefix is not None:
                say("Copying the packages into an image", False)
                await self._docker.put(container, str(Path(image_layers.CONDA).parent), _packed(step.prefix))
            try:
                done = await self._docker.done(container, work.seconds, say)
            except TimeoutError:
                raise BuildFailedError(
                    f"the packages were not installed within {work.seconds / 60:.0f} minutes"
                ) from None
            if done.code:
                failure: SpellError = step.failure(done.errors)
                if step.cache == PACKAGES and not isinstance(failure, IndexUnreachableError):
                    # Most likely a package that has to be built; what else it is, comes out again.
                    raise _NoWheelError(str(failure))
                raise failure
            layer = await self._layer(container, image, apt.sections(done.out), recipe)
            stack.push_async_exit(own.pop_all().__aexit__)
            return layer

    async def _layer(
        self, container: DockerContainer, image: str, said: dict[str, str], recipe: Recipe
    ) -> Layer:
        about = said.get("interpreter")
        interpreter = None
        if about is not None:
            path, version, platform, libc = map(str, orjson.loads(about))
            interpreter = Interpreter(path, version, platform, libc, recipe.interpreter.base)
        inspected = await self._docker.image(image)
        if inspected is None:
            raise BuildFailedError("the layer below was removed while it was used")
        # A Python too old to make the list leaves the exact versions to go by.
        made = said.get("content", "").strip() or recipe.resolved
        files = hashlib.sha256(made.encode()).hexdigest()
        config = image_layers.config(inspected, recipe, {image_layers.FILES: files, **self._docker.labels})
        return Layer(container, interpreter, config, image_layers.content_of(files, config))

    async def commit(self, layer: Layer, key: str) -> str:
        """The image of a layer, which has no name yet; its id."""
        told = {image_layers.ENVIRONMENT: key, image_layers.CONTENT: layer.content}
        return await self._docker.commit(
            layer.container, {**layer.config, "Labels": layer.config["Labels"] | told}
        )


async def _packed(directory: Path) -> AsyncIterator[bytes]:
    """A directory as a tar archive in which everything belongs to root."""
    words = ("tar", "--owner=0", "--group=0", "--numeric-owner", "-C", str(directory.parent), "-cf", "-")
    process = await asyncio.create_subprocess_exec(*words, directory.name, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        while data := await process.stdout.read(_READ_BYTES):
            yield data
    finally:
        if process.returncode is None and not process.stdout.at_eof():
            process.kill()
        await process.wait()
