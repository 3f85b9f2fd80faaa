"""Request -> environment: resolve, look whether it is there, build it once for everybody who waits (shell)."""

import asyncio
import functools
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

from spell_builder import complaints, pins
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_builder.flight import Flight, GivenUpError, Ready
from spell_builder.pushes import Pushes
from spell_builder.requests import Requests, Resolution, patiently
from spell_builder.resolver import Below, Recipe, Resolver
from spell_proto import logs
from spell_proto.docker import refused
from spell_proto.environments import CheckView, PlanView
from spell_proto.errors import InvalidError
from spell_proto.spec import EnvironmentRequest

log = logs.get()

Work = Callable[[Flight], Awaitable[Ready]]

BARE = EnvironmentRequest()
_BARE_DIGEST = BARE.digest()
#: What a daemon refuses because something was removed, or is being changed, by somebody else.
_CHANGING = frozenset({404, 409})
#: How often the same work may end by a fault that nobody expects before it counts as one that lasts.
_TRIES_MAX = 3


class Place(Protocol):
    """Where environments are."""

    def complete(self, key: str) -> bool:
        """Whether one is there, whole."""
        ...

    def path(self, key: str) -> object:
        """Where one is that is there."""
        ...

    def alone(self, key: str) -> AbstractAsyncContextManager[int]:
        """See `Directories.alone`."""
        ...


class Limits(TypedDict):
    """What builders have in common: see the settings. `built` hears of each build."""

    built: Callable[[], None]
    builds_max: int
    grace_seconds: float


class Builder:
    """Makes environments. Equal work is done once: 20 equal requests at once share one flight.

    Work that nobody waits for is ended after `grace_seconds`; who asks for the same until then goes on with it, and
    who asks later begins anew.
    """

    def __init__(
        self,
        resolver: Resolver,
        place: Place,
        requests: Requests,
        tasks: asyncio.TaskGroup,
        *,
        bare: Recipe | None,
        pushes: Pushes | None,
        **limits: Unpack[Limits],
    ) -> None:
        """`bare` is what becomes of a request for nothing, where that is known beforehand. `pushes` stores what is made for
        other machines, where that is wanted.
        """
        self._resolver = resolver
        self._place = place
        self._requests = requests
        self._built = limits["built"]
        self._tasks = tasks
        self._grace_seconds = limits["grace_seconds"]
        self._builds = asyncio.Semaphore(max(1, limits["builds_max"]))
        self._flights: dict[str, Flight] = {}
        self._faults: dict[str, int] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._worked = 0
        self._closed = False
        self._bare = bare
        self._pushes = pushes

    def digest(self, plain: str) -> str:
        """What a request is known by, of its own digest: engines make different environments of it."""
        return plain

    def _ready(self, key: str | None, *, cached: bool) -> Ready | None:
        if key is None or not self._place.complete(key):
            return None
        return Ready(key, str(self._place.path(key)), cached)

    def work(self) -> tuple[int, int]:
        """How many environments are being resolved or built, and how many have been."""
        return len(self._working), self._worked

    def there(self, key: str) -> bool:
        """Whether an environment is there, whole."""
        return self._place.complete(key)

    def pushing(self, key: str) -> bool:
        """Whether an environment that is there is yet to be stored for other machines. If so, it is on its way now."""
        return self._pushes is not None and self._pushes.pushing(key)

    async def known(self, digest: str) -> Ready | None:
        """The environment of a request that needs no work at all: resolved lately, and there."""
        key = await self._known_key(digest)
        ready = self._ready(key, cached=True)
        return None if ready is None else await self._sound(ready)

    async def _sound(self, ready: Ready) -> Ready | None:
        """An environment that is there, as it is after a look at it; None where it is damaged."""
        # An equal image that somebody else has made may be in its place.
        return None if await self._damaged(ready.key) else self._ready(ready.key, cached=ready.cached)

    async def _known_key(self, plain: str) -> str | None:
        if self._bare is not None and plain == _BARE_DIGEST:
            return self._bare.key
        digest = self.digest(plain)
        key = self._requests.remembered(digest)
        if key is None or not self._stands(key):
            key = None
            found = await self._requests.find(digest)
            if found is not None and await self._usable(found):
                self._requests.keep(digest, found)
                key = found.key
        return key

    def _stands(self, _key: str) -> bool:
        """Whether what an environment that is there was made for has stayed the same; asked often, so nobody is asked."""
        return True

    async def became(self, plain: str) -> str | None:
        """The key of what a request (by its digest) has become the last time."""
        if self._bare is not None and plain == _BARE_DIGEST:
            return self._bare.key
        found = await self._requests.find(self.digest(plain))
        return None if found is None else found.key

    async def _damaged(self, key: str) -> str | None:
        """What is wrong with an environment that is there. It is not there any more then: it is built again."""
        raise NotImplementedError

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
        return plan.model_copy(
            update={"framework": request.framework or framework.name, "notes": framework.notes}
        )

    async def _plan(self, request: EnvironmentRequest) -> PlanView:
        plain = request.digest()
        found = None if request.latest else await self._requests.find(self.digest(plain))
        recipe = self._bare if plain == _BARE_DIGEST else None
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
        interpreter = found.interpreter or (self._bare and self._bare.interpreter)
        assert interpreter
        return Recipe(interpreter, found.resolved)

    def ensure(self, request: EnvironmentRequest) -> Flight:
        """The flight that brings the environment of `request`: one that is on its way, or a new one.

        Whoever asks enters `awaited()` of it, or calls `hold()`, before anything else happens.
        """
        work = functools.partial(self._fulfil, request)
        # Work on the latest versions may have begun only after they were asked for.
        name = f"latest {request.digest()} {uuid.uuid4().hex}" if request.latest else request.digest()
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
            ready = await work(flight)
            self._faults.pop(_work_of(name), None)
            flight.land(ready)
        except (BuildFailedError, GivenUpError) as error:
            flight.land(error)
        except asyncio.CancelledError:
            flight.land(GivenUpError("the work was ended"))
            raise
        except Exception as error:
            log.exception("an environment could not be made", flight=name)
            flight.land(self._fault(_work_of(name), error))
        finally:
            self._worked += 1
            self._forget(name, flight)

    def _fault(self, work: str, error: Exception) -> BuildFailedError | GivenUpError:
        """What becomes of work that ended by what nobody expects: it is tried again, but not for ever."""
        words = refused(error)
        if words is not None and getattr(error, "status", 0) not in _CHANGING:
            return BuildFailedError(complaints.cut(f"the Docker daemon refused: {words}"))
        problem = f"a bug or a broken disk: {error!r}" if words is None else f"the Docker daemon: {words}"
        times = self._faults.pop(work, 0) + 1
        if times < _TRIES_MAX:
            self._faults[work] = times
            return GivenUpError(problem)
        return BuildFailedError(complaints.cut(f"it was tried {times} times, and always there was {problem}"))

    def close(self) -> None:
        """End all work at once; what was begun is removed at the next start."""
        self._closed = True
        if self._pushes is not None:
            self._pushes.close()
        for task in self._working:
            task.cancel()

    async def _fulfil(self, request: EnvironmentRequest, flight: Flight) -> Ready:
        plain = request.digest()
        if self._bare is not None and plain == _BARE_DIGEST:
            return await self._share(self._bare, flight)
        digest = self.digest(plain)
        if request.key is not None:
            recipe = await self._exactly(request.key)
            await patiently(functools.partial(self._requests.remember, digest, recipe))
            return await self._share(recipe, flight)
        last = await patiently(functools.partial(self._requests.find, digest))
        if last is not None and not request.latest and await self._usable(last):
            # Where its directory is gone: the same versions again, as an equal request would get them.
            return await self._share(self._recipe(last), flight)
        try:
            recipe = await self._resolve(request, flight, functools.partial(self._below, flight))
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

    async def _resolve(self, request: EnvironmentRequest, flight: Flight, below: Below) -> Recipe:
        return await self._resolver.recipe(request, flight.say, below)

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
                return self._ready(recipe.key, cached=True) or ready
            flight.say(f"The environment on the disk is damaged ({damage}); it is built again", True)
        build = self._join(f"key {recipe.key}", functools.partial(self._build, recipe))
        return await self._followed(build, flight)

    async def _followed(self, build: Flight, flight: Flight) -> Ready:
        """What another flight brings; its lines are passed on."""
        seen = 0
        with build.awaited():
            while not build.over or seen < len(build.lines):
                for line in await build.more(seen, seconds=60.0):
                    flight.say(line.text, line.level == "error")
                    seen += 1
        return build.outcome()

    async def _build(self, recipe: Recipe, flight: Flight) -> Ready:
        key, resolved = recipe.key, recipe.resolved
        async with self._builds, self._place.alone(key) as lock:
            # Another builder on the same place may have been faster.
            if ready := self._ready(key, cached=True):
                return ready
            begun = time.monotonic()
            fetched = await self._make(recipe, flight, lock, begun)
        seconds = time.monotonic() - begun
        if resolved and not fetched:
            flight.say(f"Environment built in {seconds:.1f} s")
        log.info(
            "environment fetched" if fetched else "environment built", key=key, seconds=round(seconds, 3)
        )
        self._built()
        self.pushing(key)
        ready = self._ready(key, cached=fetched)
        assert ready is not None
        return ready

    async def _make(self, recipe: Recipe, flight: Flight, lock: int, begun: float) -> bool:
        """Make an environment, note what it consists of, and put it in its place, in this order. `lock` is a descriptor
        that whatever is started holds open while it lives. True where it did not have to be built.
        """
        raise NotImplementedError

    async def _note(self, recipe: Recipe, digest: str, begun: float, flight: Flight) -> None:
        """Record what was built, before anybody can use it (I17).

        Another content than the key had before is told and used all the same. It comes from a package that does not
        build the same twice from its source, so to refuse it would end every later run with these packages, through no
        fault of theirs, and building again would not help. The run's log says so, and `spell verify` does from
        then on. An environment that was recorded and never came to be used counts too: a crash in between is rare.
        """
        seconds = time.monotonic() - begun
        others = await patiently(functools.partial(self._requests.built, recipe, digest, seconds))
        if others:
            log.warning(
                "an environment differs from an earlier one of its key", key=recipe.key, digest=digest
            )
            flight.say("The same package versions gave other files than when they were installed earlier")


def _work_of(flight: str) -> str:
    """What a flight is about. Of those for the latest versions, each has a name of its own."""
    return flight.rpartition(" ")[0] if flight.startswith("latest ") else flight
