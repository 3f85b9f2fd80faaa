"""The AsyncAPI 3 document of the bus, generated from the message types."""

from importlib import metadata
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from spell_proto import subjects
from spell_proto.commands import BuildEnvironment, EndAttempt, StartAttempt
from spell_proto.events import AttemptReport, Heartbeat, HeartbeatAnswer, RunIntentChanged, RunMoved

MESSAGES: tuple[type[BaseModel], ...] = (
    RunMoved,
    RunIntentChanged,
    AttemptReport,
    Heartbeat,
    HeartbeatAnswer,
    StartAttempt,
    EndAttempt,
    BuildEnvironment,
)

#: channel -> (subject with parameters, what it carries, stream or None, messages, public?)
CHANNELS: dict[str, tuple[str, str, subjects.Stream | None, tuple[type[BaseModel], ...], bool]] = {
    "runMoved": (
        "spell.events.run.{runId}.moved",
        "A run has entered a state. Public: subscribe with the credentials of a subscriber.",
        subjects.EVENTS,
        (RunMoved,),
        True,
    ),
    "runIntent": (
        "spell.events.run.{runId}.intent",
        "A stop or kill of a run is wanted. Public.",
        subjects.EVENTS,
        (RunIntentChanged,),
        True,
    ),
    "reports": (
        "spell.reports.runner.{machineId}.{runId}",
        "What a machine says about an attempt it holds.",
        subjects.REPORTS,
        (AttemptReport,),
        False,
    ),
    "heartbeats": (
        "spell.heartbeats.{machineId}",
        "A request of a machine every few seconds: what it is and has.",
        None,
        (Heartbeat,),
        False,
    ),
    "heartbeatAnswers": (
        "{replyTo}",
        "The answer to a heartbeat: what the machine should have.",
        None,
        (HeartbeatAnswer,),
        False,
    ),
    "machineCommands": (
        "spell.commands.runner.{machineId}",
        "Hints to one machine. Nothing keeps them: a heartbeat makes up for a lost one.",
        None,
        (StartAttempt, EndAttempt),
        False,
    ),
    "builderCommands": (
        "spell.commands.builder",
        "Requests to build an environment ahead of time.",
        subjects.COMMANDS,
        (BuildEnvironment,),
        False,
    ),
}

PARAMETERS = {
    "runId": "The id of the run.",
    "machineId": "The id of the machine.",
    "replyTo": "The inbox that the heartbeat named.",
}


def _name(message: type[BaseModel]) -> str:
    return message.__name__[0].lower() + message.__name__[1:]


def _channel(subject: str, summary: str, messages: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": subject,
        "summary": summary,
        "messages": {_name(kind): {"$ref": f"#/components/messages/{_name(kind)}"} for kind in messages},
    }
    parameters = {
        name: {"description": text} for name, text in PARAMETERS.items() if "{" + name + "}" in subject
    }
    if parameters:
        channel["parameters"] = parameters
    return channel


def _plain_discriminators(value: Any) -> Any:
    """AsyncAPI wants the name of the member where OpenAPI wants an object."""
    if isinstance(value, list):
        return [_plain_discriminators(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {name: _plain_discriminators(member) for name, member in value.items()}
    if isinstance(plain.get("discriminator"), dict):
        plain["discriminator"] = plain["discriminator"]["propertyName"]
    return plain


def document() -> dict[str, Any]:
    """The document as a JSON-ready object."""
    _, schemas = models_json_schema(
        [(kind, "serialization") for kind in MESSAGES], ref_template="#/components/schemas/{model}"
    )
    channels = {
        name: _channel(subject, summary, messages)
        for name, (subject, summary, _, messages, _) in CHANNELS.items()
    }
    operations = {
        ("follow" if public else "receive") + name[0].upper() + name[1:]: {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": summary,
        }
        for name, (_, summary, _, _, public) in CHANNELS.items()
    }
    messages = {
        _name(kind): {
            "name": kind.__name__,
            "summary": (kind.__doc__ or "").strip().splitlines()[0],
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        }
        for kind in MESSAGES
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "spellrun messages",
            "version": metadata.version("spellrun"),
            "description": "What is said on the bus. A message may arrive twice, late, out of order or never: the "
            "`version` of a run tells what is new.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"bus": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "The NATS server."}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": _plain_discriminators(schemas["$defs"])},
    }
