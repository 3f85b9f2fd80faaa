"""Request -> environment: resolve, look whether it is there, build it once for everybody who waits (shell)."""

import asyncio
import functools
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from spell_builder import contents, layers, pins, verify
from spell_builder.conda import Conda, settle
from spell_builder.directories import Directories
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_builder.flight import Flight, GivenUpError, Ready
from spell_builder.requests import Requests, Resolution, patiently
from spell_builder.resolver import Recipe, Resolver
from spell_builder.sharing import Sharing
from spell_builder.soundness import Soundness
from spell_builder.uv import Uv
from spell_proto import logs
from spell_proto.environments import CheckView, PlanView
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest
from spell_proto.views import Verdict

log = logs.get()
T = TypeVar("T")

Work = Callable[[Flight], Awaitable[Ready]]

BARE = EnvironmentRequest()
PINNED = ".spell-pinned"


class Builder:
    """Makes environments. Equal work is done once: 20 equal requests at once share one flight.

    Work that nobody waits for is ended after `grace_seconds`; who asks for the same until then goes on with it, and
    who asks later begins anew.
    """

    def __init__(
        self,
        uv: Uv,
        conda: Conda,
        resolver: Resolver,
        directories: Directories,
        requests: Requests,
        tasks: asyncio.TaskGroup,
        *,
        soundness: Soundness,
        sharing: Sharing | None,
        built: Callable[[], None],
        builds_max: int,
        grace_seconds: float,
    ) -> None:
        self._uv = uv
        self._resolver = resolver
        self._conda = conda
        self._directories = directories
        self._requests = requests
        self._soundness = soundness
        self._sharing = sharing
        self._built = built
        self._tasks = tasks
        self._grace_seconds = grace_seconds
        self._builds = asyncio.Semaphore(max(1, builds_max))
        self._flights: dict[str, Flight] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._worked = 0
        self._closed = False
        self._bare = Recipe(uv.interpreter)
        self._bare_digest = BARE.digest()

    def _ready(self, key: str | None, *, cached: bool) -> Ready | None:
        if key is None or not self._directories.complete(key):
            return None
        return Ready(key, str(self._directories.path(key)), cached)

    def work(self) -> tuple[int, int]:
        """How many environments are being resolved or built, and how many have been."""
        return len(self._working), self._worked

    def there(self, key: str) -> bool:
        """Whether an environment is there, whole."""
        return self._directories.complete(key)

    async def known(self, digest: str) -> Ready | None:
        """The environment of a request that needs no work at all: resolved lately, and there."""
        key = await self._known_key(digest)
        ready = self._ready(key, cached=True)
        return None if ready is None or await self._damaged(ready.key) else ready

    async def _known_key(self, digest: str) -> str | None:
        if digest == self._bare_digest:
            return self._bare.key
        key = self._requests.remembered(digest)
        if key is None:
            found = await self._requests.find(digest)
            if found is not None and await self._usable(found):
                self._requests.keep(digest, found)
                key = found.key
        return key

    async def _damaged(self, key: str) -> str | None:
        """What is wrong with an environment that is there. It is not there any more then: it is built again."""
        damage = await self._soundness.damage(key)
        if damage is not None and (aside := self._directories.set_aside(key)) is not None:
            log.warning("an environment is damaged", key=key, problem=damage)
            # A run that has it open keeps what it has loaded; the rest goes at the next start.
            if not await patiently(functools.partial(self._requests.active_uses, key)):
                await asyncio.to_thread(self._directories.discard, aside)
        return damage

    async def plan(self, request: EnvironmentRequest) -> PlanView:
        """What a request would take. Nothing is resolved or built for it."""
        checked = await self.check(request)
        framework = self._resolver.framework(request)
        if checked.image is not None:
            plan = PlanView(state="image", key=None, python="", packages=(), image=checked.image)
        else:
            plan = await self._plan(request)
        if framework is None:
            return plan
        return plan.model_copy(update={"framework": request.framework, "notes": framework.notes})

    async def _plan(self, request: EnvironmentRequest) -> PlanView:
        digest = request.digest()
        found = None if request.latest else await self._requests.find(digest)
        recipe = self._bare if digest == self._bare_digest else None
        if request.key is not None:
            recipe = await self._exactly(request.key)
        if found is not None and await self._usable(found):
            recipe = self._recipe(found)
        if recipe is None:
            python = await self._resolver.python(request)
            return PlanView(state="new", key=None, python=python, packages=())
        return PlanView(
            state="known" if self._ready(recipe.key, cached=True) is None else "ready",
            key=recipe.key,
            python=recipe.interpreter.version,
            packages=tuple(pin.head for pin in pins.read(recipe.resolved)),
        )

    async def _usable(self, found: Resolution) -> bool:
        """Whether a resolution is recent, and was made for an interpreter and from a framework of today."""
        recipe = self._recipe(found)
        return (
            found.fresh
            and recipe.key == found.key
            and (found.framework is None or self._resolver.stands(found.framework))
            and await self._resolver.there(recipe.interpreter)
        )

    def _recipe(self, found: Resolution) -> Recipe:
        return Recipe(found.interpreter or self._uv.interpreter, found.resolved)

    def ensure(self, request: EnvironmentRequest) -> Flight:
        """The flight that brings the environment of `request`: one that is on its way, or a new one.

        Whoever asks enters `awaited()` of it, or calls `hold()`, before anything else happens.
        """
        work = functools.partial(self._fulfil, request)
        # Work on the latest versions may have begun only after they were asked for.
        name = f"latest {uuid.uuid4().hex}" if request.latest else request.digest()
        return self._join(name, work, self._grace_seconds)

    async def check(self, request: EnvironmentRequest) -> CheckView:
        """See `Resolver.check`."""
        if request.key is None:
            return await self._resolver.check(request)
        try:
            await self._exactly(request.key)
        except BuildFailedError as error:
            raise InvalidError(
                "environment_unknown", f"environment.key: {error}", field="environment.key"
            ) from error
        return CheckView()

    def _join(self, name: str, work: Work, grace_seconds: float = 0.0) -> Flight:
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = Flight(grace_seconds)
            if self._closed:
                flight.land(GivenUpError("the builder stops"))
            else:
                task = self._tasks.create_task(self._fly(name, flight, work))
                flight.deserted = functools.partial(self._end, name, flight, task)
                self._working.add(task)
                task.add_done_callback(self._working.discard)
        return flight

    def _end(self, name: str, flight: Flight, task: asyncio.Task[None]) -> None:
        """End work that nobody waits for. From now on, who asks for the same gets a new flight."""
        log.info("nobody waits any more: a build is ended", flight=name)
        self._forget(name, flight)
        task.cancel()

    def _forget(self, name: str, flight: Flight) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]

    async def _fly(self, name: str, flight: Flight, work: Work) -> None:
        try:
            flight.land(await work(flight))
        except (BuildFailedError, GivenUpError) as error:
            flight.land(error)
        except asyncio.CancelledError:
            flight.land(GivenUpError("the work was ended"))
            raise
        except Exception as error:
            log.exception("an environment could not be made", flight=name)
            flight.land(GivenUpError(f"a bug or a broken disk: {error!r}"))
        finally:
            self._worked += 1
            self._forget(name, flight)

    def close(self) -> None:
        """End all work at once; what was begun is removed at the next start."""
        self._closed = True
        if self._sharing is not None:
            self._sharing.close()
        for task in self._working:
            task.cancel()

    async def _fulfil(self, request: EnvironmentRequest, flight: Flight) -> Ready:
        digest = request.digest()
        if digest == self._bare_digest:
            return await self._share(self._bare, flight)
        if request.key is not None:
            recipe = await self._exactly(request.key)
            await patiently(functools.partial(self._requests.remember, digest, recipe))
            return await self._share(recipe, flight)
        last = await patiently(functools.partial(self._requests.find, digest))
        if last is not None and not request.latest and await self._usable(last):
            # Where its directory is gone: the same versions again, as an equal request would get them.
            return await self._share(self._recipe(last), flight)
        try:
            recipe = await self._resolver.recipe(request, flight.say, functools.partial(self._below, flight))
        except IndexUnreachableError:
            ready = self._ready(last.key, cached=True) if last is not None and not request.latest else None
            if ready is None:
                raise
            flight.say("The package index cannot be read; using the environment of an earlier equal request")
            return ready
        framework = self._resolver.framework(request)
        fingerprint = None if framework is None else framework.fingerprint
        await patiently(functools.partial(self._requests.remember, digest, recipe, fingerprint))
        return await self._share(recipe, flight)

    async def _below(self, flight: Flight, recipe: Recipe) -> Path:
        """The directory of an environment that another one is put on top of."""
        return Path((await self._share(recipe, flight)).path)

    async def _exactly(self, key: str) -> Recipe:
        """The recipe of an environment that was made before.

        Raises:
            BuildFailedError: nothing is known of it, or it cannot be made again.
        """
        found = await patiently(functools.partial(self._requests.by_key, key))
        if found is None:
            raise BuildFailedError(f"there is no environment {key[:12]}")
        recipe = self._recipe(found)
        if recipe.key != key or not await self._resolver.there(recipe.interpreter):
            raise BuildFailedError(
                f"environment {key[:12]} was made for {recipe.interpreter.version} in {recipe.interpreter.path}, "
                "which is not on this machine any more"
            )
        return recipe

    async def _share(self, recipe: Recipe, flight: Flight) -> Ready:
        """The environment of a recipe: there already, or built in one flight that different requests may share."""
        if ready := self._ready(recipe.key, cached=True):
            damage = await self._damaged(recipe.key)
            if damage is None:
                if recipe.resolved:
                    flight.say("Retrieving cached environment...")
                return ready
            flight.say(f"The environment on the disk is damaged ({damage}); it is built again", True)
        build = self._join(f"key {recipe.key}", functools.partial(self._build, recipe))
        seen = 0
        with build.awaited():
            while not build.over or seen < len(build.lines):
                for line in await build.more(seen, seconds=60.0):
                    flight.say(line.text, line.level == "error")
                    seen += 1
        return build.outcome()

    async def _build(self, recipe: Recipe, flight: Flight) -> Ready:
        key, resolved = recipe.key, recipe.resolved
        async with self._builds, self._directories.alone(key) as lock:
            # Another builder on the same directory may have been faster.
            if ready := self._ready(key, cached=True):
                return ready
            begun = time.monotonic()
            try:
                new = await _to_its_end(functools.partial(self._directories.begin, key))
                listed = await self._shared(key, new, flight)
                fetched = listed is not None
                if listed is None:
                    await self._fill(new, recipe, flight, lock)
                    listed = await _to_its_end(functools.partial(contents.contents, str(new)))
                    await self._note(recipe, listed, time.monotonic() - begun, flight)
                await _to_its_end(functools.partial(self._directories.finish, key, resolved, listed))
                await _to_its_end(functools.partial(self._soundness.just_built, key))
            finally:
                # Nothing, once it is finished. The lock is still ours, and nothing that we started lives any more.
                await _to_its_end(functools.partial(self._directories.abandon, key))
        seconds = time.monotonic() - begun
        if resolved and not fetched:
            flight.say(f"Environment built in {seconds:.1f} s")
        log.info(
            "environment fetched" if fetched else "environment built", key=key, seconds=round(seconds, 3)
        )
        self._built()
        if self._sharing is not None:
            self._sharing.pushing(key)
        ready = self._ready(key, cached=fetched)
        assert ready is not None
        return ready

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
        indexes, resolved = pins.without_indexes(layers.pip_part(recipe.resolved))
        if resolved:
            # Inside, so that whoever removes what an interrupted build left removes this too.
            pinned = new / PINNED
            pinned.write_text(resolved)
            await self._uv.install(new, pinned, indexes, flight.say, lock)
            pinned.unlink()
        if layers.is_conda(recipe.resolved):
            await _to_its_end(functools.partial(settle, new, final))
        if recipe.resolved:
            await self._uv.compile(new, flight.say, lock)

    async def _note(self, recipe: Recipe, listed: bytes, seconds: float, flight: Flight) -> None:
        """Record what was built, before anybody can use it (I17).

        Another content than the key had before is told and used all the same. It comes from a package that does not
        build the same twice from its source, so to refuse it would end every later run with these packages, through no
        fault of theirs, and building again would not help. The run's log says so, and `spell verify` does from
        then on. An environment that was recorded and never came to be used counts too: a crash in between is rare.
        """
        digest = contents.digest(listed)
        others = await patiently(functools.partial(self._requests.built, recipe, digest, seconds))
        if others:
            log.warning(
                "an environment differs from an earlier one of its key", key=recipe.key, digest=digest
            )
            flight.say("The same package versions gave other files than when they were installed earlier")

    async def verify(self, request: str | None) -> Verdict:
        """The verdict on all environments, or on the one that a request (by digest) has become."""
        if request is None:
            return await verify.verdict(self._requests, self._directories, None)
        if request == self._bare_digest:
            return await verify.verdict(self._requests, self._directories, self._bare.key)
        found = await self._requests.find(request)
        return await verify.verdict(self._requests, self._directories, found.key if found else "")


async def _to_its_end(work: Callable[[], T]) -> T:
    """Do work on a thread. Nothing stops a thread: who is cancelled waits for it, and holds on to its locks."""
    working = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise
