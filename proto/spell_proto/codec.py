"""Message ⇄ JSON bytes. Unknown kinds and unknown major versions are told apart from garbage."""

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from spell_proto.commands import Command, MachineCommand
from spell_proto.errors import CodecError
from spell_proto.events import AttemptReport, Fact, Heartbeat, HeartbeatAnswer, RunIntentChanged, RunMoved

T = TypeVar("T")

FACT: TypeAdapter[RunMoved | RunIntentChanged] = TypeAdapter(Fact)
REPORT: TypeAdapter[AttemptReport] = TypeAdapter(AttemptReport)
MACHINE_COMMAND: TypeAdapter[Any] = TypeAdapter(MachineCommand)
COMMAND: TypeAdapter[Any] = TypeAdapter(Command)
HEARTBEAT: TypeAdapter[Heartbeat] = TypeAdapter(Heartbeat)
HEARTBEAT_ANSWER: TypeAdapter[HeartbeatAnswer] = TypeAdapter(HeartbeatAnswer)


def encode(message: BaseModel) -> bytes:
    """The JSON bytes of a message or a shape: times in RFC 3339 with zone, enums as their values."""
    return orjson.dumps(message.model_dump())


def decode(adapter: TypeAdapter[T], data: bytes) -> T:
    """The message in `data`.

    Raises:
        CodecError: the bytes are not JSON, or not a message of this kind and major version; one line says why.
    """
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise CodecError(f"{where}: {first['msg']}") from None
