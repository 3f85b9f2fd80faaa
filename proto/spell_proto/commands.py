"""Requests between services, in the imperative. They only hurry things: what must happen follows from Postgres."""

from typing import Annotated, Literal

from pydantic import Field

from spell_proto.engines import LOCAL, Engine
from spell_proto.events import Message
from spell_proto.spec import EnvironmentRequest
from spell_proto.state import Intent


class StartAttempt(Message):
    """To a machine: this attempt is yours. Fetch its spec with its fence and start it, unless you already have."""

    kind: Literal["start_attempt"] = "start_attempt"
    run_id: int
    attempt: int
    fence: int


class EndAttempt(Message):
    """To a machine: stop or kill this attempt. Harmless when repeated; never softens an earlier one."""

    kind: Literal["end_attempt"] = "end_attempt"
    run_id: int
    attempt: int
    fence: int
    intent: Intent


class SaveAttempt(Message):
    """To a machine: take a snapshot of this attempt, unless one was begun since the last of these `saves` was asked for."""

    kind: Literal["save_attempt"] = "save_attempt"
    run_id: int
    attempt: int
    fence: int
    saves: int


class BuildEnvironment(Message):
    """To the builder: a queued run will need this environment; build it ahead of time."""

    kind: Literal["build_environment"] = "build_environment"
    run_id: int
    environment: EnvironmentRequest
    engine: Engine = LOCAL


MachineCommand = Annotated[StartAttempt | EndAttempt | SaveAttempt, Field(discriminator="kind")]
Command = Annotated[StartAttempt | EndAttempt | SaveAttempt | BuildEnvironment, Field(discriminator="kind")]
