"""Request -> environment: resolve, look whether it is there, build it once for everybody who waits (shell)."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable

from spell_builder import keys
from spell_builder.directories import Directories
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_builder.flight import Flight, GivenUpError, Ready
from spell_builder.requests import Requests, Resolution, patiently
from spell_builder.uv import Uv
from spell_proto import logs
from spell_proto.spec import EnvironmentRequest

log = logs.get()

Work = Callable[[Flight], Awaitable[Ready]]

#: Resolving is mostly waiting for the index.
RESOLVES_MAX = 8
BARE = EnvironmentRequest()


class Builder:
    """Makes environments. Equal work is done once: 20 equal requests at once share one flight."""

    def __init__(
        self, uv: Uv, directories: Directories, requests: Requests, tasks: asyncio.TaskGroup, builds_max: int
    ) -> None:
        self._uv = uv
        self._directories = directories
        self._requests = requests
        self._tasks = tasks
        self._resolves = asyncio.Semaphore(RESOLVES_MAX)
        self._builds = asyncio.Semaphore(max(1, builds_max))
        self._flights: dict[str, Flight] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._closed = False
        self._bare_key = keys.environment_key(uv.interpreter, "")
        self._bare_digest = BARE.digest()

    def _ready(self, key: str | None, *, cached: bool) -> Ready | None:
        if key is None or not self._directories.complete(key):
            return None
        return Ready(key, str(self._directories.path(key)), cached)

    async def known(self, digest: str) -> Ready | None:
        """The environment of a request that needs no work at all: resolved lately, and there."""
        if digest == self._bare_digest:
            return self._ready(self._bare_key, cached=True)
        key = self._requests.remembered(digest)
        if key is None:
            found = await self._requests.find(digest)
            key = found.key if found is not None and self._usable(found) else None
        return self._ready(key, cached=True)

    def _usable(self, found: Resolution) -> bool:
        """Whether a resolution is recent, and was made for the interpreter of today."""
        return found.fresh and keys.environment_key(self._uv.interpreter, found.resolved) == found.key

    def ensure(self, request: EnvironmentRequest) -> Flight:
        """The flight that brings the environment of `request`: one that is on its way, or a new one."""
        return self._join(request.digest(), functools.partial(self._fulfil, request))

    def _join(self, name: str, work: Work) -> Flight:
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = Flight()
            if self._closed:
                flight.land(GivenUpError("the builder stops"))
            else:
                task = self._tasks.create_task(self._fly(name, flight, work))
                self._working.add(task)
                task.add_done_callback(self._working.discard)
        return flight

    async def _fly(self, name: str, flight: Flight, work: Work) -> None:
        try:
            flight.land(await work(flight))
        except (BuildFailedError, GivenUpError) as error:
            flight.land(error)
        except asyncio.CancelledError:
            flight.land(GivenUpError("the builder stops"))
            raise
        except Exception as error:
            log.exception("an environment could not be made", flight=name)
            flight.land(GivenUpError(f"a bug or a broken disk: {error!r}"))
        finally:
            del self._flights[name]

    def close(self) -> None:
        """End all work at once; what was begun is removed at the next start."""
        self._closed = True
        for task in self._working:
            task.cancel()

    async def _fulfil(self, request: EnvironmentRequest, flight: Flight) -> Ready:
        digest = request.digest()
        if not request.pip:
            return await self._share(self._bare_key, "", flight)
        last = await patiently(functools.partial(self._requests.find, digest))
        if last is not None and self._usable(last):
            if ready := self._ready(last.key, cached=True):
                flight.say("Retrieving cached environment...")
                return ready
            # Its directory is gone: the same versions again, as an equal request would get them.
            return await self._share(last.key, last.resolved, flight)
        try:
            resolved = await self._resolve(request, flight)
        except IndexUnreachableError:
            ready = self._ready(last.key, cached=True) if last is not None else None
            if ready is None:
                raise
            flight.say("The package index cannot be read; using the environment of an earlier equal request")
            return ready
        key = keys.environment_key(self._uv.interpreter, resolved)
        await patiently(functools.partial(self._requests.remember, digest, key, resolved))
        return await self._share(key, resolved, flight)

    async def _resolve(self, request: EnvironmentRequest, flight: Flight) -> str:
        lines, notes = keys.wanted(request.pip)
        for note in notes:
            flight.say(note)
        async with self._resolves:
            return await self._uv.resolve(lines, flight.say)

    async def _share(self, key: str, resolved: str, flight: Flight) -> Ready:
        """The environment of a key: there already, or built in one flight that different requests may share."""
        if ready := self._ready(key, cached=True):
            if resolved:
                flight.say("Retrieving cached environment...")
            return ready
        build = self._join(f"key {key}", functools.partial(self._build, key, resolved))
        seen = 0
        while not build.over or seen < len(build.lines):
            for line in await build.more(seen, seconds=60.0):
                flight.say(line.text, line.level == "error")
                seen += 1
        return build.outcome()

    async def _build(self, key: str, resolved: str, flight: Flight) -> Ready:
        async with self._builds, self._directories.alone(key) as lock:
            # Another builder on the same directory may have been faster.
            if ready := self._ready(key, cached=True):
                return ready
            begun = time.monotonic()
            new = await asyncio.to_thread(self._directories.begin, key)
            pinned = new.with_name(new.name + ".txt")
            try:
                await self._uv.make(new, flight.say, lock)
                if resolved:
                    pinned.write_text(resolved)
                    await self._uv.install(new, pinned, flight.say, lock)
                    await self._uv.compile(new, flight.say, lock)
            finally:
                pinned.unlink(missing_ok=True)
            await asyncio.to_thread(self._directories.finish, key, resolved)
            seconds = time.monotonic() - begun
        if resolved:
            flight.say(f"Environment built in {seconds:.1f} s")
            await patiently(functools.partial(self._requests.built, key, seconds))
        log.info("environment built", key=key, seconds=round(seconds, 3))
        ready = self._ready(key, cached=False)
        assert ready is not None
        return ready
