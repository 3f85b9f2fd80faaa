"""Runs as a user asks for them: made, listed, ended, labelled."""

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import Coroutine
from typing import Any

from spell_gateway import machine_types
from spell_gateway.bounded import Bounded
from spell_gateway.builder import Builder
from spell_gateway.code import Code
from spell_gateway.mounting import Mounts
from spell_gateway.registries import Registries
from spell_gateway.room import Room
from spell_gateway.scheduler import Ending, Scheduler
from spell_gateway.shapes import Batch, BatchOutcome, Created, RunPlan, User
from spell_proto.engines import engines_needed
from spell_proto.environments import UseAsked, UseView
from spell_proto.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    shown,
)
from spell_proto.spec import EnvironmentRequest, RunRequest, RunSpec, canonical_json
from spell_proto.views import MachineTypeList, MachineTypeView, RunView

MACHINE_TYPES_KNOWN_MAX = 10_000
#: How old the list of machine types may be before a name that is not in it is refused.
MACHINE_TYPES_SECONDS = 0.5
#: How old it may be before a name that is in it is asked about again.
MACHINE_TYPES_BELIEVED_SECONDS = 60.0
TOGETHER_MAX = 8
#: So many earlier runs are looked through for one with another environment.
COMPARED_MAX = 100
#: The environment of a run in an image.
BARE = EnvironmentRequest()
_KEY = re.compile(r"[!-~]([ -~]{0,126}[!-~])?", re.ASCII)


def idempotency_key(value: str | None) -> str | None:
    """The header `Idempotency-Key`: 1 to 128 printable ASCII characters."""
    if value is not None and not _KEY.fullmatch(value):
        raise InvalidError(
            "idempotency_key_invalid",
            f"Idempotency-Key: {shown(value, 40)}: 1 to 128 printable ASCII characters are allowed",
            field="Idempotency-Key",
        )
    return value


class Runs:
    """What can be done with runs. Takes and returns typed values, whoever asks."""

    def __init__(
        self,
        scheduler: Scheduler,
        code: Code,
        builder: Builder,
        registries: Registries,
        mounts: Mounts,
        room: Room,
    ) -> None:
        self._scheduler = scheduler
        self._code = code
        self._builder = builder
        self._registries = registries
        self._mounts = mounts
        self._room = room
        self._machine_type_of: Bounded[int, str] = Bounded(MACHINE_TYPES_KNOWN_MAX)
        self._machine_types: MachineTypeList | None = None
        self._machine_types_at = 0.0

    async def create(self, user: User, request: RunRequest, key: str | None) -> Created:
        """Make a run; the same key and request again give the same run.

        Raises:
            InvalidError: there is no such machine type, or no machine of it can run that; code is not fetched from that
                host; or the environment cannot be made.
            ConflictError: the commit is not here, or the key was used for another request.
            NotFoundError, ConflictError: something cannot be mounted.
            RefusedError: quota_exceeded: what is saved of this user's is as much as he may have.
        """
        asked = canonical_json(request.model_dump())
        return await self._once(user, asked, key, self._created(user, request, asked, key))

    async def _created(self, user: User, request: RunRequest, asked: bytes, key: str | None) -> Created:
        await self._room.check(user.id)
        machine = await self._machine(
            request.machine_type, request.docker_image, request.environment, outside=request.outside
        )
        if request.github is not None:
            await self._code.check(request.github)
        await self._check_image(request)
        # Before the code is looked for: a client that has to push it hears of this first.
        mounts = await self._mounts.accept(user, request) if request.mounts else ()
        environment = machine_types.accelerated(
            request.environment, request.docker_image, machine, outside=request.outside
        )
        framework: str | None = None
        engine = machine_types.engine(environment, machine, outside=request.outside)
        image = (await self._builder.check(environment, engine)).image
        if image is not None:
            # A framework that is an image is a run in that image, and nothing else.
            environment, framework = BARE, request.environment.framework
            machine = await self._machine(machine.name, image, environment, "environment.framework")
        spec = RunSpec(
            command=request.command,
            machine_type=machine.name,
            environment=environment,
            env=request.env,
            code=None if request.code is None else await self._code.locate(user.id, request.code),
            github=request.github,
            description=request.description,
            timeout_seconds=request.timeout_seconds,
            docker_image=request.docker_image or image,
            framework=framework,
            mounts=mounts,
            save_every_seconds=request.save_every_seconds,
            no_save=request.no_save,
        )
        return await self._made(user, spec, request.labels, asked, key)

    async def _once(
        self, user: User, asked: bytes, key: str | None, making: Coroutine[Any, Any, Created]
    ) -> Created:
        """What `making` makes. Where that is refused, the same request may have made a run before: what has become of its
        mounts or machines since, or that its answer got lost, is no reason to say that there is none.
        """
        try:
            return await making
        except UnavailableError:
            raise
        except RefusedError as refused:
            if key is None or refused.code == "idempotency_conflict":
                raise
            try:
                made = await self._scheduler.made(user.id, key, hashlib.sha256(asked).hexdigest())
            except NotFoundError:
                raise refused from None
            return Created(run=made, replayed=True)

    async def _check_image(self, request: RunRequest) -> None:
        if request.docker_image is not None:
            await self._registries.check(request.docker_image)

    async def _made(
        self, user: User, spec: RunSpec, labels: tuple[str, ...], asked: bytes, key: str | None
    ) -> Created:
        made = await self._scheduler.create(
            owner_id=user.id,
            creator=user.name,
            idempotency_key=key,
            request_sha256=hashlib.sha256(asked).hexdigest(),
            spec=spec,
            labels=labels,
        )
        self._machine_type_of.put(made.run.id, made.run.spec.machine_type)
        return made

    async def again(self, user: User, run_id: int, key: str | None) -> Created:
        """Make a run that is exactly what another one was: code, command, variables, and environment where it got one.

        Raises:
            NotFoundError: there is no such run, or what it mounts is not there any more.
            InvalidError: its environment cannot be had any more, or no machine of its type can run it.
        """
        asked = canonical_json({"again": run_id})
        return await self._once(user, asked, key, self._again(user, run_id, asked, key))

    async def _again(self, user: User, run_id: int, asked: bytes, key: str | None) -> Created:
        await self._room.check(user.id)
        run = await self._scheduler.run(user.id, run_id)
        spec = await self._scheduler.spec(user.id, run_id)
        machine = await self._machine(
            spec.machine_type, spec.docker_image, spec.environment, outside=spec.outside
        )
        await self._mounts.still_there(user, spec.mounts)
        if not spec.environment.bare:
            with contextlib.suppress(NotFoundError):
                used = await self._builder.use(UseAsked(run_id=run_id))
                exact = {"key": used.detail.environment.key, "latest": False}
                environment = spec.environment.model_copy(update=exact)
                engine = machine_types.engine(environment, machine, outside=spec.outside)
                await self._builder.check(environment, engine)
                spec = spec.model_copy(update={"environment": environment})
        return await self._made(user, spec, run.labels, asked, key)

    async def plan(self, user: User, request: RunRequest) -> RunPlan:
        """What creating a run would do. Nothing is made.

        Raises:
            InvalidError: it could not be created.
        """
        await self._room.check(user.id)
        machine = await self._machine(
            request.machine_type, request.docker_image, request.environment, outside=request.outside
        )
        if request.github is not None:
            await self._code.check(request.github)
        await self._check_image(request)
        mounts = await self._mounts.accept(user, request)
        code_known: bool | None = None
        if request.code is not None:
            try:
                await self._code.locate(user.id, request.code)
                code_known = True
            except ConflictError:
                code_known = False
        listed = await self.machine_types()
        machine = next(item for item in listed.machine_types if item.name == machine.name)
        asked = machine_types.accelerated(
            request.environment, request.docker_image, machine, outside=request.outside
        )
        engine = machine_types.engine(asked, machine, outside=request.outside)
        environment = await self._builder.plan(asked, engine)
        if environment.image is not None:
            await self._machine(machine.name, environment.image, BARE, "environment.framework")
        return RunPlan(environment=environment, machine=machine, code_known=code_known, mounts=mounts)

    async def used_by(self, user: User, run_id: int) -> UseView:
        """The environment of a run, and how it differs from that of the last run with another one."""
        run = await self._scheduler.run(user.id, run_id)
        before = await self._scheduler.runs(user.id, limit=COMPARED_MAX, before=run_id)
        others = tuple(run.id for run in before.runs)
        used = await self._builder.use(UseAsked(run_id=run_id, others=others))
        return used.model_copy(update={"framework": run.spec.environment.framework or run.spec.framework})

    async def machine_type_of(self, owner_id: int, run_id: int) -> str:
        """The machine type a run asked for, which never changes. The caller knows that the run is the owner's."""
        known = self._machine_type_of.get(run_id)
        if known is None:
            known = (await self._scheduler.run(owner_id, run_id)).spec.machine_type
            self._machine_type_of.put(run_id, known)
        return known

    async def machine_types(self) -> MachineTypeList:
        """The list as it is now."""
        asked_at = time.monotonic()
        listed = await self._scheduler.machine_types()
        self._machine_types, self._machine_types_at = listed, asked_at
        return listed

    async def _machine(
        self,
        name: str | None,
        image: str | None,
        environment: EnvironmentRequest,
        field: str | None = None,
        *,
        outside: bool = False,
    ) -> MachineTypeView:
        """The type of machine for a run; `field` is what asks for the image, `outside` says that it mounts something
        outside the workspace. What the list does not allow is looked up in a newer one before it is refused: a machine
        of a new type may have come since it was read, or Docker may have been started.
        """
        needs = engines_needed(image, environment, outside=outside)
        field = field or machine_types.field(image, environment)
        # What types there are hardly ever changes; what their machines can do does.
        believed = MACHINE_TYPES_BELIEVED_SECONDS if needs is None else MACHINE_TYPES_SECONDS
        try:
            listed = await self._machine_types_lately(believed)
            return machine_types.pick(listed, name, needs, field)
        except InvalidError:
            listed = await self._machine_types_lately(MACHINE_TYPES_SECONDS)
            return machine_types.pick(listed, name, needs, field)

    async def _machine_types_lately(self, seconds: float) -> MachineTypeList:
        """The list as it was at most so long ago."""
        known = self._machine_types
        if known is None or time.monotonic() - self._machine_types_at > seconds:
            return await self.machine_types()
        return known

    async def end_all(self, user: User, batch: Batch, ending: Ending) -> BatchOutcome:
        """Stop or kill several runs. Each is tried; the outcome says what became of which."""
        became: dict[str, list[int]] = {"ending": [], "ended": [], "already_final": [], "unknown": []}
        free = asyncio.Semaphore(TOGETHER_MAX)

        async def end(run_id: int) -> None:
            async with free:
                try:
                    became[(await self._scheduler.end(user.id, run_id, ending)).outcome].append(run_id)
                except NotFoundError:
                    became["unknown"].append(run_id)

        try:
            async with asyncio.TaskGroup() as tasks:
                for run_id in dict.fromkeys(batch.run_ids):
                    tasks.create_task(end(run_id))
        except ExceptionGroup as group:
            # All of them failed for one cause, in all likelihood: the scheduler does not answer.
            raise group.exceptions[0] from None
        return BatchOutcome(**{name: tuple(sorted(ids)) for name, ids in became.items()})

    async def all_of(self, user: User, run_id: int | None, most: int) -> tuple[RunView, ...]:
        """One run, or the newest `most` of a user."""
        if run_id is not None:
            return (await self._scheduler.run(user.id, run_id),)
        return (await self._scheduler.runs(user.id, limit=most)).runs
