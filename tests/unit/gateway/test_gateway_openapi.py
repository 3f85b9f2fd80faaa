"""The OpenAPI document is valid, complete, and true to the route table."""

import json
import re

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from spell_gateway import openapi
from spell_gateway.accounts_api import AccountsApi
from spell_gateway.app import public_app
from spell_gateway.files_api import FilesApi
from spell_gateway.follow_api import FollowApi
from spell_gateway.runs_api import RunsApi
from spell_gateway.service_api import ServiceApi
from spell_proto.spec import RunRequest

#: OpenAPI 3.1's structure, as far as this document uses it.
STRUCTURE = {
    "type": "object",
    "required": ["openapi", "info", "paths", "components"],
    "additionalProperties": False,
    "properties": {
        "openapi": {"const": "3.1.0"},
        "info": {"type": "object", "required": ["title", "version"]},
        "servers": {"type": "array", "items": {"type": "object", "required": ["url"]}},
        "security": {"type": "array"},
        "tags": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        "components": {"type": "object", "required": ["schemas", "securitySchemes"]},
        "paths": {
            "type": "object",
            "patternProperties": {
                "^/": {
                    "type": "object",
                    "propertyNames": {"enum": ["get", "head", "put", "post", "patch", "delete"]},
                    "additionalProperties": {"$ref": "#/$defs/operation"},
                }
            },
            "additionalProperties": False,
        },
    },
    "$defs": {
        "operation": {
            "type": "object",
            "required": ["operationId", "summary", "responses", "tags"],
            "properties": {
                "parameters": {"type": "array", "items": {"$ref": "#/$defs/parameter"}},
                "requestBody": {"$ref": "#/$defs/content", "required": ["content"]},
                "responses": {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": {"pattern": "^[1-5][0-9][0-9]$"},
                    "additionalProperties": {"$ref": "#/$defs/content", "required": ["description"]},
                },
            },
        },
        "parameter": {
            "type": "object",
            "required": ["name", "in", "schema"],
            "properties": {"in": {"enum": ["query", "path", "header"]}, "schema": {"type": "object"}},
            "if": {"properties": {"in": {"const": "path"}}},
            "then": {"required": ["required"], "properties": {"required": {"const": True}}},
        },
        "content": {
            "type": "object",
            "properties": {
                "content": {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {"type": "object", "required": ["schema"]},
                }
            },
        },
    },
}


def routes():
    """The real table; its handlers are not called here."""
    parts = (RunsApi, FollowApi, FilesApi, AccountsApi, ServiceApi)
    return [route for part in parts for route in object.__new__(part).routes()]


@pytest.fixture(scope="module")
def document():
    return openapi.document(routes())


def test_the_document_has_the_structure_of_openapi(document):
    Draft202012Validator.check_schema(STRUCTURE)

    problems = [error.message for error in Draft202012Validator(STRUCTURE).iter_errors(document)]

    assert problems == []


def test_every_route_is_described_and_nothing_else(document):
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    app = public_app(routes(), None)
    served = {
        (route.method, re.sub(r"\{([a-z_]+):[^{}]*\}", r"{\1}", route.resource.canonical))
        for route in app.router.routes()
        if route.method != "HEAD"
    }

    assert described == served


def test_every_reference_leads_somewhere_and_every_schema_is_one(document):
    text = str(document)
    references = set(re.findall(r"#/components/schemas/([A-Za-z0-9_-]+)", text))

    assert references <= set(document["components"]["schemas"])
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_operations_have_names_of_their_own_and_all_path_parts(document):
    names = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            names.append(operation["operationId"])
            given = {item["name"] for item in operation.get("parameters", []) if item["in"] == "path"}
            assert given == set(re.findall(r"\{([a-z_]+)\}", path)), path

    assert len(names) == len(set(names))


def test_examples_are_what_the_schemas_and_the_server_accept(document):
    registry = Registry().with_resource(
        "urn:doc",
        Resource.from_contents({**document, "$schema": "https://json-schema.org/draft/2020-12/schema"}),
    )
    found = 0
    for methods in document["paths"].values():
        for operation in methods.values():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                schema = {"$ref": "urn:doc" + media["schema"]["$ref"]}
                for example in media.get("examples", {}).values():
                    Draft202012Validator(schema, registry=registry).validate(example["value"])
                    RunRequest.model_validate_json(json.dumps(example["value"]))
                    found += 1

    assert found >= 1


def test_only_descriptions_and_health_are_open(document):
    unguarded = [
        path
        for path, methods in document["paths"].items()
        for item in methods.values()
        if item.get("security") == []
    ]

    assert sorted(unguarded) == ["/api/asyncapi.json", "/api/health", "/api/openapi.json"]
