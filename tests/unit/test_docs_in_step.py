"""Generated documents are up to date, and the AsyncAPI document is valid."""

import gzip
import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest

from spell_proto import asyncapi

ROOT = Path(__file__).parents[2]


def _generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = _generator().GENERATED


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_a_generated_document_is_what_the_code_says(name):
    assert (ROOT / "docs" / name).read_text("utf-8") == GENERATED[name](), "stale: run `make docs`"


def test_the_asyncapi_document_is_valid():
    schema = json.loads(gzip.decompress((ROOT / "tests/fixtures/asyncapi-3.0.0.schema.json.gz").read_bytes()))
    jsonschema.validate(asyncapi.document(), schema)


def test_an_invalid_asyncapi_document_would_be_found():
    schema = json.loads(gzip.decompress((ROOT / "tests/fixtures/asyncapi-3.0.0.schema.json.gz").read_bytes()))
    broken = asyncapi.document() | {"channels": [1]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)
