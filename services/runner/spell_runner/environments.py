"""Finds or has built the environment of an attempt, remembering what it has seen for a while (shell)."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from spell_proto.engines import DOCKER, LOCAL, Engine
from spell_proto.environments import MARKER
from spell_proto.errors import NotFoundError, RefusedError
from spell_proto.http import Caller
from spell_proto.shapes import Shape
from spell_proto.spec import EnvironmentRequest
from spell_proto.state import Reason
from spell_runner import asking
from spell_runner.copies import Copies
from spell_runner.errors import AttemptError
from spell_runner.notes import Notes

REMEMBER_SECONDS = 3600.0
CACHED = "Retrieving cached environment..."
#: What a run gets that asks for nothing.
BARE = "Python alone, without packages: --framework and --pip add some (spell frameworks lists the first)"
WAITING = "The builder does not answer; waiting for it"
#: An environment may be removed between two questions; one that always is, something is wrong with.
TRIES_MAX = 5
AGAIN_SECONDS = 0.5


class Resolved(Shape):
    key: str
    path: str
    pushing: bool = False


_RESOLVED: TypeAdapter[Resolved] = TypeAdapter(Resolved)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where an environment is, and the path that it was built for. `pushing` is where the builder says when it is
    stored for other machines; empty where it is.
    """

    source: Path
    path: Path
    pushing: str = ""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image on the builder's daemon, which may be ours: its id. `pushing` as above."""

    key: str
    id: str
    pushing: str


@dataclass(frozen=True, slots=True)
class _Seen:
    found: Resolved
    at: float


class Environments:
    """One for the machine."""

    def __init__(self, builder: Caller, copies: Copies) -> None:
        self._builder = builder
        self._copies = copies
        self._seen: dict[str, _Seen] = {}

    async def get(self, run_id: int, request: EnvironmentRequest, notes: Notes) -> Environment:
        """The directory of the environment; waits for as long as the builder is away.

        Raises:
            AttemptError: it cannot be built, or not be used on this machine.
        """
        for _ in range(TRIES_MAX):
            try:
                found = await self._found(run_id, request, notes)
                if _is_here(found):
                    path = Path(found.path)
                    return Environment(path, path, _pushing(found, "archive"))
                copy = await self._copies.get(found.key, run_id, notes)
            except NotFoundError:
                # Removed just now: the builder makes it again.
                self._seen.clear()
                await asyncio.sleep(AGAIN_SECONDS)
            except RefusedError as error:
                raise AttemptError(Reason.BUILD_FAILED, error.message) from error
            else:
                return Environment(copy.source, copy.path, _pushing(found, "archive"))
        raise AttemptError(Reason.BUILD_FAILED, "the environment is removed again and again")

    async def _found(self, run_id: int, request: EnvironmentRequest, notes: Notes) -> Resolved:
        digest = request.digest()
        # The builder is told of each run that uses packages: what is used is kept, and may be built anew meanwhile.
        seen = self._seen.get(digest) if request.bare else None
        if (
            seen
            and time.monotonic() - seen.at < REMEMBER_SECONDS
            and (_is_here(seen.found) or self._copies.has(seen.found.key))
        ):
            notes.lines([CACHED, BARE])
            return seen.found
        found = await self._asked(LOCAL, run_id, request, notes)
        if request.bare:
            notes.line(BARE)
        # Whether it is stored by now, the builder knows; whoever asks it next is told.
        self._seen[digest] = _Seen(found.model_copy(update={"pushing": False}), time.monotonic())
        return found

    async def image(self, run_id: int, request: EnvironmentRequest, notes: Notes) -> BuiltImage:
        """The image that is the environment; waits for as long as the builder is away.

        Raises:
            AttemptError: it cannot be built.
        """
        try:
            found = await self._asked(DOCKER, run_id, request, notes)
        except RefusedError as error:
            raise AttemptError(Reason.BUILD_FAILED, error.message) from error
        return BuiltImage(found.key, found.path, _pushing(found, "image"))

    async def pushed(self, image: BuiltImage, run_id: int, notes: Notes, damaged: str | None = None) -> str:
        """What an image can be pulled by that is on another machine's daemon; waits until it is pushed. `damaged` is
        what it could not be pulled by.

        Raises:
            AttemptError: it is not going to be pushed.
        """
        body = {"fetching": True, "damaged": damaged}

        async def ask() -> str:
            path = f"/environments/{image.key}/image"
            ready = await asking.last_word(
                self._builder, "the builder", path, body, notes, Reason.BUILD_FAILED
            )
            return str(ready["image"])

        try:
            return await asking.until_answered(ask, notes, run_id, "the builder", WAITING)
        except RefusedError as error:
            raise AttemptError(Reason.BUILD_FAILED, error.message) from error

    async def _asked(
        self, engine: Engine, run_id: int, request: EnvironmentRequest, notes: Notes
    ) -> Resolved:
        async def ask() -> Resolved:
            return await self._ask(engine, run_id, request, notes)

        return await asking.until_answered(ask, notes, run_id, "the builder", WAITING)

    async def _ask(self, engine: Engine, run_id: int, request: EnvironmentRequest, notes: Notes) -> Resolved:
        if request.latest:
            return await self._build(engine, run_id, request, notes)
        params: dict[str, str | int] = {"engine": engine}
        if engine == DOCKER or not request.bare:
            params["run_id"] = run_id
        path = f"/environments/resolved/{request.digest()}"
        try:
            found = await self._builder.call("GET", path, _RESOLVED, params=params)
        except NotFoundError:
            return await self._build(engine, run_id, request, notes)
        notes.line(CACHED)
        return found

    async def _build(
        self, engine: Engine, run_id: int, request: EnvironmentRequest, notes: Notes
    ) -> Resolved:
        body = {"run_id": run_id, "engine": engine, "environment": request.model_dump()}
        ready = await asking.last_word(
            self._builder, "the builder", "/environments/ensure", body, notes, Reason.BUILD_FAILED
        )
        if ready.get("cached"):
            notes.line(CACHED)
        return Resolved(key=ready["key"], path=ready["path"], pushing=ready.get("pushing", False))


def _pushing(found: Resolved, kind: str) -> str:
    return f"/environments/{found.key}/{kind}" if found.pushing else ""


def _is_here(found: Resolved) -> bool:
    """Whether what the builder names is on this machine; what is there may be another's."""
    begins = b'{"key": "%b"' % found.key.encode()
    try:
        fd = os.open(f"{found.path}/{MARKER}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, len(begins)) == begins and os.access(f"{found.path}/bin/python", os.X_OK)
    finally:
        os.close(fd)
