"""Environments of the local engine: directories of this machine (shell)."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, Unpack

from spell_builder import contents, layers, pins
from spell_builder.builder import Builder, Limits
from spell_builder.conda import Conda, settle
from spell_builder.directories import Directories
from spell_builder.flight import Flight, Ready
from spell_builder.local_resolver import LocalResolver
from spell_builder.overlaid import over
from spell_builder.overlays import LAYER
from spell_builder.requests import Requests, patiently
from spell_builder.resolver import Recipe
from spell_builder.sharing import Sharing
from spell_builder.soundness import Soundness
from spell_builder.uv import Uv
from spell_proto import logs

log = logs.get()
T = TypeVar("T")

PINNED = ".spell-pinned"


class LocalBuilder(Builder):
    """See `Builder`."""

    def __init__(
        self,
        uv: Uv,
        conda: Conda,
        resolver: LocalResolver,
        directories: Directories,
        requests: Requests,
        tasks: asyncio.TaskGroup,
        *,
        soundness: Soundness,
        sharing: Sharing | None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(
            resolver, directories, requests, tasks, bare=Recipe(uv.interpreter), pushes=sharing, **limits
        )
        self._layer_of = resolver.layer
        self._system = resolver.system
        self._uv = uv
        self._conda = conda
        self._directories = directories
        self._soundness = soundness
        self._sharing = sharing

    async def _damaged(self, key: str) -> str | None:
        # What is below is used with it.
        below = self._directories.below(key)
        damage = await self._damaged_alone(below) if below is not None else None
        return damage or await self._damaged_alone(key)

    async def _damaged_alone(self, key: str) -> str | None:
        damage = await self._soundness.damage(key)
        if damage is not None and (aside := self._directories.set_aside(key)) is not None:
            log.warning("an environment is damaged", key=key, problem=damage)
            # A run that has it open keeps what it has loaded; the rest goes at the next start.
            if not await patiently(functools.partial(self._requests.active_uses, key)):
                await asyncio.to_thread(self._directories.discard, aside)
        return damage

    def _stands(self, key: str) -> bool:
        base = self._directories.base(key)
        return base is None or base == self._system.base()

    async def _share(self, recipe: Recipe, flight: Flight) -> Ready:
        layer = self._layer(recipe)
        if layer is not None:
            await super()._share(layer, flight)
        return await super()._share(recipe, flight)

    def _layer(self, recipe: Recipe) -> Recipe | None:
        """The environment whose system packages this one has, where it is another one."""
        packages = layers.apt_part(recipe.resolved)
        layer = self._layer_of(packages, recipe.interpreter.base) if packages else recipe
        return None if layer.key == recipe.key else layer

    async def _make(self, recipe: Recipe, flight: Flight, lock: int, begun: float) -> bool:
        key = recipe.key
        try:
            new = await _to_its_end(functools.partial(self._directories.begin, key))
            listed = await self._shared(key, new, flight)
            fetched = listed is not None
            if listed is None:
                await self._fill(new, recipe, flight, lock)
                listed = await _to_its_end(functools.partial(contents.contents, str(new)))
                await self._note(recipe, contents.digest(listed), begun, flight)
            await _to_its_end(functools.partial(self._directories.finish, key, recipe.resolved, listed))
            await _to_its_end(functools.partial(self._soundness.just_built, key))
        finally:
            # Nothing, once it is finished. The lock is still ours, and nothing that we started lives any more.
            await _to_its_end(functools.partial(self._directories.abandon, key))
        return fetched

    async def _shared(self, key: str, new: Path, flight: Flight) -> bytes | None:
        """Have an environment that was built before from the shared cache: see `Sharing.unpacked`."""
        if self._sharing is None:
            return None
        listed = await self._sharing.unpacked(key, new, flight.say)
        if listed is None:
            await _to_its_end(functools.partial(self._directories.abandon, key))
        return listed

    async def _fill(self, new: Path, recipe: Recipe, flight: Flight, lock: int) -> None:
        final = self._directories.path(recipe.key)
        if layers.is_conda(recipe.resolved):
            await self._conda.install(new, final, recipe.resolved, flight.say, lock)
        else:
            await self._uv.make(new, recipe.interpreter, flight.say, lock)
        uv, layer = self._uv, self._layer(recipe)
        if layer is not None:
            (new / LAYER).symlink_to(f"../{layer.key}/{LAYER}")
            uv = over(uv, self._system, self._directories.path(layer.key))
        elif packages := layers.apt_part(recipe.resolved):
            await self._system.install(new, packages, flight.say, lock)
        if recipe.interpreter.base:
            self._directories.bind(new, recipe.interpreter.base)
        indexes, resolved = pins.without_indexes(layers.pip_part(recipe.resolved))
        if resolved:
            # Inside, so that whoever removes what an interrupted build left removes this too.
            pinned = new / PINNED
            pinned.write_text(resolved)
            await uv.install(new, pinned, indexes, flight.say, lock)
            pinned.unlink()
        if layers.is_conda(recipe.resolved):
            await _to_its_end(functools.partial(settle, new, final))
        if recipe.resolved:
            await self._uv.compile(new, flight.say, lock)


async def _to_its_end(work: Callable[[], T]) -> T:
    """Do work on a thread. Nothing stops a thread: who is cancelled waits for it, and holds on to its locks."""
    working = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise
