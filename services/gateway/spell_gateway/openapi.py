"""The OpenAPI 3.1 document, made from the route table and the shapes."""

import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from spell_gateway.routes import JSON, Param, Route
from spell_proto.service import version
from spell_proto.shapes import Shape
from spell_proto.spec import RunRequest

REFS = "#/components/schemas/{model}"
_PART = re.compile(r"\{(?P<name>[a-z_]+)(?::[^{}]*)?\}")

#: What any call that needs a token may be answered, besides its own.
_SHARED = {
    401: "there is no valid token",
    422: "a field is wrong; `field` names it",
    503: "a service does not answer right now; try again after a second",
}
_PATH_PARTS = {
    "id": {"type": "integer", "minimum": 1},
    "file": {"type": "integer", "minimum": 1},
    "key": {
        "type": "string",
        "pattern": "^[0-9a-f]{4,64}$",
        "description": "the key of an environment, or enough of it",
    },
    "host": {"type": "string", "description": "a host name, with a port where it is not 443"},
    "registry": {"type": "string", "description": "a registry, as names of its images begin with it"},
    "alias": {"type": "string", "minLength": 1, "maxLength": 100, "description": "the name of a link"},
    "scheme": {"type": "string", "enum": ["s3", "gs"]},
    "bucket": {"type": "string", "examples": ["team-data"]},
    "label": {"type": "string", "minLength": 1, "maxLength": 64},
    "path": {"type": "string", "maxLength": 4096, "examples": ["runs/7/model.joblib"]},
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    RunRequest.__name__: {
        "train": {
            "summary": "A training run with a package",
            "value": {
                "command": "python train.py",
                "machine_type": "CPU",
                "environment": {"pip": ["scikit-learn>=1.5"]},
                "env": {"EPOCHS": "3"},
                "labels": ["digits"],
                "timeout_seconds": 3600,
            },
        }
    }
}


class Refused(Shape):
    """Why a request was not carried out. Nothing was created, nothing was lost."""

    code: str
    field: str | None
    message: str
    hint: str | None


def public_path(route: Route) -> str:
    """The path as the document writes it: aiohttp's patterns are taken out of the braces."""
    return _PART.sub(r"{\g<name>}", route.path)


def document(routes: list[Route]) -> dict[str, Any]:
    """The whole document."""
    asked: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (route.body, "validation") for route in routes if route.body is not None
    ]
    answered: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (route.answer, "serialization") for route in routes if isinstance(route.answer, type)
    ]
    refused: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Refused, "serialization")]
    found, schemas = models_json_schema(list(dict.fromkeys(asked + answered + refused)), ref_template=REFS)
    names: Names = {(key, mode): ref for (key, mode), ref in found.items() if issubclass(key, BaseModel)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(public_path(route), {})[route.method.lower()] = _operation(route, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "spellrun",
            "version": version(),
            "summary": "Runs: create them, follow them, fetch what they made.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": [{"name": name} for name in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


Names = dict[tuple[type[BaseModel], JsonSchemaMode], dict[str, Any]]


def _operation(route: Route, names: Names) -> dict[str, Any]:
    parts = [match["name"] for match in _PART.finditer(route.path)]
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route, names),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARTS[name]} for name in parts
    ] + [_parameter(param) for param in route.params]
    if parameters:
        operation["parameters"] = parameters
    if route.text:
        operation["description"] = route.text
    if not route.needs_token:
        operation["security"] = []
    if route.body is not None:
        content: dict[str, Any] = {"schema": names[route.body, "validation"]}
        if route.body.__name__ in _EXAMPLES:
            content["examples"] = _EXAMPLES[route.body.__name__]
        operation["requestBody"] = {"required": True, "content": {JSON: content}}
    return operation


def _parameter(param: Param) -> dict[str, Any]:
    schema = {"type": "array", "items": param.schema} if param.repeated else param.schema
    return {"name": param.name, "in": param.where, "description": param.text, "schema": schema}


def _responses(route: Route, names: Names) -> dict[str, Any]:
    good = _content(route, names)
    responses: dict[str, Any] = {str(route.status): {"description": route.summary, **good}}
    refusal = {"content": {JSON: {"schema": names[Refused, "serialization"]}}}
    others = {**(_SHARED if route.needs_token else {}), **route.also}
    for status, text in sorted(others.items()):
        answer = {} if status == 304 else (refusal if status >= 400 else good)
        responses[str(status)] = {"description": text, **answer}
    return responses


def _content(route: Route, names: Names) -> dict[str, Any]:
    if route.answer is None:
        return {}
    if isinstance(route.answer, tuple):
        return {"content": {media: {"schema": {}} for media in route.answer}}
    return {"content": {JSON: {"schema": names[route.answer, "serialization"]}}}


def _operation_id(route: Route) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", _PART.sub(r"\g<name>", route.path.removeprefix("/api/")).lower())
    return f"{route.method.lower()}_{words}".strip("_")
